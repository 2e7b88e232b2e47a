"""Every bound of the hook service: unit, reason, precedent.

What decides about replicated state is a constant of `pubsub.limits`. These here concern one node,
so they are the fields of a value that the node is given: a configuration may change each of them.
Relations between them are checked when the value is made.
"""

from dataclasses import dataclass

from pubsub.limits import (
    COMPLETIONS_MAX,
    EFFECT_OPERATIONS_MAX,
    ERROR_BYTES_MAX,
    SESSION_TTL_MS_MAX,
    SESSION_TTL_MS_MIN,
)

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HookLimits:
    """The bounds of the hook service of one node, with their defaults."""

    # Definitions. Aspen: 64 handlers, names of 128 bytes, commands of 4 KiB, 30 s, 5 retries. More
    # retries are allowed here, because between the last two of ten lie only ten seconds.
    handlers_max: int = 64
    handler_name_bytes_max: int = 128
    command_bytes_max: int = 4 * KIB
    command_arguments_max: int = 100
    environment_names_max: int = 100
    handler_timeout_ms_max: int = 30_000
    retry_count_max: int = 10
    concurrency_max: int = 256
    output_bytes_max: int = 1 * MIB  # kept of a shell handler's output; what follows is read away

    # Execution, per node. Aspen allows 32 at once and drops the 33rd; here it waits in the log.
    attempts_in_flight_max: int = 32
    backoff_first_ms: int = 100
    backoff_ms_max: int = 10_000
    shell_grace_ms: int = 5_000  # between TERM and KILL; longer would delay a hand-over
    error_bytes_max: int = 2 * KIB  # kept of an attempt's error, for the dead letter and the log

    # Effects of one event: they travel in one command with its completion record.
    effects_per_event_max: int = 100
    effects_bytes_max: int = 1 * MIB

    # Reading. A slice is what the node's loop does between two chances for Raft to run.
    read_events_max: int = 128
    read_bytes_max: int = 1 * MIB
    handler_events_max: int = 512  # read and unfinished, per handler; past it reading stops
    partition_events_max: int = 128  # the same per partition: one stuck key stops only its own
    completed_ahead_max: int = 1_024  # completed above the floor of one partition
    buffered_bytes_max: int = 64 * MIB  # of the events above, shared evenly by the handlers
    topics_cached_max: int = 4_096  # topics whose handlers are remembered; then all are forgotten

    # Checkpoints. What completed since the last one may run again after a crash: per handler and
    # node at most `unsettled_events_max` events, and in normal operation those of the last
    # `checkpoint_ms` plus one commit.
    checkpoint_ms: int = 200
    checkpoint_events: int = 256  # so many completions do not wait for `checkpoint_ms`
    unsettled_events_max: int = 512  # completed and unconfirmed; past it nothing new starts
    checkpoint_bytes_max: int = 1 * MIB  # of effects in one command, well below a request's 4 MiB
    floor_checkpoint_ms: int = 5_000  # how often a floor that only saw other topics is written

    # Session of this node as a member. Kafka's defaults are 45 s and 3 s, and a takeover that slow.
    member_ttl_ms: int = 10_000
    keepalive_ms: int = 2_500
    lease_margin_ms: int = 1_000  # by which a member stops before the cluster may give up on it
    assignments_poll_ms: int = 250
    rejected_pause_ms: int = 1_000  # before a refused or unanswered command is sent again
    drain_ms_max: int = 40_000  # at a stop, for running attempts: the longest timeout and more
    settle_ms_max: int = 5_000  # at a stop, for the last checkpoints and the leave

    # The handler host.
    host_frame_bytes_max: int = 8 * MIB  # one largest event or one largest set of effects, twice
    host_grace_ms: int = 500  # for an attempt to end once it must, before its host is killed
    host_start_ms_max: int = 30_000  # to start an interpreter and to import the users' modules
    host_restart_ms_first: int = 100
    host_restart_ms_max: int = 5_000
    host_log_line_bytes_max: int = 4 * KIB

    def __post_init__(self) -> None:
        assert self.partition_events_max <= self.handler_events_max
        assert 2 * self.read_events_max <= self.handler_events_max, "or much is read in vain"
        assert self.completed_ahead_max <= COMPLETIONS_MAX, "a checkpoint would be refused"
        assert self.checkpoint_events <= self.unsettled_events_max, "work would stop for a timer"
        assert self.effects_per_event_max <= EFFECT_OPERATIONS_MAX
        assert self.effects_bytes_max <= self.checkpoint_bytes_max
        assert self.effects_bytes_max < self.host_frame_bytes_max
        assert self.error_bytes_max <= ERROR_BYTES_MAX
        assert SESSION_TTL_MS_MIN <= self.member_ttl_ms <= SESSION_TTL_MS_MAX
        assert 2 * self.keepalive_ms < self.member_ttl_ms - self.lease_margin_ms, (
            "one lost keepalive must not end the session"
        )
        assert self.host_grace_ms <= self.lease_margin_ms, "a successor would start too early"
        assert self.handler_timeout_ms_max + self.shell_grace_ms <= self.drain_ms_max
        assert self.backoff_first_ms <= self.backoff_ms_max


DEFAULT_LIMITS = HookLimits()
