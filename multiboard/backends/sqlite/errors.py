# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What each error of SQLite means. It imports the errors of the project."""

from __future__ import annotations

import sqlite3

from multiboard import errors


def translate_error(error: sqlite3.Error, path: str) -> errors.BackendError:
    """Return what an error means that was raised while nothing could have been applied."""
    text = str(error)
    if "readonly" in text or "permission" in text:
        return errors.AccessDenied(f"{path} can't be written: {text}")
    if "no such table" in text or "no such column" in text:
        return errors.BoardLost(f"{path} no longer holds the board's tables: {text}")
    if "not a database" in text or "malformed" in text or "encrypted" in text:
        return errors.Unavailable(f"{path} is damaged or is no SQLite database: {text}")
    if is_busy(error):
        return errors.Unavailable(f"{path} is busy: another process holds its write lock")
    return errors.Unavailable(f"{path}: {text}")


def translate_commit_error(
    error: sqlite3.Error, path: str, *, rolled_back: bool
) -> errors.BackendError:
    """Return what an error of a commit means: ``Unavailable``, or ``Indeterminate``."""
    # A full disk takes no commit record. After any other failure of the disk the record may be
    # there all the same, and be found when the log is next recovered.
    if rolled_back and (is_busy(error) or "full" in str(error)):
        return errors.Unavailable(f"{path}: the commit was rolled back: {error}")
    return errors.Indeterminate(f"{path}: the commit failed: {error}")


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection holds the lock that was needed."""
    text = str(error)
    return "locked" in text or "busy" in text
