# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The verbs of the etcd backend that give, keep and end leases.

A claim makes the lease's key and counts itself in the posting's record; what ends a lease compares
the revision that made that very key. This module imports the primitives, the errors and its own
siblings.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.etcd import messages
from multiboard.backends.etcd.board import STEPS, Board, Compacted, LeaseGone, Outcome, Step, wall
from multiboard.backends.etcd.expiry_timer import Warden
from multiboard.backends.etcd.feed import Feed
from multiboard.backends.etcd.order import Order
from multiboard.backends.etcd.records import Head, Held, Hold, Seen
from multiboard.primitives import Damage, Lease, Posting, Shelf, boottime

#: How often a step is tried anew because somebody else was faster, each time at something else.
TRIES = 100
#: Postings and leases that are remembered to save a look before a step.
REMEMBERED = 20_000


class Recent(OrderedDict[Any, Any]):
    """A dictionary that forgets the oldest."""

    def note(self, key: Any, value: Any) -> None:
        """Remember something, as the newest."""
        self[key] = value
        while len(self) > REMEMBERED:
            try:
                self.popitem(last=False)
            except KeyError:  # another thread was faster
                return


class Leases(primitives.Backend):
    """The half of the backend that deals with leases."""

    _board: Board
    _feed: Feed
    _warden: Warden

    def _forget(self) -> None:
        """Begin without anything known of the postings, and with nothing that another may lock."""
        self._warden = Warden(self._board)
        self._feed = Feed(self._board, self._warden)
        #: Postings as they were last seen, and the leases given here.
        self._known = Recent()
        self._given = Recent()
        self._asked_for = Recent()
        self._in_doubt = False
        self._spent = primitives.SpentClaims()

    # -- leasing ---------------------------------------------------------------------------------

    def acquire(
        self, key: str, holder: str, claim_id: str, expires_in: float | None = None
    ) -> Lease:
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        board = self._board
        session = board.session() if expires_in is None else 0
        seen: Seen | Damage | None = self._known.pop(key, None)
        if seen is None:
            ((seen, _),) = board.look([key])
        for _ in range(TRIES):
            if not isinstance(seen, Seen):
                raise errors.PostingNotFound(key)
            if seen.held is not None:
                hold = seen.held.hold
                if (hold.claim_id, seen.held.lease) == (claim_id, session):
                    return seen.held.shown(board.left(seen.held))
                raise errors.LeaseHeld(key, hold.holder)
            hold = self._hold(holder, claim_id, expires_in)
            step, head = self._claim(seen, hold, session)
            (outcome,) = self._commit_claims([step], session)
            if outcome.done:
                return self._won(seen, head, hold, session, outcome)
            # The truth, and without a lease that is over.
            seen = self._failed(key, outcome)
            if isinstance(seen, Seen) and seen.held is not None and seen.held.timed:
                ((seen, _),) = board.look([key])
        raise errors.Unavailable(f"posting {key!r} changes hands too fast")

    def _hold(self, holder: str, claim_id: str, expires_in: float | None) -> Hold:
        since = None if expires_in is None else self._board.clock.stamp()
        return Hold(holder, claim_id, expires_in, since)

    def _claim(
        self, seen: Seen, hold: Hold, session: int, *, body: bool = False
    ) -> tuple[Step, Head]:
        """Return the step that leases a posting, and reads its body where that is asked for."""
        keys, key = self._board.keys, seen.key
        head = seen.claimed(wall())
        live, lease = keys.of("live", key), keys.of("leases", key)
        compare = [messages.unchanged(live, seen.revision), messages.created(lease, 0)]
        success = [
            messages.put(live, head.encode()),
            messages.put(lease, hold.encode(), session),
        ]
        if body:
            success.append(messages.read(keys.of("bodies", key)))
        return Step(compare, success, [messages.read(live), messages.read(lease)]), head

    def _commit_claims(
        self,
        steps: Sequence[Step],
        session: int,
        compare: Sequence[Any] = (),
        *,
        fence: bool = False,
    ) -> list[Outcome]:
        try:
            return self._board.commit(steps, compare=compare, fence=fence)
        except LeaseGone:
            raise self._board.session_over(session) from None

    def _won(self, seen: Seen, head: Head, hold: Hold, session: int, outcome: Outcome) -> Lease:
        held = Held(seen.key, hold, outcome.revision, outcome.revision, session)
        now = Seen(seen.key, head, seen.serial, outcome.revision, held)
        self._given.note((seen.key, held.token), now)
        self._warden.note(held)
        return held.shown(hold.expires_in)

    def _failed(self, key: str, outcome: Outcome) -> Seen | Damage | None:
        """Return what a step found instead of what it was meant for."""
        live, lease = outcome.kv(0), outcome.kv(1)
        if live is None:
            return None
        try:
            return Seen.read(key, live, lease)
        except ValueError as error:
            return Damage(self._board.keys.of("live", key).decode(), str(error))

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None = None
    ) -> Sequence[tuple[Posting, Lease]]:
        board, feed, patience = self._board, self._feed, self._board.client.patience
        session = board.session() if expires_in is None else 0
        feed.ensure(patience)
        feed.wait_for(self._warden.settle(), patience)
        won: list[tuple[Posting, Lease]] = []
        wanted = [claim_id for claim_id in claim_ids if claim_id not in self._spent]
        if self._in_doubt or any(claim_id in self._asked_for for claim_id in wanted):
            won = self._won_before(wanted, session)
            wanted = [c for c in wanted if c not in {lease.claim_id for _, lease in won}]
        for claim_id in wanted:
            self._asked_for.note(claim_id, True)
        tried: set[str] = set()
        synced = False
        while wanted:
            self._sort_out()
            with feed.changed:
                first = feed.order.first(min(len(wanted), STEPS), tried)
                news = feed.order.news
            if not first:
                if synced or not self._catch_up(news):
                    break
                synced = True
                continue
            compare = [] if synced else [messages.unchanged(board.keys.news, news)]
            pairs = list(zip(first, wanted, strict=False))
            claims = []
            for seen, claim_id in pairs:
                hold = self._hold(holder, claim_id, expires_in)
                claims.append((*self._claim(seen, hold, session, body=True), hold))
            try:
                outcomes = self._commit_claims(
                    [step for step, _, _ in claims], session, compare, fence=True
                )
            except errors.Indeterminate:
                self._in_doubt = True
                raise
            if not outcomes:  # there is news: have it first
                self._catch_up(news)
                synced = True
                continue
            for (seen, claim_id), (_, head, hold), outcome in zip(
                pairs, claims, outcomes, strict=True
            ):
                tried.add(seen.key)
                if not outcome.done:
                    continue
                body = outcome.kv(2)
                lease = self._won(seen, head, hold, session, outcome)
                wanted.remove(claim_id)
                now = self._given[seen.key, lease.token]
                feed.change(functools.partial(_put_newer, now))
                if body is not None:
                    won.append((self._posting(now, body.value), lease))
        return won

    def _won_before(self, claim_ids: Sequence[str], session: int) -> list[tuple[Posting, Lease]]:
        """Return what claims hold already, by an attempt whose answer may have been lost."""
        board, feed = self._board, self._feed
        if self._in_doubt:
            board.close_fence()  # what was sent and not answered is done by now, or never
            self._in_doubt = False
        feed.wait_for(board.tick(), board.client.patience)
        with feed.changed:
            mine = [seen.key for c in claim_ids if (seen := feed.order.claimed_as(c)) is not None]
        won = []
        for found, body in board.look(mine, bodies=True):
            held = found.held if isinstance(found, Seen) else None
            if held is None or held.lease != session or held.hold.claim_id not in claim_ids:
                continue
            assert isinstance(found, Seen)
            self._given.note((found.key, held.token), found)
            posting = self._posting(found, body)
            assert posting.lease is not None
            won.append((posting, posting.lease))
        return sorted(won, key=lambda pair: pair[0].place)

    def _posting(self, seen: Seen, body: bytes) -> Posting:
        return seen.posting(body, self._board.due_in(seen), self._board.left(seen.held))

    def _sort_out(self) -> None:
        """Find out which of the postings that were held back are due."""
        feed = self._feed
        with feed.changed:
            undecided = feed.order.undecided(boottime())
        for seen in undecided:
            due_in = self._board.due_in(seen)
            due_at = boottime() + due_in if due_in > 0 else None
            feed.change(functools.partial(_decide, seen, due_at))

    def _catch_up(self, news: int) -> bool:
        """Wait for the news, where there is some since the revision given; tell whether there was.

        The last of it is what every write before this call has left behind.
        """
        (answer,) = self._board.ask([messages.read(self._board.keys.news)]).responses
        latest = answer.response_range.kvs[0].mod_revision if answer.response_range.kvs else 0
        self._feed.wait_for(latest, self._board.client.patience)
        return bool(latest > news)

    # -- keeping ---------------------------------------------------------------------------------

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        board, key = self._board, lease.key
        for _ in range(TRIES):
            ((seen, _),) = board.look([key])
            held = self._current(lease, seen)
            if not held.timed:
                return held.shown(None)
            hold = dataclasses.replace(held.hold, expires_in=expires_in, since=board.clock.stamp())
            raw = board.keys.of("leases", key)
            step = Step(
                [messages.unchanged(raw, held.revision)], [messages.put(raw, hold.encode())]
            )
            (outcome,) = board.commit([step])
            if outcome.done:
                renewed = Held(key, hold, held.token, outcome.revision, 0)
                self._warden.note(renewed)
                given = self._given.get((key, held.token))
                if given is not None:
                    now = dataclasses.replace(given, held=renewed)
                    self._given.note((key, held.token), now)
                return renewed.shown(expires_in)
        raise errors.Unavailable(f"the lease on {key!r} changes too fast")

    @staticmethod
    def _current(lease: Lease, seen: Seen | Damage | None) -> Held:
        """Return the lease as the store has it.

        Raises: ``PostingNotFound``, ``LeaseLost``.
        """
        if not isinstance(seen, Seen):
            raise errors.PostingNotFound(lease.key)
        if seen.held is None or seen.held.token != lease.token:
            raise errors.LeaseLost(lease.key, lease.token)
        return seen.held

    def keepalive(self, within: float | None = None) -> float:
        return self._board.keepalive(within)

    # -- ending ----------------------------------------------------------------------------------

    def release(self, lease: Lease, delay: float = 0.0) -> None:
        error = self._end([lease], "release", delay)[0]
        if error is not None:
            raise error

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None = None
    ) -> Sequence[errors.MultiboardError | None]:
        return self._end(leases, "remove" if to is None else "trash")

    def _end(
        self, leases: Sequence[Lease], how: str, delay: float = 0.0
    ) -> list[errors.MultiboardError | None]:
        """End leases by removing, trashing or releasing their postings."""
        board = self._board
        answers: dict[int, errors.MultiboardError | None] = {}
        left = list(range(len(leases)))
        looked = {}
        for index, lease in enumerate(leases):
            known = self._given.pop((lease.key, lease.token), None)
            if known is not None and board.left(known.held) != 0.0:
                looked[index] = known
        for _ in range(TRIES):
            unknown = [index for index in left if index not in looked]
            found = board.look([leases[index].key for index in unknown])
            looked.update(zip(unknown, (seen for seen, _ in found), strict=True))
            steps: dict[int, Step] = {}
            for index in left:
                lease, seen = leases[index], looked.pop(index)
                try:
                    self._current(lease, seen)
                except errors.MultiboardError as error:
                    answers[index] = self._repeated(lease, how, error)
                else:
                    steps[index] = self._end_step(seen, how, delay)
            outcomes = board.commit(list(steps.values()), news=how == "release")
            left = []
            for index, outcome in zip(steps, outcomes, strict=True):
                if outcome.done:
                    self._warden.drop(leases[index].key)
                    self._spent.note(leases[index].claim_id)
                    answers[index] = None
                else:
                    left.append(index)
            if not left:
                return [answers[index] for index in range(len(leases))]
        raise errors.Unavailable("the leases change too fast")

    def _repeated(
        self, lease: Lease, how: str, error: errors.MultiboardError
    ) -> errors.MultiboardError | None:
        """Return None where this very lease did it before, and else why it can't."""
        try:
            return None if self._board.fate(lease.key, lease.token) == how else error
        except Compacted:
            return error

    def _end_step(self, seen: Seen, how: str, delay: float) -> Step:
        keys, key, held = self._board.keys, seen.key, seen.held
        assert held is not None
        live, lease, body = (keys.of(folder, key) for folder in ("live", "leases", "bodies"))
        compare = [messages.created(lease, held.token)]
        if held.timed:  # it was looked at whether it is over: nobody renewed it since
            compare.append(messages.unchanged(lease, held.revision))
        if how == "remove":
            return Step(
                compare, [messages.delete(live), messages.delete(lease), messages.delete(body)]
            )
        modified = max(wall(), seen.head.modified + 1e-6)
        head = dataclasses.replace(seen.head, modified=modified, leased=False)
        compare.append(messages.unchanged(live, seen.revision))
        if how == "trash":
            head = dataclasses.replace(head, serial=seen.serial, delay=0.0, since=None)
            trash = messages.put(keys.of("trash", key), head.encode())
            return Step(compare, [messages.delete(live), messages.delete(lease), trash])
        since = self._board.clock.stamp() if delay > 0 else None
        head = dataclasses.replace(head, delay=delay if delay > 0 else 0.0, since=since)
        return Step(compare, [messages.delete(lease), messages.put(live, head.encode())])


def _put_newer(seen: Seen, order: Order) -> None:
    known = order.all.get(seen.key)
    if known is not None and known.revision < seen.revision:
        order.put(seen)


def _decide(seen: Seen, due_at: float | None, order: Order) -> None:
    order.decide(seen, due_at)
