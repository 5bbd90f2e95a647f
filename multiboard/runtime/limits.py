# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a body may hold, checked on its raw bytes before anything is built of them.

A decoder that meets hostile bytes first and counts afterwards has lost: an extension type nested
200 levels deep overflows the C stack (each level is a call of msgpack's unpacker, with some 40 KB
of stack), eight megabytes of empty lists take seconds and half a gigabyte, and an array that only
says how long it is gets its memory at once. So the bytes are walked here first: no recursion,
nothing allocated for what they announce. The standard library only.
"""

from __future__ import annotations

#: Levels of containers within each other, extension types included.
MAX_DEPTH = 100
#: Levels of extension types within each other: a set of frozensets of dates is three. Each of them
#: is a call from C to Python to C, and a thread's stack may be small.
MAX_EXTENSION_DEPTH = 8
#: Values in all, keys and what extension types consist of included: bounds the time it takes.
MAX_ITEMS = 500_000
#: UUIDs, dates and frozensets as elements of sets or as keys. Whoever chooses their values chooses
#: their hashes too, and a set of values with one hash takes time with the square of its size.
MAX_HASHED = 2_000

#: The extension types of oslo.serialization. What a UUID and a timestamp hold is no msgpack.
_RAW_EXTENSIONS = frozenset({0x00, 0xFF})
_PACKED_EXTENSIONS = frozenset(range(0x01, 0x08))
_SETS = frozenset({0x04, 0x05})

#: The last two stand for the bytes of an extension type, which are one value; so is the whole.
_LIST, _MAP, _SET, _PAYLOAD, _SET_PAYLOAD = range(5)

#: By first byte, how long a value is that holds no others; 0 where that must be looked at.
_LEAF = [0] * 256
for _byte in (*range(0x00, 0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):
    _LEAF[_byte] = 1
for _byte in range(0xA0, 0xC0):
    _LEAF[_byte] = 1 + (_byte & 0x1F)
for _byte, _size in zip(range(0xCA, 0xD4), (5, 9, 2, 3, 5, 9, 2, 3, 5, 9), strict=True):
    _LEAF[_byte] = _size

#: By first byte, how many bytes after it tell a length.
_BLOBS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_CONTAINERS = {0xDC: (2, _LIST), 0xDD: (4, _LIST), 0xDE: (2, _MAP), 0xDF: (4, _MAP)}


class LimitExceeded(ValueError):
    """A value is deeper or larger than a reader builds; names which limit it exceeds."""


class Malformed(ValueError):
    """The bytes are not one value in msgpack, with the extension types of oslo.serialization."""


def check(data: bytes, start: int = 0) -> None:
    """Refuse bytes that can't be one value, or that would build more than the limits allow.

    Raises: ``LimitExceeded``, ``Malformed``.
    """
    try:
        _walk(data, start)
    except IndexError:
        raise Malformed("it ends too early") from None


def _walk(data: bytes, pos: int) -> None:
    items, hashed = MAX_ITEMS, MAX_HASHED
    #: Of the container that is being read: its kind, how many of its values are still to come,
    #: where its bytes must end, and how many extension types it is in.
    kind, left, end, nested = _PAYLOAD, 1, len(data), 0
    outer: list[tuple[int, int, int, int]] = []
    leaf = _LEAF
    while True:
        while not left:
            if kind >= _PAYLOAD and pos != end:
                raise Malformed("a length in it is wrong")
            if not outer:
                return
            kind, left, end, nested = outer.pop()
        first = data[pos]
        size = leaf[first]
        if size:
            pos += size
            left -= 1
            continue
        if first in _BLOBS:
            width = _BLOBS[first]
            pos += 1 + width + int.from_bytes(data[pos + 1 : pos + 1 + width], "big")
            left -= 1
            continue
        if 0x80 <= first <= 0x9F:
            count, new, pos = first & 0x0F, _MAP if first < 0x90 else _LIST, pos + 1
        elif first in _CONTAINERS:
            width, new = _CONTAINERS[first]
            count = int.from_bytes(data[pos + 1 : pos + 1 + width], "big")
            pos += 1 + width
        elif first in _EXTENSIONS or first in _FIXED_EXTENSIONS:
            width = _EXTENSIONS.get(first, 0)
            size = _FIXED_EXTENSIONS.get(first) or int.from_bytes(
                data[pos + 1 : pos + 1 + width], "big"
            )
            code = data[pos + 1 + width]
            pos += 2 + width
            if kind == _SET or (kind == _MAP and left % 2 == 0):
                hashed -= 1
                if hashed < 0:
                    raise LimitExceeded(
                        f"it holds more than {MAX_HASHED} UUIDs, dates or frozensets as elements"
                        " of sets or as keys"
                    )
            if code in _RAW_EXTENSIONS:
                pos += size
                left -= 1
                continue
            if code not in _PACKED_EXTENSIONS:
                raise Malformed(f"it has an extension type 0x{code:02x}, which is not known")
            items -= 1
            outer.append((kind, left - 1, end, nested))
            kind = _SET_PAYLOAD if code in _SETS else _PAYLOAD
            left, end, nested = 1, pos + size, nested + 1
            if nested > MAX_EXTENSION_DEPTH:
                raise LimitExceeded(
                    f"it holds sets or dates within each other, more than {MAX_EXTENSION_DEPTH}"
                    " levels deep"
                )
            if len(outer) > MAX_DEPTH:
                raise LimitExceeded(f"it is nested more than {MAX_DEPTH} levels deep")
            continue
        else:
            raise Malformed(f"it has the byte 0x{first:02x}, which begins no value")
        items -= count if new == _LIST else 2 * count
        if items < 0:
            raise LimitExceeded(f"it holds more than {MAX_ITEMS} values")
        outer.append((kind, left - 1, end, nested))
        if len(outer) > MAX_DEPTH:
            raise LimitExceeded(f"it is nested more than {MAX_DEPTH} levels deep")
        kind = _SET if kind == _SET_PAYLOAD and new == _LIST else new
        left = count if new == _LIST else 2 * count


def check_shape(value: object) -> None:
    """Refuse a value that is too deep or too large to be written at all.

    The writer would follow a value that contains itself for hundreds of levels, and copy each.

    Raises: ``LimitExceeded``.
    """
    level, total = [value], 0
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for container in level:
            if isinstance(container, dict):
                total += 2 * len(container)
                inner += [v for v in container.values() if isinstance(v, _HOLDERS)]
            elif isinstance(container, _HOLDERS):
                total += len(container)
                inner += [v for v in container if isinstance(v, _HOLDERS)]
            if total > MAX_ITEMS:
                raise LimitExceeded(f"it holds more than {MAX_ITEMS} values")
        if not inner:
            return
        level = inner
    raise LimitExceeded(f"it is nested more than {MAX_DEPTH} levels deep, or contains itself")


_HOLDERS = (dict, list, tuple, set, frozenset)
