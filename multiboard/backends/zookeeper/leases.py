# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The verbs of the ZooKeeper backend that give, keep and end leases.

A claim makes the lease's node and notes it in the posting's state; what ends a lease deletes that
very node in the same transaction as all else it does. This module imports the primitives, the
errors and its own siblings.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kazoo.protocol import serialization as wire

from multiboard import errors, primitives
from multiboard.backends.zookeeper import records
from multiboard.backends.zookeeper.client import Link, Outcome
from multiboard.backends.zookeeper.feed import Feed, Place
from multiboard.backends.zookeeper.records import Seen
from multiboard.backends.zookeeper.session import Board, NodeExists
from multiboard.primitives import Damage, FailureLog, Lease, Posting, Shelf

#: Keys and states that are remembered to save a look before a claim or an end.
REMEMBERED = 100_000
#: How often a step is tried anew because somebody else was faster, each time at something else.
TRIES = 30

LOG = logging.getLogger(__name__)


class Contended(errors.Unavailable):
    """Whatever was tried at one posting was refused, and yet it looks as if it could be done."""


class Leases(primitives.Backend):
    """The half of the backend that deals with leases."""

    _board: Board
    _feed: Feed | None

    def _forget(self) -> None:
        """Forget what was learned of the postings."""
        #: The serials of postings that nobody ever claimed.
        self._fresh: dict[str, int] = {}
        self._states: dict[str, records.State] = {}
        self._spent = primitives.SpentClaims()
        self._passed_over = FailureLog(LOG, "A posting is passed over")

    def _note_fresh(self, postings: Iterable[Posting]) -> None:
        """Remember that nobody ever claimed these: a claim of one needs no look before."""
        if len(self._fresh) > REMEMBERED:
            self._fresh = {}
        self._fresh.update((posting.key, posting.serial) for posting in postings)

    def _open_feed(self) -> Feed:
        if self._feed is None:
            raise errors.Closed("the ZooKeeper board was not opened")
        return self._feed

    @staticmethod
    def _raise(troubles: Sequence[errors.MultiboardError]) -> None:
        """Raise what concerns a whole call; the unknown before the surely not applied."""
        for trouble in troubles:
            if not isinstance(trouble, errors.Unavailable):
                raise trouble
        if troubles:
            raise troubles[0]

    def _trouble(
        self,
        link: Link,
        outcome: Outcome,
        what: tuple[Any, ...],
        troubles: list[errors.MultiboardError],
    ) -> None:
        """Take in a write that failed as no answer about the posting explains."""
        if outcome.doubt is not None:
            self._board.memory.doubt(what, outcome.doubt)
        if outcome.error is None:
            self._board.confirm(link)
            outcome.error = errors.BackendError(f"ZooKeeper refused it: {outcome.refused!r}")
        troubles.append(outcome.error)

    # -- leasing ---------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        link = self._board.session() if expires_in is None else self._board.link()
        return self._acquire(link, key, records.Hold(holder, claim_id, expires_in))

    def _acquire(self, link: Link, key: str, hold: records.Hold) -> Lease:
        serial = self._fresh.pop(key, None)
        if serial is not None:
            lease = self._claim(link, key, hold, serial)
            if lease is not None:
                return lease
        for attempt in range(TRIES):
            # The second time somebody was faster, or our server is behind: have the truth.
            seen = self._board.look(link, [key], fresh=attempt > 0)[0]
            if not isinstance(seen, Seen):
                if attempt:
                    raise errors.PostingNotFound(key)
                continue
            now = self._board.time_for(link, [seen])
            current = seen.lease(now)
            if current is None:
                lease = self._claim(link, key, hold, seen)
                if lease is not None:
                    return lease
            elif attempt:
                if (current.claim_id, current.session) != (hold.claim_id, _session(link, hold)):
                    raise errors.LeaseHeld(key, current.holder)
                self._remember(key, seen.state)
                return current
        raise Contended(f"posting {key!r} changes hands too fast")

    def _claim(self, link: Link, key: str, hold: records.Hold, known: Seen | int) -> Lease | None:
        """Try to lease a posting as it was seen; None if it is otherwise.

        Of one that nobody ever claimed the serial is enough.
        """
        state, operations = self._claim_operations(link, key, hold, known)
        outcome = link.commit([(operations, None)])[0]
        if outcome.error is not None:
            if hold.expires_in is None:
                self._board.session_over(link)
            raise outcome.error
        return None if outcome.refused is not None else self._leased(link, key, hold, state)

    def _leased(self, link: Link, key: str, hold: records.Hold, state: records.State) -> Lease:
        self._remember(key, state)
        session = _session(link, hold)
        return Lease(key, hold.holder, hold.claim_id, state.token, session, hold.expires_in)

    def _claim_operations(
        self, link: Link, key: str, hold: records.Hold, known: Seen | int
    ) -> tuple[records.State, list[Any]]:
        seen = None if isinstance(known, int) else known
        paths = self._board.paths
        mark = records.claim_mark(hold.claim_id)
        suffix = f"{mark}~{'s' if hold.expires_in is None else 't'}"
        path = f"{paths.states}/{key}"
        born = uuid.uuid4().hex[:16]
        operations: list[Any] = [wire.CheckVersion(f"{paths.live}/{key}", -1)]
        state = (
            records.State(known + 1, 1, 0, born, suffix)
            if isinstance(known, int)
            else known.claimed(suffix, born)
        )
        if seen is None or seen.state_stat is None:
            operations.append(link.create(path, state.encode()))
        else:
            operations.append(wire.SetData(path, state.encode(), seen.state_stat.version))
        if state.born == born:
            operations.append(link.create(f"{path}/{born}", b""))
        else:
            # A state that was made anew counts its versions from 0 again; its child is unique.
            operations.append(wire.CheckVersion(f"{path}/{state.born}", -1))
        if seen is not None and seen.hold is not None:  # a timed lease that is over
            ended = f"{paths.leases}/{seen.lease_name}"
            operations.append(wire.Delete(ended, seen.hold_stat.version))
        node = f"{paths.leases}/{key}~{state.token}~{suffix}"
        ephemeral = hold.expires_in is None
        operations.append(link.create(node, hold.encode(), ephemeral=ephemeral))
        return state, operations

    def _remember(self, key: str, state: records.State | None) -> None:
        """Keep the state that a lease stands for: nobody writes it while the lease is there."""
        if state is not None:
            if len(self._states) > REMEMBERED:
                self._states = {}
            self._states[f"{key}~{state.token}~{state.lease}"] = state

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board, feed = self._board, self._open_feed()
        link = board.session() if expires_in is None else board.link()
        feed.ensure(link, ordered=True)
        if not feed.recursive:
            return super().acquire_next(holder, claim_ids, expires_in)
        epoch = link.epoch
        link.ask([wire.Sync(board.paths.live)])  # every change known before it has been told
        if not feed.ordered:
            raise errors.Unavailable("the connection to ZooKeeper was lost meanwhile")
        feed.look_after(link, board.now, wait=True)
        session = link.id if expires_in is None else None
        wanted = [claim_id for claim_id in claim_ids if claim_id not in self._spent]
        won: list[tuple[Posting, Lease]] = []
        mine = feed.claimed_as({records.claim_mark(claim_id) for claim_id in wanted})
        for posting in self.get(mine) if mine else ():
            lease = None if posting is None else posting.lease
            if posting and lease and lease.claim_id in wanted and lease.session == session:
                wanted.remove(lease.claim_id)
                won.append((posting, lease))
        won.sort(key=lambda pair: pair[0].place)
        self._learn(link, feed.unknown())
        earliest = board.now(link).earliest if feed.has_delayed() else 0.0
        for key, place in feed.candidates(earliest):
            if not wanted:
                break
            hold = records.Hold(holder, wanted[0], expires_in)
            pair = self._claim_first(link, key, hold, place.place[1]) if place.fresh else None
            if pair is None:
                try:
                    lease = self._acquire(link, key, hold)
                except (errors.LeaseHeld, errors.PostingNotFound):
                    continue
                except Contended as error:
                    # Or our server shows what the others don't hold: that must not stop us.
                    self._passed_over.failed(error)
                    continue
                posting = self.get([key])[0]
                if posting is None or posting.lease is None:
                    continue
                pair = (posting, lease)
            wanted.pop(0)
            won.append(pair)
        if wanted:
            # That there is no more is the truth only if the server that was asked is one of those
            # who agree now, and so was one of them then.
            board.confirm(link)
            if link.epoch != epoch:
                raise errors.Unavailable("the connection to ZooKeeper was lost meanwhile")
        return won

    def _learn(self, link: Link, receipts: dict[str, object]) -> None:
        """Look up postings for the order that the feed keeps."""
        feed, keys = self._open_feed(), list(receipts)
        for start in range(0, len(keys), 1000):  # so that not all bodies are here at once
            part = keys[start : start + 1000]
            places: dict[str, Place | None] = {}
            for key, seen in zip(part, self._board.look(link, part), strict=True):
                if isinstance(seen, Seen):
                    place = (seen.job.rank, seen.stat.czxid)
                    places[key] = Place(place, seen.due, seen.state_stat is None)
                else:
                    places[key] = None
            feed.learn(receipts, places)

    def _claim_first(
        self, link: Link, key: str, hold: records.Hold, serial: int
    ) -> tuple[Posting, Lease] | None:
        """Lease a posting that nobody ever claimed, and read it, in one round trip."""
        state, operations = self._claim_operations(link, key, hold, serial)
        reading: list[Any] = []

        def claim_and_read() -> Iterator[tuple[Sequence[Any], bytes]]:
            yield operations, self._board.memory.evidence("claim", key)
            # The claim was sent by now; what is read behind it nobody else can take away.
            reading.append(link.submit(wire.GetData(f"{self._board.paths.live}/{key}", None)))

        outcome = link.commit(claim_and_read())[0]
        if outcome.error is not None:
            if hold.expires_in is None:
                self._board.session_over(link)
            raise outcome.error
        if outcome.stat is None:
            return None
        lease = self._leased(link, key, hold, state)
        live = link.value(reading[0])
        try:
            job, stat = records.Job.decode(live[0]), live[1]
        except (ValueError, TypeError):
            return None  # somebody overwrote it this very moment
        created, claimed = (job.created or stat.ctime) / 1000.0, outcome.stat.mtime / 1000.0
        serial = stat.czxid
        return (
            Posting(key, job.rank, serial, job.body, 1, 0, created, claimed, 0.0, lease),
            lease,
        )

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        link = self._board.link()
        for attempt in range(TRIES):
            # A session lease is only looked at: what is seen must be the truth at once.
            fresh = attempt > 0 or lease.session is not None
            seen = self._board.look(link, [lease.key], fresh=fresh)[0]
            now = self._board.time_for(link, [seen])
            lost = self._lost(lease, seen, now)
            if lost is not None:
                if fresh:
                    raise lost
                continue
            assert isinstance(seen, Seen)
            assert seen.hold is not None
            found, ends = seen.lease(now), seen.ends
            if found is not None and ends is None:
                return found
            path = f"{self._board.paths.leases}/{seen.lease_name}"
            hold = records.Hold(seen.hold.holder, seen.hold.claim_id, expires_in)
            renewal = wire.SetData(path, hold.encode(), seen.hold_stat.version)
            outcome = link.commit([([renewal], None)])[0]
            if outcome.error is not None:
                raise outcome.error
            if outcome.results is None:
                continue
            stat = outcome.results[0]
            if ends is not None and stat.mtime >= ends:
                # It ended while the renewal was on its way, and nobody had noticed yet.
                link.commit([([wire.Delete(path, stat.version)], None)])
                raise errors.LeaseLost(lease.key, lease.token)
            return Lease(lease.key, hold.holder, hold.claim_id, lease.token, None, hold.expires_in)
        raise errors.Unavailable(f"the lease on {lease.key!r} changes too fast")

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        error = self._end([lease], "release", delay)[0]
        if error is not None:
            raise error

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        return self._end(leases, "remove" if to is None else "trash")

    # -- ending ----------------------------------------------------------------------------------

    def _end(
        self, leases: Sequence[Lease], how: str, delay: float = 0.0
    ) -> list[errors.MultiboardError | None]:
        """End leases by removing, trashing or releasing their postings."""
        board, memory = self._board, self._board.memory
        link = board.link()
        answers: dict[int, errors.MultiboardError | None] = {}
        unknown: set[int] = set()
        for index, lease in enumerate(leases):
            what = (how, records.lease_name(lease))
            applied = bool(memory.done(what)) or memory.resolve(what, link)
            if applied:
                memory.note(what)
                self._spent.note(lease.claim_id)
                answers[index] = None
            elif applied is None:
                unknown.add(index)
        seen = self._look_where_needed(link, leases, how, skip=answers)
        now = board.time_for(link, seen.values())
        writes: dict[int, tuple[Sequence[Any], bytes]] = {}
        again: list[int] = []
        for index, lease in enumerate(leases):
            if index in answers:
                continue
            found = seen.get(index)
            if index in seen and self._lost(lease, found, now) is not None:
                again.append(index)
            else:
                operations = self._end_operations(link, lease, how, delay, found)
                writes[index] = (operations, memory.evidence(how, lease.key))
        troubles: list[errors.MultiboardError] = []
        for index, outcome in zip(writes, link.commit(writes.values()), strict=True):
            what = (how, records.lease_name(leases[index]))
            if outcome.stat is not None:
                self._ended(what, leases[index])
                answers[index] = None
            elif outcome.refused is not None:
                again.append(index)
            else:
                self._trouble(link, outcome, what, troubles)
        self._raise(troubles)
        for index in again:
            known = index not in unknown
            answers[index] = self._end_again(link, leases[index], how, delay, known=known)
        return [answers[index] for index in range(len(leases))]

    def _ended(self, what: tuple[str, str], lease: Lease) -> None:
        self._board.memory.note(what)
        self._spent.note(lease.claim_id)
        self._states.pop(what[1], None)

    def _look_where_needed(
        self, link: Link, leases: Sequence[Lease], how: str, skip: Mapping[int, Any]
    ) -> dict[int, Seen | Damage | None]:
        """Look at the postings of which more has to be known than their lease."""
        needed = [
            index
            for index, lease in enumerate(leases)
            if index not in skip
            and (
                lease.session is None
                or how == "trash"
                or records.lease_name(lease) not in self._states
            )
        ]
        found = self._board.look(link, [leases[index].key for index in needed])
        return dict(zip(needed, found, strict=True))

    @staticmethod
    def _lost(
        lease: Lease, seen: Seen | Damage | None, now: records.Now
    ) -> errors.MultiboardError | None:
        """Tell why a lease is not current; None where it is."""
        if not isinstance(seen, Seen):
            return errors.PostingNotFound(lease.key)
        if seen.state is None or seen.state.token != lease.token:
            return errors.LeaseLost(lease.key, lease.token)
        if not seen.held(now, by_holder=True):
            return errors.LeaseLost(lease.key, lease.token)
        if seen.hold is not None and seen.hold.claim_id != lease.claim_id:
            # A posting of the same key was made anew, and its tokens began anew with it.
            return errors.LeaseLost(lease.key, lease.token)
        return None

    def _end_again(
        self, link: Link, lease: Lease, how: str, delay: float, *, known: bool
    ) -> errors.MultiboardError | None:
        """End a lease with the whole truth at hand; return why it can't be."""
        board = self._board
        what = (how, records.lease_name(lease))
        for _ in range(TRIES):
            if board.memory.done(what):
                return None  # the same lease stands in the batch twice
            seen = board.look(link, [lease.key], fresh=True)[0]
            now = board.time_for(link, [seen])
            lost = self._lost(lease, seen, now)
            if lost is not None:
                if not known and how == "release" and records.given_back(lease, seen):
                    self._ended(what, lease)
                    return None
                if not known and not records.died(lease, seen):
                    raise errors.Indeterminate(
                        f"whether the {how} of posting {lease.key!r} was applied can't be known "
                        "any more: the session that would tell has ended"
                    )
                return lost
            operations = self._end_operations(link, lease, how, delay, seen)
            evidence = board.memory.evidence(how, lease.key)
            outcome = link.commit([(operations, evidence)])[0]
            if outcome.stat is not None:
                self._ended(what, lease)
                return None
            if outcome.refused is None:
                troubles: list[errors.MultiboardError] = []
                self._trouble(link, outcome, what, troubles)
                self._raise(troubles)
            elif isinstance(outcome.refused[1], NodeExists):
                return errors.PostingExists(lease.key, "the trash holds something of that name")
        raise errors.Unavailable(f"the lease on {lease.key!r} changes too fast")

    def _end_operations(
        self, link: Link, lease: Lease, how: str, delay: float, found: Any
    ) -> list[Any]:
        paths, key = self._board.paths, lease.key
        seen = found if isinstance(found, Seen) else None
        state = seen.state if seen is not None else self._states[records.lease_name(lease)]
        assert state is not None
        name = records.lease_name(lease) if seen is None else seen.lease_name
        version = -1 if seen is None or seen.ends is None else seen.hold_stat.version
        end_lease = wire.Delete(f"{paths.leases}/{name}", version)
        if how == "release":
            given_back = records.State(
                state.token, state.attempts, state.deaths, state.born, None, delay
            )
            return [
                wire.SetData(paths.leases, b"", -1),  # tells the watchers: no death
                end_lease,
                wire.SetData(f"{paths.states}/{key}", given_back.encode(), -1),
            ]
        removal = [
            wire.Delete(f"{paths.live}/{key}", -1),
            wire.Delete(f"{paths.states}/{key}/{state.born}", -1),
            wire.Delete(f"{paths.states}/{key}", -1),
            end_lease,
        ]
        if how == "remove":
            return removal
        assert seen is not None
        trashed = records.Trashed(
            seen.job.rank,
            seen.job.body,
            seen.job.created or seen.stat.ctime,
            seen.stat.czxid,
            state.attempts,
            state.deaths,
            state.token,
        )
        return [
            wire.SetData(paths.live, b"", -1),  # tells the watchers: a move, no removal
            *removal,
            link.create(f"{paths.trash}/{key}", trashed.encode()),
        ]


def _session(link: Link, hold: records.Hold) -> str | None:
    """Return the session that a lease lives by."""
    return link.id if hold.expires_in is None else None
