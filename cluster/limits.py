"""Every bound of the state machine: unit, reason, precedent.

All of these decide what apply accepts, so they are constants, the same on every node of one entry
version: a limit that differed between two nodes would let their states drift apart. What a node
offers to its clients is configurable below them (cluster/server/limits.py). docs/limits.md lists
each one, and a test keeps it complete.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# Keys and values. etcd: 1.5 MiB for a whole request; Consul: 512 KiB for a value, after base64.
KEY_BYTES_MAX: Final = 1 * KIB  # a key stands in an index and in every event of it
VALUE_BYTES_MAX: Final = 1 * MIB
# Larger than a value, because a batch of several large values is one request. etcd: 1.5 MiB.
REQUEST_BYTES_MAX: Final = 4 * MIB
TTL_MS_MAX: Final = 100 * 365 * 86_400_000  # a hundred years; longer is no expiry

# One operation is applied without a pause, and a heartbeat must not wait for it. Consul had 64,
# then 128 operations per transaction and earned years of complaints; etcd has 128, configurable.
# The client port offers fewer by default (1000).
BATCH_OPERATIONS_MAX: Final = 10_000
TXN_COMPARES_MAX: Final = 10_000
EXPIRED_KEYS_MAX: Final = 1_000  # keys that one kv.expire removes

# Reads. A page is read without letting go of the loop.
RANGE_ROWS_MAX: Final = 10_000
RANGE_BYTES_MAX: Final = 4 * MIB  # keys and values of one page, unless its first row is larger
TXN_RESULT_BYTES_MAX: Final = 4 * MIB  # keys and values that the reads of one transaction return

# Publishing. The headers are those of Aspen; HTTP servers usually allow 100 headers of 8 KiB.
PAYLOAD_BYTES_MAX: Final = VALUE_BYTES_MAX
CONTENT_TYPE_BYTES_MAX: Final = 256
HEADERS_MAX: Final = 32
HEADER_NAME_BYTES_MAX: Final = 256
HEADER_VALUE_BYTES_MAX: Final = 4 * KIB
PUBLISH_BATCH_EVENTS_MAX: Final = BATCH_OPERATIONS_MAX
# Requests of one client that are logged as one operation, and the bytes of their arguments: small
# enough that those of many clients share an entry.
EACH_CALLS_MAX: Final = 128
EACH_BYTES_MAX: Final = 16 * KIB

# Who caused an operation: stands in every event of it.
ACTOR_BYTES_MAX: Final = 256  # a certificate's subject: its common name has at most 64 characters
TRACE_TEXT_BYTES_MAX: Final = 1 * KIB  # 256 characters; a W3C traceparent has 55

# Client sessions: the retry window. Kafka's idempotent producer remembers 5 batches for a day,
# NATS message ids for 2 minutes.
SESSION_IDLE_MS: Final = 600_000  # without a request, on the elapsed clock
SESSION_TOUCH_MS: Final = 60_000  # how exactly the last request is remembered; adds to the above
SESSIONS_MAX: Final = 100_000  # a session without results is one row of some 30 bytes
SESSIONS_EXPIRED_MAX: Final = 64  # sessions that one session.expire removes
SESSION_RESULTS_MIN: Final = 512  # remembered per session, if they fit in SESSION_BYTES_MAX
SESSION_RESULTS_SLACK: Final = 128  # beyond the minimum before any is forgotten: fewer deletes
SESSION_BYTES_MAX: Final = 256 * KIB  # of remembered results per session; the newest entry stays
# A larger result (only reads inside a transaction make one) is not kept: its retry is told so.
SESSION_RESULT_BYTES_MAX: Final = 16 * KIB
SESSION_HOLES_MAX: Final = 128  # gaps in a session's numbers; beyond, the oldest are given up
SESSION_WINDOWS_MAX: Final = 10_000  # sessions in memory, some 500 bytes each; others are read

DIGESTS_MAX: Final = 4_096  # entries whose digest a node remembers, to compare with its peers
INTEGER_MAX: Final = 2**63 - 1  # what SQLite stores; msgpack would carry one bit more
CLOCK_MS_MAX: Final = 2**62  # of an entry's clocks: a deadline counted from it is still an integer

assert KEY_BYTES_MAX + VALUE_BYTES_MAX < REQUEST_BYTES_MAX, "a largest put is one request"
assert KEY_BYTES_MAX + VALUE_BYTES_MAX < RANGE_BYTES_MAX <= TXN_RESULT_BYTES_MAX
assert PAYLOAD_BYTES_MAX + HEADERS_MAX * (HEADER_NAME_BYTES_MAX + HEADER_VALUE_BYTES_MAX) < (
    REQUEST_BYTES_MAX
), "a largest publish is one request"
assert CLOCK_MS_MAX + max(TTL_MS_MAX, SESSION_IDLE_MS + SESSION_TOUCH_MS) <= INTEGER_MAX
assert SESSION_TOUCH_MS < SESSION_IDLE_MS
assert SESSION_RESULT_BYTES_MAX < SESSION_BYTES_MAX
