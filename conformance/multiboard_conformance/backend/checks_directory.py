# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of the directory: what is posted stays, and is there once."""

from __future__ import annotations

import functools

import pytest

from multiboard.primitives import ChangeKind, NewPosting, Posting, Shelf
from multiboard_conformance.backend.answers import answer_of, name_of
from multiboard_conformance.backend.feeds import Reader
from multiboard_conformance.backend.fixtures import Board, added, post, take, together
from multiboard_conformance.backend.guarantees import guarantee
from multiboard_conformance.backend.reading import keys, listed, look, snapshot
from multiboard_conformance.machinery.plugin import Effort

# -- DIR-1 -----------------------------------------------------------------------------------


@guarantee("DIR-1")
def check_posting_is_listed_on_another_connection(board: Board, effort: Effort) -> None:
    """Every acknowledged posting is in the very next list of another connection."""
    poster, reader = board.open(), board.open()
    names = [f"k{n}" for n in range(effort.rounds(10, 50))]
    missing = []
    for name in names:
        post(poster, name)
        if name not in listed(reader):
            missing.append(name)
    assert missing == []


@guarantee("DIR-1")
def check_posting_is_read_on_another_connection(board: Board, effort: Effort) -> None:
    """Every acknowledged posting is seen by the very next get of another connection."""
    poster, reader = board.open(), board.open()
    for n in range(effort.rounds(10, 50)):
        (posting,) = post(poster, f"k{n}")
        assert reader.get([posting.key])[0] == posting


@guarantee("DIR-1")
def check_posting_survives_its_poster(board: Board) -> None:
    """A posting stays when the backend that added it is closed."""
    poster, reader = board.open(), board.open()
    post(poster, "k")
    poster.close()
    assert listed(reader) == ["k"]


@guarantee("DIR-1")
def check_posting_survives_all_connections(board: Board) -> None:
    """A posting is there for a backend that opens after all others were closed."""
    first = board.open()
    post(first, "k", body=b"kept")
    first.close()
    assert look(board.open(), "k").body == b"kept"


@guarantee("DIR-1")
def check_posting_survives_the_kill_of_its_poster(board: Board) -> None:
    """A posting stays when the process that added it is killed right after the answer."""
    reader, poster = board.open(), board.peer()
    post(poster, "k")
    poster.kill()
    assert listed(reader) == ["k"]


@guarantee("DIR-1")
def check_leased_posting_stays_listed(board: Board) -> None:
    """A posting is listed while it is leased, and after it was released."""
    backend = board.open()
    post(backend, "k")
    lease = take(backend, "k")
    assert listed(backend) == ["k"]
    backend.release(lease)
    assert listed(backend) == ["k"]


@guarantee("DIR-1")
def check_removed_posting_is_gone_everywhere(board: Board) -> None:
    """A removed posting is in no later list, get or count of any connection."""
    backend, other = board.open(), board.open()
    post(backend, "gone", "stays")
    backend.remove([take(backend, "gone")])
    assert (listed(other), other.get(["gone"])[0], other.count()) == (["stays"], None, 1)


@guarantee("DIR-1")
def check_walk_over_pages_meets_every_posting(board: Board) -> None:
    """A walk by pages meets every posting once, in order, and ends with after=None."""
    backend = board.open()
    everything = added(backend.add([NewPosting(f"k{n}", b"", n % 3) for n in range(23)]))
    walked: list[Posting] = []
    page = backend.list(limit=5)
    while True:
        assert 1 <= len(page.postings) <= 5
        walked += page.postings
        if page.after is None:
            break
        page = backend.list(after=page.after, limit=5)
    assert walked == sorted(everything, key=lambda posting: posting.place)


@guarantee("DIR-1")
def check_walk_misses_nothing_while_others_come_and_go(board: Board) -> None:
    """A posting that is on the shelf during all pages of a walk is in one of them."""
    backend, other = board.open(), board.open()
    post(backend, *[f"stay{n}" for n in range(10)], rank=5)
    post(backend, *[f"go{n}" for n in range(10)], rank=3)
    walked: list[str] = []
    page = backend.list(limit=3)
    for n in range(10):
        walked += keys(page.postings)
        other.remove([take(other, f"go{n}")])
        post(other, f"early{n}", rank=1)
        post(other, f"late{n}", rank=7)
        if page.after is None:
            break
        page = backend.list(after=page.after, limit=3)
    while page.after is not None:
        page = backend.list(after=page.after, limit=3)
        walked += keys(page.postings)
    stayed = [key for key in walked if key.startswith("stay")]
    assert stayed == [f"stay{n}" for n in range(10)]


@guarantee("DIR-1")
def check_page_starts_behind_a_place_that_is_gone(board: Board) -> None:
    """A walk goes on behind a place whose posting was removed meanwhile."""
    backend = board.open()
    first, second, third = post(backend, "a", "b", "c")
    backend.remove([take(backend, "b")])
    assert keys(backend.list(after=second.place).postings) == ["c"]
    assert keys(backend.list(after=(third.rank, third.serial)).postings) == []
    assert keys(backend.list(after=(first.rank, first.serial - 1)).postings) == ["a", "c"]


@guarantee("DIR-1")
def check_count_counts_each_shelf(board: Board) -> None:
    """The count is the number of postings on the shelf."""
    backend = board.open()
    post(backend, "a", "b", "c")
    backend.remove([take(backend, "a")], Shelf.TRASH)
    backend.add([NewPosting("e", b"")], Shelf.ENTITIES)
    assert [backend.count(shelf) for shelf in Shelf] == [2, 1, 1]


@guarantee("DIR-1", "LEASE-2")
def check_trashed_posting_moves_whole(board: Board) -> None:
    """remove(to=TRASH) takes a posting off the live shelf and puts it, unleased, in the trash."""
    backend, other = board.open(), board.open()
    (before,) = post(backend, "k", body=b"kept", rank=7, delay=60.0)
    answers = backend.remove([take(backend, "k")], Shelf.TRASH)
    (trashed,) = other.list(Shelf.TRASH).postings
    assert (list(answers), listed(other), other.get(["k"])[0]) == ([None], [], None)
    assert (trashed.key, trashed.rank, trashed.body, trashed.created_on, trashed.lease) == (
        "k", 7, b"kept", before.created_on, None,
    )  # fmt: skip
    assert trashed.due_in == 0.0, "what is restored is due"


@guarantee("DIR-1")
def check_purged_posting_is_gone_for_good(board: Board) -> None:
    """Purge deletes from the trash, answers True once, and leaves the rest."""
    backend = board.open()
    post(backend, "a", "b", "live")
    backend.remove([take(backend, "a"), take(backend, "b")], Shelf.TRASH)
    assert list(backend.purge(["a", "live", "none"])) == [True, False, False]
    assert list(backend.purge(["a"])) == [False]
    assert (listed(backend, Shelf.TRASH), listed(backend)) == (["b"], ["live"])


@guarantee("DIR-1", "LEASE-1")
def check_restored_posting_is_live_again(board: Board) -> None:
    """Restore takes a posting from the trash to the live shelf, unleased, due, with its past."""
    backend, other = board.open(), board.open()
    (before,) = post(backend, "k", body=b"kept", rank=4, delay=60.0)
    backend.remove([take(backend, "k")], Shelf.TRASH)
    restored = other.restore("k")
    assert restored == look(backend, "k")
    assert (restored.body, restored.rank, restored.attempts, restored.created_on) == (
        b"kept", 4, 1, before.created_on,
    )  # fmt: skip
    assert (restored.lease, restored.due_in) == (None, 0.0)
    assert listed(backend, Shelf.TRASH) == []


@guarantee("DIR-1", "ERR-2")
def check_restore_of_what_is_not_there(board: Board) -> None:
    """Restore of a key that is neither trashed nor live raises PostingNotFound."""
    backend = board.open()
    post(backend, "k")
    backend.remove([take(backend, "k")])
    assert [
        answer_of(lambda: backend.restore("k")),
        answer_of(lambda: backend.restore("never")),
    ] == ["PostingNotFound"] * 2
    assert backend.count() == 0


# -- DIR-2 -----------------------------------------------------------------------------------


@guarantee("DIR-2")
def check_adding_again_answers_with_the_posting(board: Board) -> None:
    """Adding the same posting again answers with what is there and adds nothing."""
    backend, other = board.open(), board.open()
    (first,) = post(backend, "k", rank=3)
    assert post(backend, "k", rank=3) == [first]
    assert post(other, "k", rank=3) == [first]
    assert other.count() == 1


@guarantee("DIR-2")
def check_adding_again_tells_nothing(board: Board) -> None:
    """The feed reports POSTED once, however often the posting was added."""
    backend = board.open()
    reader = Reader(backend).start()
    post(backend, "k")
    post(backend, "k")
    post(backend, "last")
    assert reader.receives(ChangeKind.POSTED, "last")
    assert reader.story("k") == [ChangeKind.POSTED]


@guarantee("DIR-2")
@pytest.mark.parametrize(
    "other",
    [{"body": b"other"}, {"body": b"bodY"}, {"body": b"body\0"}, {"body": b""}, {"rank": 1}],
    ids=["other", "same length", "longer", "empty", "rank"],
)
def check_another_posting_of_that_key_is_refused(board: Board, other: dict[str, object]) -> None:
    """Another body or rank under a known key is answered with PostingExists; nothing changes.

    Live or in the trash, posted by oneself or by another, one byte or all of them differ.
    """
    backend, stranger = board.open(), board.open()
    post(backend, "k", "t")
    backend.remove([take(backend, "t")], Shelf.TRASH)
    before = snapshot(backend)
    for key in ("k", "t"):
        new = NewPosting(**{"key": key, "body": b"body", **other})  # type: ignore[arg-type]
        for poster in (backend, stranger):
            assert [name_of(answer) for answer in poster.add([new])] == ["PostingExists"]
    assert snapshot(backend) == before


@guarantee("DIR-2")
def check_adding_again_leaves_the_delay(board: Board) -> None:
    """Adding again does not move the instant at which the posting is due."""
    backend = board.open()
    post(backend, "k", delay=60.0)
    post(backend, "k", delay=0.0)
    assert 30.0 < look(backend, "k").due_in <= 60.0


@guarantee("DIR-2")
def check_adding_again_leaves_the_lease(board: Board) -> None:
    """Adding a leased posting again answers with it as it is and leaves its lease."""
    backend, other = board.open(), board.open()
    post(backend, "k")
    lease = take(backend, "k", 30.0)
    (again,) = post(other, "k")
    assert (again.lease, again.attempts) == (lease, 1)
    assert look(backend, "k").lease == lease


@guarantee("DIR-2")
def check_adding_what_is_in_the_trash(board: Board) -> None:
    """A posting in the trash is found by a repeated add, and does not come alive by it."""
    backend = board.open()
    post(backend, "k")
    backend.remove([take(backend, "k")], Shelf.TRASH)
    (again,) = post(backend, "k")
    other = backend.add([NewPosting("k", b"other")])
    assert (again.key, [name_of(answer) for answer in other]) == ("k", ["PostingExists"])
    assert (listed(backend), listed(backend, Shelf.TRASH)) == ([], ["k"])


@guarantee("DIR-2")
def check_consumed_posting_does_not_come_back(board: Board) -> None:
    """A posting that was consumed does not come back when its poster repeats the add."""
    poster, worker = board.open(), board.open()
    (first,) = post(poster, "k")
    worker.remove([take(worker, "k")])
    (again,) = poster.add([NewPosting("k", b"body")])
    place = again.place if isinstance(again, Posting) else name_of(again)
    assert place in (first.place, "PostingNotFound")
    assert poster.count() == 0


@guarantee("DIR-2", "BATCH-1")
def check_key_twice_in_one_batch(board: Board) -> None:
    """A key that stands twice in one batch is one posting, answered twice."""
    backend = board.open()
    first, second = post(backend, "k", "k")
    assert (first, backend.count()) == (second, 1)


@guarantee("DIR-2", "RUN-1")
def check_processes_adding_one_key(board: Board, effort: Effort) -> None:
    """Processes that add one key in the same instant make one posting."""
    backend, peers = board.open(), board.peers(3)
    rounds = effort.rounds(5, 30)
    for n in range(rounds):
        key = f"k{n}"
        answers = together([functools.partial(post, peer, key) for peer in peers])
        assert {answer[0].serial for answer in answers} == {look(backend, key).serial}
    assert backend.count() == rounds


@guarantee("DIR-2")
def check_keys_are_told_apart(board: Board) -> None:
    """Keys of every legal form are keys of their own, and none means anything to the store."""
    backend = board.open()
    names = [
        "a", "A", "a.", "a.b", "a-b", "a_b", "a__b", "0", "00", "1e5", "live", "trash", "entities",
        "lease", "leases", "postings", "p", "x" * 128, "x" * 127, "con", "None", "a.lock", "9-9",
    ]  # fmt: skip
    post(backend, *names)
    assert listed(backend) == names
    assert [posting and posting.key for posting in backend.get(names)] == names


@guarantee("DIR-2", "LEASE-4")
def check_entity_is_replaced(board: Board) -> None:
    """An entry added to ENTITIES replaces what had its key, whoever had added that."""
    backend, other = board.open(), board.open()
    backend.add([NewPosting("me", b"old")], Shelf.ENTITIES)
    other.add([NewPosting("me", b"new", rank=2)], Shelf.ENTITIES)
    entries = backend.list(Shelf.ENTITIES).postings
    assert [(entry.key, entry.body, entry.rank) for entry in entries] == [("me", b"new", 2)]


@guarantee("DIR-2")
def check_shelves_share_no_keys(board: Board) -> None:
    """An entity and a posting of one key are two things, and purge of one leaves the other."""
    backend = board.open()
    post(backend, "k")
    backend.add([NewPosting("k", b"entity")], Shelf.ENTITIES)
    assert (look(backend, "k").body, backend.count()) == (b"body", 1)
    assert list(backend.purge(["k"], Shelf.ENTITIES)) == [True]
    assert (listed(backend), listed(backend, Shelf.ENTITIES)) == (["k"], [])
