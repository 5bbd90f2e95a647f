# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A posting's body: what a job says, as bytes, the same above every backend.

The bytes are a mark, a version, and msgpack with oslo.serialization's extensions, so that
datetimes, sets, UUIDs and integer keys come back as they were; tuples come back as lists. Nothing
is ever unpickled. It knows neither boards nor stores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack
from oslo_serialization import msgpackutils

from multiboard import errors

#: What every body begins with. The last byte is the version of the format.
_MARK = b"multiboard\x01"


class Undecodable(ValueError):
    """The bytes are not a body of a version that is understood here."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a posting's body says."""

    uuid: str
    name: str
    #: Left out of ``repr``: services keep secrets there.
    details: Mapping[Any, Any] = field(repr=False)
    #: The ``name`` and the ``uuid`` of the job's logbook, or empty.
    book: Mapping[str, str]


def encode(body: Body) -> bytes:
    """Encode a body.

    Raises: ``InvalidArgument`` naming what can't be encoded by its place, never by its value.
    """
    data = _pack({"uuid": body.uuid, "name": body.name, "details": body.details, "book": body.book})
    if data is None:
        raise errors.InvalidArgument(
            f"the details of job {body.name!r} can't be encoded: {_culprit(body.details)}"
        )
    return _MARK + data


def decode(data: bytes) -> Body:
    """Decode a body.

    Raises: ``Undecodable`` saying why; the bytes are not repeated in it.
    """
    if not data.startswith(_MARK[:-1]):
        raise Undecodable("it does not begin with the mark of a multiboard posting")
    if not data.startswith(_MARK):
        version = data[len(_MARK) - 1 : len(_MARK)].hex() or "none"
        raise Undecodable(f"its format has the version 0x{version}, and 0x01 is known here")
    try:
        said = _unpack(data[len(_MARK) :])
        body = Body(said["uuid"], said["name"], said["details"], said["book"])
        sound = isinstance(body.uuid, str) and isinstance(body.name, str)
        sound = sound and isinstance(body.details, dict) and isinstance(body.book, dict)
    except Exception as error:  # damaged bytes fail in as many ways as msgpack has types
        raise Undecodable(f"it can't be unpacked ({type(error).__name__})") from None
    if not sound:
        raise Undecodable("its parts do not have the types that they should have")
    return body


def encode_plain(value: Mapping[str, Any]) -> bytes:
    """Encode a mapping that is no job: what an entity says of itself.

    Raises: ``InvalidArgument``.
    """
    data = _pack(value)
    if data is None:
        raise errors.InvalidArgument(f"the metadata can't be encoded: {_culprit(value)}")
    return _MARK + data


def decode_plain(data: bytes) -> Mapping[str, Any]:
    """Decode what :func:`encode_plain` encoded.

    Raises: ``Undecodable``.
    """
    try:
        value = _unpack(data[len(_MARK) :]) if data.startswith(_MARK) else None
    except Exception as error:
        raise Undecodable(f"it can't be unpacked ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise Undecodable("it is not a mapping with the mark of multiboard")
    return value


def _pack(value: Any) -> bytes | None:
    """Return the value as bytes that can be read again, or None."""
    try:
        data: bytes = msgpackutils.dumps(value)
        _unpack(data)  # a dict with tuples as keys can be written but never be read again
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException):
        return None
    return data


def _unpack(data: bytes) -> Any:
    registry = msgpackutils.default_registry
    return msgpack.unpackb(
        data,
        ext_hook=functools.partial(_unpack_extension, registry),
        raw=False,
        # Details with integers as keys are allowed; the limit on hash flooding is not needed for
        # data that only those who may post can write.
        strict_map_key=False,
    )


def _unpack_extension(registry: Any, code: int, data: bytes) -> Any:
    handler = registry.get(code)
    if handler is None:
        raise ValueError(f"no handler for the extension type {code}")
    return handler.deserialize(data)


def _culprit(value: Any, place: str = "details", depth: int = 0) -> str:
    """Say which part of a value can't be encoded, by its place and its type."""
    if depth > 20:
        return "it is nested too deep, or contains itself"
    if isinstance(value, Mapping):
        for index, (key, part) in enumerate(value.items()):
            if _pack({key: None}) is None:
                return f"a key of {place} is a {type(key).__name__}"
            if _pack(part) is None:  # services have secrets as keys, too
                return _culprit(part, f"{place}[key {index}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            if _pack(part) is None:
                return _culprit(part, f"{place}[{index}]", depth + 1)
    if isinstance(value, int):
        return f"{place} is an integer of more than 64 bits"
    if isinstance(value, str):
        return f"{place} is a string that is not valid Unicode"
    return f"{place} is a {type(value).__name__}"
