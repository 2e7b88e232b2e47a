"""Every bound of the hook service: unit, reason, precedent.

What decides about replicated state is a constant, here or in `pubsub.limits`. What concerns one
node is a field of a value that the node is given: a configuration may change each of them.
Relations between them are checked when the value is made.
"""

from dataclasses import dataclass
from typing import Final

from pubsub.limits import (
    COMPLETIONS_MAX,
    EFFECT_OPERATIONS_MAX,
    ERROR_BYTES_MAX,
    GROUPS_MAX,
    SESSION_TTL_MS_MAX,
    SESSION_TTL_MS_MIN,
)

KIB = 1024
MIB = 1024 * 1024

# The state that is replicated: the same on every node of one entry version. A policy is a few
# hundred bytes; what makes it long are a condition and names of other handlers.
HOOKS_MAX: Final = 1_000  # handlers of a cluster, the removed ones too: each has a group
POLICY_BYTES_MAX: Final = 32 * KIB
POLICY_DEPTH_MAX: Final = 4  # maps and lists inside of each other
PROBLEM_BYTES_MAX: Final = 2 * KIB  # kept of why a handler does not run on a node
REASON_BYTES_MAX: Final = 1 * KIB  # why somebody disabled a handler: a sentence
PUBLISH_TOPICS_MAX: Final = 100  # patterns; each topic is matched once and then remembered
PUBLISH_TOPICS_BYTES_MAX: Final = 16 * KIB  # of them together: they stand in an event

# Conditions. Every node must say the same of an event, so these are no settings of one node.
# Kubernetes bounds CEL in the same way, by an estimate from the text and the sizes of the values.
CONDITION_BYTES_MAX: Final = 2 * KIB
CONDITION_TOKENS_MAX: Final = 512  # a chain of so many operators takes the library half a MiB stack
CONDITION_DEPTH_MAX: Final = 32  # brackets in brackets: some 8 KiB of stack each
CONDITION_MACROS_MAX: Final = 8  # all, exists, exists_one; never one inside of another
CONDITION_REGEXES_MAX: Final = 4  # each is compiled anew for each event
REGEX_WEIGHT_MAX: Final = 2_048  # some 2 ms to compile
CONDITION_COST_MAX: Final = 32 * MIB  # units of at most some 10 ns, of one condition and event
CONDITION_JSON_BYTES_MAX: Final = 64 * KIB  # of a value that a condition reads as JSON
CONDITION_VALUE_DEPTH_MAX: Final = 64  # lists and maps inside of each other in what is looked at
CONDITION_ERROR_BYTES_MAX: Final = 512  # of what a condition says that failed
CONDITIONS_KEPT_MAX: Final = 1_024  # ready to be asked, per process: more than there are handlers

assert HOOKS_MAX <= GROUPS_MAX, "each has a group at least"
assert HOOKS_MAX <= CONDITIONS_KEPT_MAX, "each event would have them made again"
assert CONDITION_BYTES_MAX < POLICY_BYTES_MAX, "no policy with a condition could be registered"


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
    shaping_ms_max: int = 86_400_000  # to wait for more or for calm: a day; a schedule waits longer
    rate_per_second_max: int = 100_000  # in rates: a cluster starts fewer, so more limits nothing
    breaker_failures_max: int = 1_000
    after_max: int = 16  # handlers that one waits for
    labels_max: int = 32  # of a node, of a selector, of a target
    directory_files_max: int = 256  # in hooks.d: each is read at the start and watched

    # Execution, per node. Aspen allows 32 at once and drops the 33rd; here it waits in the log.
    attempts_in_flight_max: int = 128
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
    shaping_keys_max: int = 8_192  # keys whose last starts are remembered: the others count anew
    after_checks_max: int = 64  # events asked about at a time that wait for another handler
    after_turn_ms: int = 10  # until the others are asked about
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
    register_pause_ms: int = 10_000  # until a cluster of an older release is asked again
    leader_drain_ms: int = 2_000  # attempts of scope leader go on so long without the leadership
    watch_poll_ms: int = 1_000  # between two looks at the files that handlers are made from
    history_attempts_max: int = 100  # kept per handler and node for `cluster hook history`
    history_coalesced_max: int = 1_024  # events that newer ones stood for, kept in the same way

    # Questions about handlers. A client asks again while it waits; whoever is gone holds no place.
    waits_max: int = 1_024  # `hooks.wait` under way
    wait_ms_max: int = 10_000  # of one `hooks.wait`
    backtests_max: int = 2  # `hooks.test` under way: each takes its share of the loop
    backtest_events_max: int = 10_000  # that one `hooks.test` looks at; the next one goes on
    backtest_ms_max: int = 1_000  # of one `hooks.test`, but for the one attempt that it is at
    backtest_slice_ms: int = 2  # until the loop may do something else, as a heartbeat
    answers_shown_max: int = 100  # matches, errors, attempts that one answer names

    # Commands and rendered files. Prometheus reads a file_sd of some thousand targets with ease.
    output_shown_bytes_max: int = 4 * KIB  # of a command's output, in the history
    rendered_keys_max: int = 10_000  # that one file is made from
    rendered_bytes_max: int = 4 * MIB  # of their values, and of the file

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
