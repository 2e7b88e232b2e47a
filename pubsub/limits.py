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
TOPICS_REMEMBERED_MAX: Final = 4_096  # per reader: what the pattern says of them; then all anew

# Publishing. A message id is remembered as NATS does it, for two minutes; SQS and Service Bus: 5
# and 10 minutes by default. What is over goes in slices between two heartbeats.
MESSAGE_ID_BYTES_MAX: Final = 256
MESSAGE_ID_WINDOW_MS: Final = 120_000  # on the elapsed clock
MESSAGE_IDS_FORGOTTEN_MAX: Final = 5_000  # ids that one command forgets, a microsecond each
SCHEMA_VERSION_BYTES_MAX: Final = 256  # stands in each event: a name or a number, and no schema
# What an upgraded cluster looks through, once, for the newest event of each topic: a longer log
# would hold up the entry, and topics that are silent since then count as if nobody knew.
TAILS_ADOPTED_EVENTS_MAX: Final = 50_000
TAILS_ADOPTED_BYTES_MAX: Final = 16 * 1024 * 1024

# Delayed events. They are part of the state, so of every copy for a new node. SQS: 15 minutes.
DELAYED_EVENTS_MAX: Final = 1_000_000
DELAYED_BYTES_MAX: Final = 1024 * 1024 * 1024
DELAY_MS_MAX: Final = 10 * 366 * 86_400_000  # ten years; what is later is no plan
DELAYED_PUBLISHED_MAX: Final = 1_000  # events that come out with one command, in order ...
DELAYED_PUBLISHED_BYTES_MAX: Final = 4 * 1024 * 1024  # ... and their bytes, as of one request

# Retention. A slice is applied without a pause, and a heartbeat must not wait for it.
RETENTION_RULES_MAX: Final = 100  # Kafka and JetStream: one per topic or stream; ours are patterns
RETENTION_TRIMS_MAX: Final = 1_000  # patterns whose rules took something, the deleted ones as well
RETENTION_SLICE_BATCHES_MAX: Final = 250  # batches that one slice counts, and as many to take
RETENTION_SLICE_EVENTS_MAX: Final = 2_000  # in them, unless the first one has more
RETENTION_SLICE_BYTES_MAX: Final = 1024 * 1024  # the same in bytes
OVERLAPS_REMEMBERED_MAX: Final = 16_384  # pairs of patterns, per process

# Capture of values. Every put looks for its rule: once per different length of their prefixes.
CAPTURE_RULES_MAX: Final = 64
CAPTURE_PREFIX_BYTES_MAX: Final = 1024  # as of any key
CAPTURE_BYTES_MAX: Final = 1024 * 1024  # of a value whose beginning is kept: as large as a value
CAPTURE_BYTES_DEFAULT: Final = 1024

# What nodes report of themselves: a line for people, not a document.
REPORTING_NODES_MAX: Final = 1_000  # more than a cluster has members; removed ones are forgotten
REPORT_TEXT_BYTES_MAX: Final = 1024
REPORT_TEXTS_MAX: Final = 64  # changes or problems in one report

# Consumer groups. Kafka and JetStream leave these to the operator and pay with slow controllers.
GROUPS_MAX: Final = 1_000
MEMBERS_MAX: Final = 100  # members of one group: assignment is recomputed as a whole in apply
PARTITIONS_MAX: Final = 256  # a power of two, fixed for the life of a group
PARTITIONS_DEFAULT: Final = 16
SESSION_TTL_MS_MIN: Final = 500  # shorter than a leader change and every election expires members
SESSION_TTL_MS_MAX: Final = 3_600_000  # longer, and a dead owner's partitions stand still for hours
EXPIRE_MEMBERSHIPS_MAX: Final = 64  # (member, group) pairs removed by one command: a bounded apply

COOLDOWN_MS_MAX: Final = 3_600_000  # longer, and a new member has nothing to do for hours
REBALANCED_GROUPS_MAX: Final = 16  # groups that one group.rebalance assigns anew

# Competing groups: what is leased, waits or is held is a row or a part of one, all in apply's way.
LEASE_MS_MIN: Final = 500  # shorter than a leader change, and every election redelivers
LEASE_MS_MAX: Final = 43_200_000  # SQS: 12 hours
DELIVERIES_MAX: Final = 1_000  # of one event, before it is a dead letter
BACKOFF_STEPS_MAX: Final = 16
REDELIVERY_DELAY_MS_MAX: Final = 604_800_000  # a week; what waits longer belongs in a schedule
IN_FLIGHT_MAX: Final = 10_000  # leased events of one group (JetStream: max_ack_pending, 1,000)
WAITING_MAX: Final = 10_000  # events of one group to be delivered again: then nothing new is read
HELD_MAX: Final = 10_000  # events read ahead behind others of their key: then nothing new is read
FETCH_EVENTS_MAX: Final = 1_000  # leased by one fetch
FETCH_LOOK_EVENTS_MAX: Final = 10_000  # looked at by one fetch, whether or not they match
FETCH_LOOK_BYTES_MAX: Final = 4 * 1024 * 1024  # of the batches looked at, after the first of them
SETTLE_ITEMS_MAX: Final = 1_000  # as many as one fetch leases
LEASES_ENDED_EVENTS_MAX: Final = 1_000  # events given back by one command, after its first lease
LETTERS_WRITTEN_MAX: Final = 100  # dead letters that found the list full, written by one fetch
PATTERNS_COMPILED_MAX: Final = 1_024  # kept by a node: more than there are groups
OUTLINES_MAX: Final = 16_384  # events whose topic and key a node remembers for fetches, some 3 MiB

# One checkpoint command.
COMPLETIONS_MAX: Final = 4_096  # completed events above the floor of one partition
CHECKPOINT_EFFECTS_MAX: Final = 1_000  # as many as the operations of a batch
EFFECT_OPERATIONS_MAX: Final = 1_000
SKIPPED_MAX: Final = 10_000  # events given up without dead letters: as many as with them
EXECUTED_MAX: Final = 512  # attempts that are told: each looks its event up, 10 to 40 us
EFFECT_HOPS_MAX: Final = 16  # event -> effect -> event ...: a handler that writes what it watches
DEAD_LETTERS_MAX: Final = 10_000  # per group; a full list stops the group and loses nothing
ERROR_BYTES_MAX: Final = 4_096  # of the error text kept with a dead letter
LETTER_COPIES_BYTES_MAX: Final = 64 * 1024 * 1024  # per group: 10,000 letters of 6 KiB
REDRIVE_BYTES_MAX: Final = 4 * 1024 * 1024  # events that one redrive gives back, as of one request
READ_ROWS_MAX: Final = 1_000  # rows of one listing

# Replays.
REPLAYS_MAX: Final = 100  # under way, and ended lately
REPLAY_STEP_EVENTS_MAX: Final = 1_000  # events that one step looks at
REPLAY_RATE_MAX: Final = 1_000_000  # events per second; more is no limit
REPLAY_KEY_BYTES_MAX: Final = 1_024  # as of any key

# The event index and queries of the event store. They bound a node's work and memory; no answer
# depends on them.
INDEX_LAG_EVENTS_MAX: Final = 65_536  # the index gives way to writes until it is so far behind
INDEX_RUN_TOPICS_MAX: Final = 1_024  # listed for a part of the index; with more, wildcards scan
INDEX_RUN_TOPICS_BYTES_MAX: Final = 64 * 1024  # of that list
QUERY_TOPICS_MAX: Final = 64  # that one pattern is taken for; a pattern with more goes without
QUERY_EXAMINED_MAX: Final = 20_000  # events and index entries looked at for one page: ~30 ms
TRACE_EVENTS_MAX: Final = 10_000  # of one answer of a trace
TRACE_EXAMINED_MAX: Final = 1_000_000  # looked at for it, when the index is not there yet

INTEGER_MAX: Final = 2**63 - 1  # what SQLite stores; msgpack would carry one bit more

assert PARTITIONS_MAX & (PARTITIONS_MAX - 1) == 0, "the hash is masked, so a power of two"
assert PARTITIONS_DEFAULT <= PARTITIONS_MAX
assert SESSION_TTL_MS_MIN < SESSION_TTL_MS_MAX
assert READ_BYTES_MAX <= TAIL_BYTES_MAX, "a reader at the head is served from memory"
assert EXPIRE_MEMBERSHIPS_MAX >= 1
