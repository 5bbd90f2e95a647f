# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The postings and entities of a board, for :mod:`multiboard.backends.sqlite`.

The verbs of ``PostingDirectory``: those that write are a part of one writing transaction, those
that read have one snapshot and leave out what is over. It imports the primitives, the errors and
its sibling modules.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from multiboard import errors
from multiboard.backends.sqlite import records, transactions
from multiboard.backends.sqlite.leases import find_leased
from multiboard.backends.sqlite.session import ensure_session
from multiboard.backends.sqlite.transactions import Snapshot, Transaction
from multiboard.primitives import ChangeKind, Damage, Lease, NewPosting, Page, Place, Posting, Shelf

_AFTER = " AND (p.rank, p.serial) > (?, ?)"
_KNOWN = (
    "SELECT id, shelf, rank, digest, gone_at FROM multiboard_postings WHERE board = ? AND key = ?"
)
_INSERT = (
    "INSERT INTO multiboard_postings (board, key, shelf, rank, serial, digest, created_on,"
    " modified_on, ready, due_at, due_on, delay) VALUES (?, ?, 'live', ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


# -- reading ---------------------------------------------------------------------------------


def get(snapshot: Snapshot, keys: Sequence[str]) -> list[Posting | None]:
    found: list[Posting | None] = []
    for key in keys:
        row = snapshot.connection.execute(
            records.POSTING + " WHERE p.board = ? AND p.key = ? AND p.shelf = 'live'",
            (snapshot.board, key),
        ).fetchone()
        item = None if row is None else records.read_posting(row, snapshot.now, snapshot.alive)
        found.append(item if isinstance(item, Posting) else None)
    return found


def page(snapshot: Snapshot, shelf: Shelf, after: Place | None, limit: int | None) -> Page:
    """Return a page of a shelf."""
    postings: list[Posting] = []
    damaged: list[Damage] = []
    connection, board = snapshot.connection, snapshot.board
    is_entities = shelf is Shelf.ENTITIES
    if is_entities:
        sql = records.ENTITY + " WHERE e.board = ?" + ("" if after is None else _AFTER)
        sql = sql.replace("p.", "e.") + " ORDER BY e.rank, e.serial"
        rows = connection.execute(sql, (board, *(after or ())))
    else:
        sql = records.POSTING + " WHERE p.board = ? AND p.shelf = ?"
        sql += ("" if after is None else _AFTER) + " ORDER BY p.rank, p.serial"
        rows = connection.execute(sql, (board, shelf.value, *(after or ())))
    read = records.read_entity if is_entities else records.read_posting
    for row in rows:
        item = read(row, snapshot.now, snapshot.alive)
        if isinstance(item, Damage):
            damaged.append(item)
        elif item is not None:
            postings.append(item)
            if limit is not None and len(postings) > limit:
                break
    rows.close()
    if shelf is Shelf.LIVE and after is None:
        damaged.extend(records.damage_on_no_shelf(connection, board))
    if limit is None or len(postings) <= limit:
        return Page(postings, damaged=tuple(damaged))
    return Page(postings[:limit], after=postings[limit - 1].place, damaged=tuple(damaged))


def count(snapshot: Snapshot, shelf: Shelf) -> int:
    if shelf is Shelf.ENTITIES:  # those whose session is over do not count
        return len(page(snapshot, shelf, None, None).postings)
    (number,) = snapshot.connection.execute(
        "SELECT count(*) FROM multiboard_postings WHERE board = ? AND shelf = ?",
        (snapshot.board, shelf.value),
    ).fetchone()
    return int(number)


# -- adding ----------------------------------------------------------------------------------


def add(
    tx: Transaction, postings: Sequence[NewPosting], shelf: Shelf
) -> list[Posting | errors.MultiboardError]:
    if shelf is Shelf.ENTITIES:
        session = ensure_session(tx)
        return [_add_entity(tx, new, session) for new in postings]
    return [_add_one(tx, new) for new in postings]


def _add_one(tx: Transaction, new: NewPosting) -> Posting | errors.MultiboardError:
    """Store a posting, or return the one that has its key."""
    digest = hashlib.blake2b(new.body, digest_size=16).digest()
    known = tx.execute(_KNOWN, (tx.board.id, new.key)).fetchone()
    if known is not None:
        row_id, shelf, rank, known_digest, gone_at = known
        gone = shelf is None and isinstance(gone_at, float)
        if not gone or gone_at > tx.now - transactions.REPEAT_WINDOW:
            if (rank, known_digest) != (new.rank, digest):
                return errors.PostingExists(new.key)
            return _known_posting(tx, row_id, new, gone)
        tx.execute("DELETE FROM multiboard_postings WHERE id = ?", (row_id,))
    serial, delay = tx.next_number(), float(new.delay)
    due = (int(delay <= 0), tx.now + delay, tx.wall + delay, delay)
    row = (tx.board.id, new.key, new.rank, serial, digest, tx.wall, tx.wall, *due)
    inserted = tx.execute(_INSERT, row)
    tx.execute("INSERT INTO multiboard_bodies VALUES (?, ?)", (inserted.lastrowid, new.body))
    tx.publish(ChangeKind.POSTED, new.key)
    due_in = max(0.0, delay)
    return Posting(new.key, new.rank, serial, new.body, 0, 0, tx.wall, tx.wall, due_in)


def _known_posting(
    tx: Transaction, row_id: int, new: NewPosting, gone: bool
) -> Posting | errors.MultiboardError:
    row = tx.execute(records.POSTING + " WHERE p.id = ?", (row_id,)).fetchone()
    if gone:  # of a consumed posting's body only the digest is kept
        row = (*row[:2], Shelf.LIVE.value, *row[3:5], new.body, *row[6:])
    posting = tx.read(row)
    return posting if isinstance(posting, Posting) else errors.PostingExists(new.key)


def _add_entity(tx: Transaction, new: NewPosting, session: str) -> Posting:
    """Store an entity that lives by a session."""
    serial = tx.next_number()
    tx.execute(
        "INSERT OR REPLACE INTO multiboard_entities VALUES (?, ?, ?, ?, ?, ?, ?)",
        (tx.board.id, new.key, new.rank, serial, new.body, tx.wall, session),
    )
    return Posting(new.key, new.rank, serial, new.body, 0, 0, tx.wall, tx.wall)


# -- removing --------------------------------------------------------------------------------


def remove(
    tx: Transaction, leases: Sequence[Lease], to: Shelf | None
) -> list[errors.MultiboardError | None]:
    return [_remove_one(tx, lease, to) for lease in leases]


def _remove_one(tx: Transaction, lease: Lease, to: Shelf | None) -> errors.MultiboardError | None:
    try:
        row_id, _ = find_leased(tx, lease)
    except (errors.PostingNotFound, errors.LeaseLost) as error:
        done = _was_removed_by(tx, lease) if to is None else tx.has_ended(lease, ChangeKind.TRASHED)
        return None if done else error
    if to is Shelf.TRASH:
        tx.execute(
            records.END_LEASE + "modified_on = ?, shelf = 'trash', due_at = ?, due_on = ?,"
            " delay = 0 WHERE id = ?",
            (tx.wall, tx.now, tx.wall, row_id),
        )
        tx.note_end(lease, ChangeKind.TRASHED)
        tx.publish(ChangeKind.TRASHED, lease.key, lease.token)
    else:
        tx.execute(
            records.END_LEASE + "modified_on = ?, shelf = NULL, gone_at = ? WHERE id = ?",
            (tx.wall, tx.now, row_id),
        )
        tx.execute("DELETE FROM multiboard_bodies WHERE posting = ?", (row_id,))
        tx.publish(ChangeKind.REMOVED, lease.key, lease.token)
    tx.board.spent.note(lease.claim_id)
    return None


def _was_removed_by(tx: Transaction, lease: Lease) -> bool:
    """Tell whether ``lease`` consumed its posting not long ago."""
    found = tx.execute(
        "SELECT 1 FROM multiboard_postings WHERE board = ? AND key = ? AND shelf IS NULL"
        " AND token = ?",
        (tx.board.id, lease.key, lease.token),
    )
    return found.fetchone() is not None


def restore(tx: Transaction, key: str) -> Posting:
    row = tx.execute(
        records.POSTING + " WHERE p.board = ? AND p.key = ?", (tx.board.id, key)
    ).fetchone()
    posting = None if row is None else tx.read(row)
    if not isinstance(posting, Posting):
        raise errors.PostingNotFound(key, f"no posting {key!r} in the trash")
    if row[records.SHELF] == Shelf.TRASH.value:
        serial = tx.next_number()
        posting = dataclasses.replace(posting, serial=serial, modified_on=tx.wall, due_in=0.0)
        tx.execute(
            "UPDATE multiboard_postings SET shelf = 'live', serial = ?, modified_on = ?,"
            " ready = 1, due_at = ?, due_on = ?, delay = 0 WHERE id = ?",
            (serial, tx.wall, tx.now, tx.wall, row[records.ID]),
        )
        tx.publish(ChangeKind.RESTORED, key)
    return posting


def purge(tx: Transaction, keys: Sequence[str], shelf: Shelf) -> list[bool]:
    if shelf is Shelf.ENTITIES:
        sql = "DELETE FROM multiboard_entities WHERE board = ? AND key = ?"
        return [tx.execute(sql, (tx.board.id, key)).rowcount > 0 for key in keys]
    return [_purge_one(tx, key) for key in keys]


def _purge_one(tx: Transaction, key: str) -> bool:
    """Delete a trashed posting; its row stays for a while, as that of a consumed one."""
    found = tx.execute(
        "SELECT id FROM multiboard_postings WHERE board = ? AND key = ? AND shelf = 'trash'",
        (tx.board.id, key),
    ).fetchone()
    if found is not None:
        tx.execute("DELETE FROM multiboard_bodies WHERE posting = ?", found)
        # No lease has the token 0: it is gone, and none removed it.
        tx.execute(
            "UPDATE multiboard_postings SET shelf = NULL, gone_at = ?, token = 0 WHERE id = ?",
            (tx.now, *found),
        )
    return found is not None
