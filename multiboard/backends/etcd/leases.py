# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The leases of a board in etcd: acquiring, renewing, releasing, removing.

A claim makes the lease's key and counts itself in the posting's record; what ends a lease compares
the revision that made that very key. This module imports the primitives, the errors and its own
siblings.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from multiboard import errors, primitives
from multiboard.backends.etcd import messages, past
from multiboard.backends.etcd.board import Board
from multiboard.backends.etcd.clock import wall_clock
from multiboard.backends.etcd.errors import Compacted, LeaseGone
from multiboard.backends.etcd.expiry_timer import ExpiryTimer
from multiboard.backends.etcd.feed import Feed
from multiboard.backends.etcd.order import Order
from multiboard.backends.etcd.recent import Recent
from multiboard.backends.etcd.records import Head, Held, Hold, Seen
from multiboard.backends.etcd.transactions import STEPS, TRIES, Outcome, Step
from multiboard.primitives import Damage, Lease, Posting, Shelf, boottime


class Leases:
    """Gives, keeps and ends leases; ``known`` has postings as this backend saw them last."""

    def __init__(
        self, board: Board, feed: Feed, timer: ExpiryTimer, known: Recent[str, Seen]
    ) -> None:
        self._board = board
        self._feed = feed
        self._timer = timer
        self._known = known
        #: The postings of the leases given here, by key and token.
        self._given: Recent[tuple[str, int], Seen] = Recent()
        #: The claim ids of earlier calls of :meth:`acquire_next`.
        self._attempted: Recent[str, bool] = Recent()
        #: The outcome of an attempt to claim is unknown.
        self._unconfirmed = False
        self._spent = primitives.SpentClaims()
        self._spread = primitives.Spread()

    # -- leasing ---------------------------------------------------------------------------------

    def acquire(self, key: str, holder: str, claim_id: str, expires_in: float | None) -> Lease:
        """Lease a live posting, due or not."""
        if claim_id in self._spent:
            raise errors.LeaseLost(key, 0, f"claim id {claim_id!r} had its lease")
        board = self._board
        session = board.session.ensure() if expires_in is None else 0
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
            # What the store holds, but for a lease that is over.
            seen = self._found_instead(key, outcome)
            if isinstance(seen, Seen) and seen.held is not None and seen.held.timed:
                ((seen, _),) = board.look([key])
        raise errors.Unavailable(f"posting {key!r} changes hands too fast")

    def _hold(self, holder: str, claim_id: str, expires_in: float | None) -> Hold:
        since = None if expires_in is None else self._board.session.clock.stamp()
        return Hold(holder, claim_id, expires_in, since)

    def _claim(
        self, seen: Seen, hold: Hold, session: int, *, body: bool = False
    ) -> tuple[Step, Head]:
        """Return the step that leases a posting, and with ``body`` reads its body."""
        keys, key = self._board.keys, seen.key
        head = seen.claimed(wall_clock())
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
            return self._board.transactions.commit(steps, compare=compare, fence=fence)
        except LeaseGone:
            raise self._board.session.over(session) from None

    def _won(self, seen: Seen, head: Head, hold: Hold, session: int, outcome: Outcome) -> Lease:
        held = Held(seen.key, hold, outcome.revision, outcome.revision, session)
        now = Seen(seen.key, head, seen.serial, outcome.revision, held)
        self._given.note((seen.key, held.token), now)
        self._timer.note(held)
        return held.shown(hold.expires_in)

    def _found_instead(self, key: str, outcome: Outcome) -> Seen | Damage | None:
        """Return what a step found instead of what it was meant for."""
        live, lease = outcome.kv(0), outcome.kv(1)
        if live is None:
            return None
        try:
            return Seen.read(key, live, lease)
        except ValueError as error:
            return Damage(self._board.keys.of("live", key).decode(), str(error))

    def acquire_next(
        self, holder: str, claim_ids: Sequence[str], expires_in: float | None
    ) -> list[tuple[Posting, Lease]]:
        """Lease the first postings of the order that are due and free, one for each claim id."""
        board, feed, patience = self._board, self._feed, self._board.session.client.patience
        session = board.session.ensure() if expires_in is None else 0
        feed.ensure(patience)
        feed.wait_for(self._timer.end_due(), patience)
        won: list[tuple[Posting, Lease]] = []
        wanted = [claim_id for claim_id in claim_ids if claim_id not in self._spent]
        if self._unconfirmed or any(claim_id in self._attempted for claim_id in wanted):
            won = self._won_before(wanted, session)
            wanted = [c for c in wanted if c not in {lease.claim_id for _, lease in won}]
        for claim_id in wanted:
            self._attempted.note(claim_id, True)
        tried: set[str] = set()
        synced = False
        while wanted:
            self._decide_due()
            with feed.changed:
                number = min(len(wanted), STEPS)
                found = feed.order.first(number * self._spread.width, tried)
                news = feed.order.news
            if not found:
                if synced or not self._catch_up(news):
                    break
                synced = True
                continue
            blocks = [found[start : start + number] for start in range(0, len(found), number)]
            first = blocks[self._spread.pick([block[0].key for block in blocks])]
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
                self._unconfirmed = True
                raise
            if not outcomes:  # there is news: take it in first
                self._catch_up(news)
                synced = True
                continue
            if not all(outcome.done for outcome in outcomes):
                self._spread.met()
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
                    won.append((board.posting(now, body.value), lease))
        return won

    def _won_before(self, claim_ids: Sequence[str], session: int) -> list[tuple[Posting, Lease]]:
        """Return what claims hold already, by an attempt whose reply may have been lost."""
        board, feed = self._board, self._feed
        if self._unconfirmed:
            # What was sent and got no reply is done by now, or never will be.
            board.transactions.close_fence()
            self._unconfirmed = False
        feed.wait_for(board.transactions.touch_news(), board.session.client.patience)
        with feed.changed:
            mine = [seen.key for c in claim_ids if (seen := feed.order.claimed_as(c)) is not None]
        won = []
        for found, body in board.look(mine, bodies=True):
            held = found.held if isinstance(found, Seen) else None
            if held is None or held.lease != session or held.hold.claim_id not in claim_ids:
                continue
            assert isinstance(found, Seen)
            self._given.note((found.key, held.token), found)
            posting = board.posting(found, body)
            assert posting.lease is not None
            won.append((posting, posting.lease))
        return sorted(won, key=lambda pair: pair[0].place)

    def _decide_due(self) -> None:
        """Find out which of the postings that were held back are due."""
        feed = self._feed
        with feed.changed:
            undecided = feed.order.undecided(boottime())
        for seen in undecided:
            due_in = self._board.due_in(seen)
            due_at = boottime() + due_in if due_in > 0 else None
            feed.change(functools.partial(_decide, seen, due_at))

    def _catch_up(self, news: int) -> bool:
        """Wait for the news since a revision to be taken in; return whether there was any.

        What the writes before this call made claimable is taken in then.
        """
        session = self._board.session
        (answer,) = session.read([messages.read(session.keys.news)]).responses
        latest = answer.response_range.kvs[0].mod_revision if answer.response_range.kvs else 0
        self._feed.wait_for(latest, session.client.patience)
        return bool(latest > news)

    # -- keeping ---------------------------------------------------------------------------------

    def renew(self, lease: Lease, expires_in: float) -> Lease:
        """Let a timed lease end so many seconds from now; a session's is only checked."""
        board, key = self._board, lease.key
        for _ in range(TRIES):
            ((seen, _),) = board.look([key])
            held = self._current(lease, seen)
            if not held.timed:
                return held.shown(None)
            hold = dataclasses.replace(
                held.hold, expires_in=expires_in, since=board.session.clock.stamp()
            )
            raw = board.keys.of("leases", key)
            step = Step(
                [messages.unchanged(raw, held.revision)], [messages.put(raw, hold.encode())]
            )
            (outcome,) = board.transactions.commit([step])
            if outcome.done:
                renewed = Held(key, hold, held.token, outcome.revision, 0)
                self._timer.note(renewed)
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

    # -- ending ----------------------------------------------------------------------------------

    def remove(
        self, leases: Sequence[Lease], to: Shelf | None
    ) -> list[errors.MultiboardError | None]:
        """Remove leased postings, or trash them."""
        return self._end(leases, "remove" if to is None else "trash")

    def release(self, lease: Lease, delay: float) -> None:
        """Give a lease back."""
        (error,) = self._end([lease], "release", delay)
        if error is not None:
            raise error

    def _end(
        self, leases: Sequence[Lease], how: str, delay: float = 0.0
    ) -> list[errors.MultiboardError | None]:
        """End leases by removing, trashing or releasing their postings."""
        board = self._board
        answers: dict[int, errors.MultiboardError | None] = {}
        left = list(range(len(leases)))
        looked: dict[int, Seen | Damage | None] = {}
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
                    assert isinstance(seen, Seen)
                    steps[index] = self._end_step(seen, how, delay)
            outcomes = board.transactions.commit(list(steps.values()), news=how == "release")
            left = []
            for index, outcome in zip(steps, outcomes, strict=True):
                if outcome.done:
                    self._timer.drop(leases[index].key)
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
            ended = past.how_lease_ended(self._board.session, lease.key, lease.token)
        except Compacted:
            return error
        return None if ended == how else error

    def _end_step(self, seen: Seen, how: str, delay: float) -> Step:
        keys, key, held = self._board.keys, seen.key, seen.held
        assert held is not None
        live, lease, body = (keys.of(folder, key) for folder in ("live", "leases", "bodies"))
        compare = [messages.created(lease, held.token)]
        if held.timed:  # it was found not to be over; a renewal meanwhile is found here
            compare.append(messages.unchanged(lease, held.revision))
        if how == "remove":
            return Step(
                compare, [messages.delete(live), messages.delete(lease), messages.delete(body)]
            )
        modified = max(wall_clock(), seen.head.modified + 1e-6)
        head = dataclasses.replace(seen.head, modified=modified, leased=False)
        compare.append(messages.unchanged(live, seen.revision))
        if how == "trash":
            head = dataclasses.replace(head, serial=seen.serial, delay=0.0, since=None)
            trash = messages.put(keys.of("trash", key), head.encode())
            return Step(compare, [messages.delete(live), messages.delete(lease), trash])
        since = self._board.session.clock.stamp() if delay > 0 else None
        head = dataclasses.replace(head, delay=delay if delay > 0 else 0.0, since=since)
        return Step(compare, [messages.delete(lease), messages.put(live, head.encode())])


def _put_newer(seen: Seen, order: Order) -> None:
    known = order.all.get(seen.key)
    if known is not None and known.revision < seen.revision:
        order.put(seen)


def _decide(seen: Seen, due_at: float | None, order: Order) -> None:
    order.decide(seen, due_at)
