# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A posting's body: what a job holds, as bytes, the same above every backend.

The bytes are a mark, a version, and msgpack with oslo.serialization's extensions, so that
datetimes, sets, UUIDs and integer keys come back as they were; tuples come back as lists. Nothing
is ever unpickled, and nothing is built that :mod:`multiboard.runtime.limits` does not allow: a body
must not harm who reads it. It knows neither boards nor stores.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgpack
from oslo_serialization import msgpackutils

from multiboard import errors
from multiboard.primitives import interrupts
from multiboard.runtime import limits

#: What every body begins with. The last byte is the version of the format.
_MARK = b"multiboard\x01"


T = TypeVar("T")


class Undecodable(ValueError):
    """The bytes are not a body of a version that is understood here."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a posting's body holds."""

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
    fields = {"uuid": body.uuid, "name": body.name, "details": body.details, "book": body.book}
    try:
        return _MARK + _pack(fields)
    except _Refused as error:
        native = error.native
    # Out of the handler: an error's context is logged with it, and the native one shows values.
    for place, part in (("name", body.name), ("book", body.book), ("details", body.details)):
        if _refusal(part) is not None:
            raise errors.InvalidArgument(
                f"the {place} of job {body.name!r} can't be encoded: {_culprit(part, place)}"
            )
    raise _refused_as_a_whole(fields, native, f"job {body.name!r} can't be encoded")


def decode(data: bytes) -> Body:
    """Decode a body.

    Raises: ``Undecodable`` saying why; the bytes are not repeated in it.
    """
    if not data.startswith(_MARK[:-1]):
        raise Undecodable("it does not begin with the mark of a multiboard posting")
    if not data.startswith(_MARK):
        version = data[len(_MARK) - 1 : len(_MARK)].hex() or "none"
        raise Undecodable(f"its format has the version 0x{version}, and 0x01 is known here")
    return _read(_body_of, data)


def _body_of(data: bytes) -> Body:
    fields = _unpack(data[len(_MARK) :])
    body = Body(fields["uuid"], fields["name"], fields["details"], fields["book"])
    sound = isinstance(body.uuid, str) and isinstance(body.name, str)
    sound = sound and isinstance(body.details, dict) and isinstance(body.book, dict)
    sound = sound and all(isinstance(fields, str) for fields in body.book.values())
    if not sound:
        raise Undecodable("its parts do not have the types that they should have")
    return body


def encode_plain(value: Mapping[str, Any]) -> bytes:
    """Encode a mapping that is no job: what an entity shows of itself.

    Raises: ``InvalidArgument``.
    """
    try:
        return _MARK + _pack(value)
    except _Refused as error:
        native = error.native
    if _refusal(value) is None:
        raise _refused_as_a_whole(value, native, "the metadata can't be encoded")
    raise errors.InvalidArgument(f"the metadata can't be encoded: {_culprit(value, 'metadata')}")


def _refused_as_a_whole(value: Any, native: Exception, what: str) -> Exception:
    """Return the error for what has no part to blame; it may be another thread's exception."""
    why = _refusal(value)
    return native if why is None else errors.InvalidArgument(f"{what}: {why}")


def decode_plain(data: bytes) -> Mapping[str, Any]:
    """Decode what :func:`encode_plain` encoded.

    Raises: ``Undecodable``.
    """
    return _read(_mapping_of, data)


def _mapping_of(data: bytes) -> Mapping[str, Any]:
    value = _unpack(data[len(_MARK) :]) if data.startswith(_MARK) else None
    if not isinstance(value, dict):
        raise Undecodable("it is not a mapping with the mark of multiboard")
    return value


def _read(build: Callable[[bytes], T], data: bytes) -> T:
    """Build something of bytes; damaged ones fail in as many ways as msgpack has types.

    Raises: ``Undecodable``.
    """
    try:
        return build(data)
    except Exception as error:
        if interrupts.is_interrupt(error):
            raise
        native = error
    try:
        build(data)
    except Exception as error:
        if interrupts.is_interrupt(error):
            raise
        raise _undecodable(error) from None
    raise native  # of another thread, which set it in this one: the bytes are sound


def _undecodable(error: Exception) -> Undecodable:
    if isinstance(error, Undecodable):
        return error
    if isinstance(error, (limits.LimitExceeded, limits.Malformed)):
        return Undecodable(str(error))
    return Undecodable(f"it can't be unpacked ({type(error).__name__})")


class _Refused(ValueError):
    """A value can't be written, or could be and not be read again."""

    def __init__(self, why: str, native: Exception) -> None:
        super().__init__(why)
        #: Not the cause, which would be logged: it may show values.
        self.native = native


class _NoType(TypeError):
    """No type of msgpack can hold a value; names the value's type."""


def _reason(error: Exception) -> str:
    """Return what may be shown of an error: others' texts repeat what they were given."""
    shown = isinstance(error, (limits.LimitExceeded, limits.Malformed, _NoType))
    return str(error) if shown else type(error).__name__


def _pack(value: Any) -> bytes:
    """Return a value as bytes that are sure to be read again.

    Raises: ``_Refused`` where there are none.
    """
    try:
        limits.check_shape(value)
        packing = _Packing()
        data: bytes = msgpack.packb(value, default=packing)
        if packing.used:  # else the shape of the value is the shape of the bytes
            limits.check(data)
        _build(data)  # a dict with tuples as keys can be written but never be read again
        return data
    except Exception as error:  # what a value's own methods raise is as good a reason as any
        if interrupts.is_interrupt(error):
            raise
        native = error
    raise _Refused(_reason(native), native)


class _Packing:
    """Packs what msgpack has no type for, no deeper than a reader goes."""

    def __init__(self) -> None:
        self._depth = 0
        self.used = False

    def __call__(self, value: Any) -> Any:
        self.used = True
        handler = _registry.match(value)
        if handler is None:
            raise _NoType(f"no type of msgpack is a {type(value).__name__}")
        if not isinstance(value, (set, frozenset)):
            return msgpack.ExtType(handler.identity, handler.serialize(value))
        self._depth += 1
        if self._depth > limits.MAX_EXTENSION_DEPTH:
            raise limits.LimitExceeded(
                f"sets are nested more than {limits.MAX_EXTENSION_DEPTH} levels deep"
            )
        data = msgpack.packb(list(value), default=self)
        self._depth -= 1
        return msgpack.ExtType(handler.identity, data)


def _unpack(data: bytes) -> Any:
    limits.check(data)
    return _build(data)


def _build(data: bytes) -> Any:
    return msgpack.unpackb(
        data,
        ext_hook=_unpack_extension,
        raw=False,
        # Details with integers as keys are allowed. Who floods a dict with keys of one hash is
        # stopped by the limits: msgpack's own types have too few such values.
        strict_map_key=False,
    )


def _unpack_extension(code: int, data: bytes) -> Any:
    handler = _registry.get(code)
    if handler is None:
        raise ValueError(f"no handler for the extension type {code}")
    return handler.deserialize(data)


def _refusal(value: Any) -> str | None:
    """Return why a value can't be encoded, or None."""
    if value is None or isinstance(value, (bool, float, bytes)):
        return None  # there may be many
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return None
    try:
        _pack(value)
    except _Refused as error:
        return str(error)
    return None


def _culprit(value: Any, place: str, depth: int = 0) -> str:
    """Say which part of a value can't be encoded, by its place and its type."""
    if depth > 20:
        return f"it is nested too deep, or contains itself ({limits.MAX_DEPTH} levels are allowed)"
    if isinstance(value, (Mapping, list, tuple)) and len(value) > limits.MAX_ITEMS:
        pass  # whatever else is wrong with it
    elif isinstance(value, Mapping):
        for index, (key, part) in enumerate(value.items()):
            if _refusal({key: None}) is not None:
                return f"a key of {place} is a {type(key).__name__}"
            if _refusal(part) is not None:  # services have secrets as keys, too
                return _culprit(part, f"{place}[key {index}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            if _refusal(part) is not None:
                return _culprit(part, f"{place}[{index}]", depth + 1)
    if isinstance(value, int):
        return f"{place} is an integer of more than 64 bits"
    if isinstance(value, str):
        return f"{place} is a string that is not valid Unicode"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return f"{place} is a {type(value).__name__}: {_refusal(value)}"
    return f"{place} is a {type(value).__name__}"


# -- what oslo.serialization loses ---------------------------------------------------------------

#: How :class:`datetime.timezone` names a fixed offset.
_FIXED = re.compile(r"UTC(?:([+-])(\d\d):([0-5]\d)(?::([0-5]\d)(?:\.(\d{6}))?)?)?")


class _DateTimes(msgpackutils.DateTimeHandler):
    """Keeps also a fixed offset, where oslo.serialization knows zones by name only, and the fold.

    The bytes stay what they were for all that it could read.
    """

    def serialize(self, dt: datetime.datetime) -> bytes:
        zone = None if dt.utcoffset() is None else _zone_name(dt)
        fields = {
            "day": dt.day,
            "month": dt.month,
            "year": dt.year,
            "hour": dt.hour,
            "minute": dt.minute,
            "second": dt.second,
            "microsecond": dt.microsecond,
            **({"fold": 1} if dt.fold else {}),
            **({} if zone is None else {"tz": zone}),
        }
        packed: bytes = msgpack.packb(fields)
        return packed

    def deserialize(self, blob: bytes) -> datetime.datetime:
        fields = msgpack.unpackb(blob, raw=False)
        name = fields.pop("tz", None)
        zone = None if name is None else _fixed_zone(name) or zoneinfo.ZoneInfo(name)
        return datetime.datetime(**fields, tzinfo=zone)


def _zone_name(when: datetime.datetime) -> str:
    """Return the name of the zone, or of its offset then: a zone without a name has no other."""
    offset = when.utcoffset()
    name = str(when.tzinfo)
    if isinstance(when.tzinfo, zoneinfo.ZoneInfo) and name == when.tzinfo.key:
        return name
    if offset is not None and not isinstance(when.tzinfo, datetime.timezone):
        try:
            if when.replace(tzinfo=zoneinfo.ZoneInfo(name)).utcoffset() == offset:
                return name  # another library's zone, of the same data
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            if interrupts.is_interrupt(error):
                raise
    return "UTC" if not offset else str(datetime.timezone(offset))


def _fixed_zone(name: str) -> datetime.timezone | None:
    found = _FIXED.fullmatch(name)
    if found is None:
        return None
    sign, hours, minutes, seconds, microseconds = found.groups("0")
    offset = datetime.timedelta(
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int(microseconds),
    )
    return datetime.timezone(-offset if sign == "-" else offset)


def _make_registry() -> Any:
    registry = msgpackutils.default_registry.copy(unfreeze=True)
    registry.register(_DateTimes(registry), reserved=True, override=True)
    if msgpackutils.NetAddrIPHandler is not None:
        registry.register(_make_addresses(), reserved=True, override=True)
    registry.frozen = True
    return registry


def _make_addresses() -> Any:
    class Addresses(msgpackutils.NetAddrIPHandler):
        """Keeps addresses of IPv6, which as numbers are too large, or become one of IPv4."""

        def serialize(self, obj: Any) -> Any:
            return msgpack.packb(obj.value if obj.version == 4 else str(obj))

    return Addresses()


_registry = _make_registry()
