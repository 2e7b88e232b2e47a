"""Every bound of the event log and of consumer groups: unit, reason, precedent.

Limits that decide what apply accepts are constants, the same on every node of one format version:
a limit that differed between two nodes would let their states drift apart.
"""

from typing import Final

# Topics and patterns. NATS has no limit of its own; unbounded names end up in every index and log
# line, so ours are generous for people and small for machines.
TOPIC_SEGMENTS_MAX: Final = 16
SEGMENT_BYTES_MAX: Final = 256
NAME_BYTES_MAX: Final = 256  # a group's or a member's name: same reason, same size as a segment

# Ring of the newest events in memory, per node. Readers at the head never touch SQLite; a reader
# further behind reads from disk, so these cost speed and never correctness.
TAIL_EVENTS_MAX: Final = 8_192
TAIL_BYTES_MAX: Final = 8 * 1024 * 1024

# Subscriptions. A credit is one event (NATS max_ack_pending and RSocket request-n count the same).
CREDITS_MAX: Final = 1_000_000
READ_BYTES_MAX: Final = 1024 * 1024  # one read of a subscription: one largest value, or many small
BOOKMARK_REVISIONS: Final = 1_000  # a quiet reader is told how far it is at least this often

# Consumer groups. Kafka and JetStream leave these to the operator and pay with slow controllers.
GROUPS_MAX: Final = 1_000
MEMBERS_MAX: Final = 100  # members of one group: assignment is recomputed as a whole in apply
PARTITIONS_MAX: Final = 256  # a power of two, fixed for the life of a group
PARTITIONS_DEFAULT: Final = 16
SESSION_TTL_MS_MIN: Final = 500  # shorter than a leader change and every election expires members
SESSION_TTL_MS_MAX: Final = 3_600_000  # longer, and a dead owner's partitions stand still for hours
EXPIRE_MEMBERSHIPS_MAX: Final = 64  # (member, group) pairs removed by one command: a bounded apply

# One checkpoint command.
COMPLETIONS_MAX: Final = 4_096  # completed events above the floor of one partition
CHECKPOINT_EFFECTS_MAX: Final = 1_000  # as many as the operations of a batch
EFFECT_OPERATIONS_MAX: Final = 1_000
EFFECT_HOPS_MAX: Final = 16  # event -> effect -> event ...: a handler that writes what it watches
DEAD_LETTERS_MAX: Final = 10_000  # per group; a full list stops the group and loses nothing
ERROR_BYTES_MAX: Final = 4_096  # of the error text kept with a dead letter
READ_ROWS_MAX: Final = 1_000  # rows of one listing

INTEGER_MAX: Final = 2**63 - 1  # what SQLite stores; msgpack would carry one bit more

assert PARTITIONS_MAX & (PARTITIONS_MAX - 1) == 0, "the hash is masked, so a power of two"
assert PARTITIONS_DEFAULT <= PARTITIONS_MAX
assert SESSION_TTL_MS_MIN < SESSION_TTL_MS_MAX
assert READ_BYTES_MAX <= TAIL_BYTES_MAX, "a reader at the head is served from memory"
assert EXPIRE_MEMBERSHIPS_MAX >= 1
