# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The values of the primitives as JSON, for the pipes between the suite and its workers.

Imports the primitives and the errors only.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from typing import Any

from multiboard import errors, primitives

_VALUES = (
    "NewPosting", "Lease", "Posting", "Damage", "Page", "Change", "Changes", "Traits", "Shelf",
    "ChangeKind",
)  # fmt: skip
_CLASSES: dict[str, type[Any]] = {name: getattr(primitives, name) for name in _VALUES}


class NativeError(AssertionError):
    """A backend let an error escape that is none of multiboard's."""


def encode(value: Any) -> Any:
    """Return what json can write for a value of the primitives."""
    if isinstance(value, bytes):
        return {"$": "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, enum.Enum):
        return {"$": type(value).__name__, "value": value.value}
    if isinstance(value, BaseException):
        kind = type(value).__name__ if isinstance(value, errors.MultiboardError) else ""
        # A subclass of ours crosses the pipe as the error of ours that it is.
        for base in type(value).__mro__:
            if base.__module__ == errors.__name__:
                kind = base.__name__
                break
        known = {k: v for k, v in vars(value).items() if isinstance(v, (str, int, float))}
        cause = None if value.__cause__ is None else repr(value.__cause__)
        return {
            "$": "error",
            "kind": kind,
            "message": _message(value),
            "has": known,
            "cause": cause,
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {
            "$": type(value).__name__,
            "value": {name: encode(getattr(value, name)) for name in names},
        }
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def _message(error: BaseException) -> str:
    if isinstance(error, (errors.MultiboardError, NativeError)):
        return str(error)
    return f"{type(error).__module__}.{type(error).__name__}: {error}"


def decode(value: Any) -> Any:
    """Return the value that :func:`encode` was given; sequences come back as tuples."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    if kind == "bytes":
        return base64.b64decode(value["value"])
    if kind == "error":
        return _error(value)
    cls = _CLASSES[kind]
    if issubclass(cls, enum.Enum):
        return cls(value["value"])
    return cls(**{name: decode(item) for name, item in value["value"].items()})


def _error(value: dict[str, Any]) -> BaseException:
    cls = getattr(errors, value["kind"], NativeError) if value["kind"] else NativeError
    error: BaseException = cls.__new__(cls)
    Exception.__init__(error, value["message"])
    error.__dict__.update(value["has"])
    if value["cause"] is not None:
        error.__cause__ = RuntimeError(value["cause"])
    return error


def dumps(value: Any) -> str:
    """Return one line of JSON."""
    return json.dumps(encode(value), separators=(",", ":"))


def loads(line: str | bytes) -> Any:
    """Return the value of one line of JSON."""
    return decode(json.loads(line))
