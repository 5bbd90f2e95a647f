# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bodies that were made to harm whoever reads them.

Run as a program it reads all of them, on a thread with a small stack, and says how each was taken.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping

from multiboard.runtime import codec

MARK = b"multiboard\x01"


def body(value: bytes) -> bytes:
    """Return a body whose details hold one value, given as msgpack."""
    return MARK + b"\x84\xa4uuid\xa1u\xa4name\xa1n\xa4book\x80\xa7details\x81\xa1x" + value


def array(count: int, values: bytes = b"") -> bytes:
    """Return the array of as many values."""
    return b"\xdd" + count.to_bytes(4, "big") + values


def extension(code: int, data: bytes) -> bytes:
    """Return a value of an extension type."""
    return b"\xc9" + len(data).to_bytes(4, "big") + bytes([code]) + data


def nested(code: int, levels: int, inner: bytes = b"\x90") -> bytes:
    """Return sets within each other."""
    for _ in range(levels):
        inner = extension(code, b"\x91" + inner)
    return inner


def _in_turn() -> bytes:
    inner = b"\x90"
    for _ in range(9):
        inner = b"\x91" * 9 + extension(5, b"\x91" + inner)
    return inner


#: UUIDs whose hashes are all 0, for Python's way of hashing integers.
COLLIDING = b"".join(extension(0, b"%032x" % (n * (2**61 - 1))) for n in range(20_000))

#: By what is wrong with it, each of them; the limit that it runs into is named in the refusal.
BODIES: Mapping[str, tuple[bytes, str]] = {
    "frozensets within each other": (body(nested(5, 5_000)), "8 levels"),
    "one level too many": (body(nested(5, 9)), "8 levels"),
    "sets within sets": (body(nested(4, 5_000)), "8 levels"),
    "a date made of frozensets": (body(extension(1, nested(5, 2_000))), "8 levels"),
    "a day made of frozensets": (body(extension(7, nested(5, 2_000))), "8 levels"),
    "a count made of frozensets": (body(extension(2, nested(5, 2_000))), "8 levels"),
    "an address made of frozensets": (body(extension(3, nested(5, 2_000))), "8 levels"),
    "another date made of dates": (body(nested(6, 2_000)), "8 levels"),
    "a key made of frozensets": (body(b"\x81" + nested(5, 2_000) + b"\x01"), "8 levels"),
    "lists within each other": (body(b"\x91" * 100_000 + b"\x90"), "100 levels"),
    "maps within each other": (body(b"\x81\x01" * 100_000 + b"\x80"), "100 levels"),
    "lists and sets in turn": (body(_in_turn()), "8 levels"),
    "eight megabytes of empty lists": (body(array(8_000_000, b"\x90" * 8_000_000)), "500000"),
    "half a million empty sets": (body(array(400_000, b"\xd4\x04\x90" * 400_000)), "500000"),
    "lists that say they are long": (body(array(0x007FFFFF) * 1_000), "500000"),
    "a map that says it is long": (body(b"\xdf\xff\xff\xff\xff"), "500000"),
    "a string that says it is long": (body(b"\xdb\xff\xff\xff\xff"), "ends too early|length"),
    "UUIDs with one hash": (body(extension(4, array(20_000, COLLIDING))), "2000 UUIDs"),
    "an unknown extension": (body(b"\xd4\x21\x00"), "0x21"),
    "a byte that begins nothing": (body(b"\xc1"), "0xc1"),
    "more than a value": (body(b"\x01\x01"), "length"),
    "more than a value in a set": (body(extension(4, b"\x90\x90")), "length"),
    "less than a value": (body(b"\x92\x01"), "ends too early"),
}


def _read(answers: dict[str, str]) -> None:
    for name, (data, _) in BODIES.items():
        begun = time.process_time()
        try:
            codec.decode(data)
        except codec.Undecodable as error:
            answers[name] = str(error)
        else:
            answers[name] = "it was read"
        if time.process_time() - begun > 2.0:
            answers[name] += ", slowly"


if __name__ == "__main__":
    threading.stack_size(512 * 1024)
    found: dict[str, str] = {}
    reader = threading.Thread(target=_read, args=(found,))
    reader.start()
    reader.join()
    json.dump(found, sys.stdout)
