# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What each error of PostgreSQL means, and each one on the way to it."""

from __future__ import annotations

import psycopg
from multiboard import errors

#: What our functions raise (see ``verbs.sql``), and what the server says when they are gone.
SESSION_LOST = "MB002"
LATE = "MB003"
BOARD_LOST = {"MB001", "3F000", "42P01", "42883", "42704"}
#: Classes of SQLSTATE after which the same statement may be tried again: connection, rollback,
#: resources, operator intervention, system error, lock not available.
TRANSIENT = ("08", "40", "53", "57", "58", "55P03")
DENIED = ("28", "42501")


def translate_error(error: BaseException, *, reply_lost: bool) -> errors.MultiboardError:
    """Return what an error means that came after the request was sent."""
    if reply_lost:  # the server may have committed before the connection broke
        return errors.Indeterminate(f"PostgreSQL: the reply was lost: {error}")
    assert isinstance(error, psycopg.Error)
    state = error.sqlstate or ""
    message = error.diag.message_primary or str(error)
    if state == SESSION_LOST:
        return errors.SessionLost(message)
    if state in BOARD_LOST:
        return errors.BoardLost(f"PostgreSQL: {message}")
    if state.startswith(DENIED):
        return errors.AccessDenied(f"PostgreSQL: {message}")
    if state == LATE or state.startswith(TRANSIENT):  # the server rolled the statement back
        return errors.Unavailable(f"PostgreSQL: {message}")
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return errors.BackendError(f"PostgreSQL: {message}{detail}")


def translate_connect_error(error: Exception, where: str) -> errors.BackendError:
    """Return what a failed attempt to connect means: libpq gives words here, and no SQLSTATE."""
    denials = ("authentication failed", "pg_hba.conf", "permission denied", "no password")
    denied = any(words in str(error) for words in denials)
    kind = errors.AccessDenied if denied else errors.Unavailable
    return kind(f"PostgreSQL at {where}: {error}")


def of_a_read(error: errors.Indeterminate) -> errors.Unavailable:
    """Return the error of a verb that changes nothing: it was surely not applied."""
    return errors.Unavailable(str(error))
