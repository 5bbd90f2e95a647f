# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of batches: the effect of single operations, item by item, an answer for each."""

from __future__ import annotations

from multiboard.primitives import ChangeKind, NewPosting, Posting, Shelf
from multiboard_conformance.backend.answers import name_of
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, added, post, take
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import keys, listed, look
from multiboard_conformance.machinery.plugin import Effort


@guarantee("BATCH-1")
def check_empty_batches(board: Board) -> None:
    """A batch of nothing is answered with nothing."""
    backend = board.open()
    answers = [backend.add([]), backend.get([]), backend.remove([]), backend.purge([])]
    assert [list(answer) for answer in answers] == [[], [], [], []]


@guarantee("BATCH-1")
def check_add_answers_item_by_item(board: Board) -> None:
    """Of a batch of new, known and refused postings each gets its answer, in its place."""
    backend = board.open()
    (known,) = post(backend, "known")
    answers = backend.add(
        [
            NewPosting("new1", b"body"),
            NewPosting("known", b"other"),
            NewPosting("known", b"body"),
            NewPosting("new2", b"body", rank=1),
        ]
    )
    names = [answer.key if isinstance(answer, Posting) else name_of(answer) for answer in answers]
    assert names == ["new1", "PostingExists", "known", "new2"]
    assert answers[2] == known
    assert listed(backend) == ["known", "new1", "new2"]


@guarantee("BATCH-1", "DIR-3")
def check_large_batch_keeps_its_order(board: Board, effort: Effort) -> None:
    """The postings of one large batch are all there, in the order of the batch."""
    backend, other = board.open(), board.open()
    names = [f"k{n}" for n in range(effort.rounds(130, 500))]
    answers = added(backend.add([NewPosting(name, name.encode()) for name in names]))
    assert keys(answers) == names
    assert listed(other) == names
    assert [posting.serial for posting in answers] == sorted({p.serial for p in answers})
    read = other.get(list(reversed(names)))
    assert [posting and posting.body.decode() for posting in read] == list(reversed(names))


@guarantee("BATCH-1")
def check_get_answers_in_the_order_asked(board: Board) -> None:
    """Get answers in the order of the keys, None where there is none, a key twice if asked so."""
    backend = board.open()
    post(backend, "a", "b")
    answers = backend.get(["b", "none", "a", "b"])
    assert [posting and posting.key for posting in answers] == ["b", None, "a", "b"]


@guarantee("BATCH-1", "LEASE-2")
def check_remove_answers_item_by_item(board: Board) -> None:
    """Of a batch of current, lost and void leases each gets its answer; only the first go."""
    backend = board.open()
    post(backend, "good1", "lost", "gone", "good2", "stays")
    good = [take(backend, "good1"), take(backend, "good2", 30.0)]
    lost = take(backend, "lost")
    backend.release(lost)
    gone = take(backend, "gone")
    backend.release(gone)
    backend.remove([take(backend, "gone")])
    answers = backend.remove([good[0], lost, gone, good[1]])
    assert [name_of(answer) for answer in answers] == [None, "LeaseLost", "PostingNotFound", None]
    assert listed(backend) == ["lost", "stays"]


@guarantee("BATCH-1")
def check_large_removal(board: Board, effort: Effort) -> None:
    """A large batch of removals, for good or to the trash, has every effect and reports each."""
    backend = board.open()
    number = effort.rounds(120, 400)
    names = [f"k{n}" for n in range(number)]
    post(backend, *names)
    reader = Reader(backend).start()
    won = backend.acquire_next("me", [f"c{n}" for n in range(number)], 60.0)
    leases = [lease for _, lease in won]
    half = number // 2
    answers = [*backend.remove(leases[:half], Shelf.TRASH), *backend.remove(leases[half:])]
    assert answers == [None] * number
    assert (listed(backend), sorted(listed(backend, Shelf.TRASH))) == ([], sorted(names[:half]))
    reader.until(lambda: reader.resets or len(reader.received) >= 2 * number, 10.0)
    if not reader.resets:
        trashed = [c.key for c in reader.received if c.kind is ChangeKind.TRASHED]
        removed = [c.key for c in reader.received if c.kind is ChangeKind.REMOVED]
        assert (trashed, removed) == (names[:half], names[half:])


@guarantee("BATCH-1", "ERR-2")
def check_lease_twice_in_one_batch(board: Board) -> None:
    """A lease that stands twice in one batch removes once; the second is a repeat."""
    backend = board.open()
    post(backend, "k")
    lease = take(backend, "k")
    assert list(backend.remove([lease, lease])) == [None, None]
    assert listed(backend) == []


@guarantee("BATCH-1")
def check_batch_equals_singles(board: Board, effort: Effort) -> None:
    """A batch leaves the board as the same operations one by one leave another board."""
    singly, at_once = board.open(), board.open(namespace=f"{board.namespace}-batch")
    dice = effort.dice("batch")
    new = [NewPosting(f"k{dice.randrange(20)}", b"b", dice.choice((1, 1, 1, 2))) for _ in range(40)]
    one_by_one = [singly.add([item])[0] for item in new]
    batch = at_once.add(new)
    assert [_told(answer) for answer in batch] == [_told(answer) for answer in one_by_one]
    assert listed(at_once) == listed(singly)


def _told(answer: object) -> object:
    return (answer.key, answer.rank) if isinstance(answer, Posting) else name_of(answer)


@guarantee("BATCH-1", "LEASE-1")
def check_purge_answers_item_by_item(board: Board) -> None:
    """Of a batch of trashed, live and unknown keys only the trashed go; a key twice goes once."""
    backend = board.open()
    post(backend, "t1", "t2", "live")
    backend.remove([take(backend, "t1"), take(backend, "t2")], Shelf.TRASH)
    answers = backend.purge(["t2", "live", "none", "t1", "t2"])
    assert list(answers) == [True, False, False, True, False]
    assert look(backend, "live").key == "live"
