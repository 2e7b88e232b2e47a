"""The few etcd v3 messages that the benchmark speaks, in protobuf's wire format by hand.

Field numbers are those of etcd's `rpc.proto` and `kv.proto`, which never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

PUT = b"/etcdserverpb.KV/Put"
RANGE = b"/etcdserverpb.KV/Range"
TXN = b"/etcdserverpb.KV/Txn"
WATCH = b"/etcdserverpb.Watch/Watch"
STATUS = b"/etcdserverpb.Maintenance/Status"


def put(key: bytes, value: bytes) -> bytes:
    return _bytes(1, key) + _bytes(2, value)


def get(key: bytes) -> bytes:
    """A linearizable read: `serializable` is left false."""
    return _bytes(1, key)


def transaction_of_puts(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A Txn without comparisons: every put is in `success`, as a RequestOp with a request_put."""
    return b"".join(_bytes(2, _bytes(2, put(key, value))) for key, value in pairs)


def watch_prefix(prefix: bytes) -> bytes:
    return _bytes(1, _bytes(1, prefix) + _bytes(2, prefix[:-1] + bytes([prefix[-1] + 1])))


def leads(status: bytes) -> bool:
    """Whether the member that sent this StatusResponse says that it is the leader itself."""
    fields = dict(_fields(status))
    header = dict(_fields(_as_bytes(fields.get(1, b""))))
    leader = fields.get(4, 0)
    return leader != 0 and leader == header.get(2)


def version(status: bytes) -> str:
    return _as_bytes(dict(_fields(status)).get(2, b"")).decode()


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, position = _read_varint(data, position)
        if tag & 7 == 0:
            yield tag >> 3, number
        elif tag & 7 == 2:
            yield tag >> 3, data[position : position + number]
            position += number
        else:
            raise ValueError(f"wire type {tag & 7} is not used by these messages")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    shift = number = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
