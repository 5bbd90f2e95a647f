# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The messages of etcd's API that are used here, and short ways to write them.

They are described here and built when the program runs, in a pool of their own: generated code is
bound to one release of protobuf, and its names clash with those of any other etcd client in the
process. Numbers and names are those of etcd's ``rpc.proto``, ``kv.proto`` and ``auth.proto``.
This module imports protobuf only.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: Each message: field, number, type; ``*`` is for repeated, ``a|`` for a member of the choice "a".
_FIELDS = {
    "Header": "cluster_id 1 u, member_id 2 u, revision 3 i, raft_term 4 u",
    "KeyValue": "key 1 b, create_revision 2 i, mod_revision 3 i, version 4 i, value 5 b, lease 6 i",
    "RangeRequest": "key 1 b, range_end 2 b, limit 3 i, revision 4 i, serializable 7 o,"
    " keys_only 8 o, count_only 9 o",
    "RangeResponse": "header 1 Header, kvs 2 *KeyValue, more 3 o, count 4 i",
    "PutRequest": "key 1 b, value 2 b, lease 3 i",
    "PutResponse": "header 1 Header",
    "DeleteRangeRequest": "key 1 b, range_end 2 b",
    "DeleteRangeResponse": "header 1 Header, deleted 2 i",
    "RequestOp": "request_range 1 r|RangeRequest, request_put 2 r|PutRequest,"
    " request_delete_range 3 r|DeleteRangeRequest, request_txn 4 r|TxnRequest",
    "ResponseOp": "response_range 1 r|RangeResponse, response_put 2 r|PutResponse,"
    " response_delete_range 3 r|DeleteRangeResponse, response_txn 4 r|TxnResponse",
    "Compare": "result 1 n, target 2 n, key 3 b, version 4 t|i, create_revision 5 t|i,"
    " mod_revision 6 t|i, value 7 t|b",
    "TxnRequest": "compare 1 *Compare, success 2 *RequestOp, failure 3 *RequestOp",
    "TxnResponse": "header 1 Header, succeeded 2 o, responses 3 *ResponseOp",
    "WatchCreateRequest": "key 1 b, range_end 2 b, start_revision 3 i, progress_notify 4 o,"
    " prev_kv 6 o, watch_id 7 i",
    "WatchRequest": "create_request 1 r|WatchCreateRequest",
    "Event": "type 1 n, kv 2 KeyValue, prev_kv 3 KeyValue",
    "WatchResponse": "header 1 Header, watch_id 2 i, created 3 o, canceled 4 o,"
    " compact_revision 5 i, cancel_reason 6 s, events 11 *Event",
    "LeaseGrantRequest": "TTL 1 i, ID 2 i",
    "LeaseGrantResponse": "header 1 Header, ID 2 i, TTL 3 i, error 4 s",
    "LeaseRevokeRequest": "ID 1 i",
    "LeaseRevokeResponse": "header 1 Header",
    "LeaseKeepAliveRequest": "ID 1 i",
    "LeaseKeepAliveResponse": "header 1 Header, ID 2 i, TTL 3 i",
    "LeaseTimeToLiveRequest": "ID 1 i, keys 2 o",
    "LeaseTimeToLiveResponse": "header 1 Header, ID 2 i, TTL 3 i, grantedTTL 4 i",
    "AuthenticateRequest": "name 1 s, password 2 s",
    "AuthenticateResponse": "header 1 Header, token 2 s",
    "StatusRequest": "",
    "StatusResponse": "header 1 Header, version 2 s, dbSize 3 i, leader 4 u",
}  # fmt: skip
_PACKAGE = "etcdserverpb"
_TYPES = {"i": 3, "u": 4, "o": 8, "s": 9, "b": 12, "n": 5}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="multiboard/etcd.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        choices: list[str] = []
        for line in filter(None, fields.split(", ")):
            label, number, kind = line.split()
            field = message.field.add(name=label, number=int(number), label=_OPTIONAL)
            choice, bar, kind = kind.rpartition("|")
            if bar:
                if choice not in choices:
                    choices.append(choice)
                    message.oneof_decl.add(name=f"one_{choice}")
                field.oneof_index = choices.index(choice)
            if kind.startswith("*"):
                field.label, kind = _REPEATED, kind[1:]
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


#: The classes by name.
M = _build()

PUT, DELETE = 0, 1
_EQUAL = 0
_CREATE, _MOD, _VALUE = 1, 2, 3


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with ``prefix``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def put(key: bytes, value: bytes, lease: int = 0) -> Any:
    """Return the operation that writes a key."""
    return M["RequestOp"](request_put=M["PutRequest"](key=key, value=value, lease=lease))


def delete(key: bytes) -> Any:
    """Return the operation that deletes a key."""
    return M["RequestOp"](request_delete_range=M["DeleteRangeRequest"](key=key))


def read(key: bytes, end: bytes = b"", **options: Any) -> Any:
    """Return the operation that reads a key, or a range of them."""
    return M["RequestOp"](request_range=M["RangeRequest"](key=key, range_end=end, **options))


def nested(txn: Any) -> Any:
    """Return a transaction as an operation of another one."""
    return M["RequestOp"](request_txn=txn)


def transaction(compare: Any, success: Any, failure: Any = ()) -> Any:
    """Return a transaction."""
    return M["TxnRequest"](compare=compare, success=success, failure=failure)


def holds(key: bytes, value: bytes) -> Any:
    """Return the condition that a key has a value."""
    return M["Compare"](result=_EQUAL, target=_VALUE, key=key, value=value)


def created(key: bytes, revision: int) -> Any:
    """Return the condition that a key was made at a revision; 0: there is none."""
    return M["Compare"](result=_EQUAL, target=_CREATE, key=key, create_revision=revision)


def unchanged(key: bytes, revision: int) -> Any:
    """Return the condition that a key was last written at a revision; 0: there is none."""
    return M["Compare"](result=_EQUAL, target=_MOD, key=key, mod_revision=revision)
