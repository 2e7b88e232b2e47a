"""What a handler is: its definition, complete and valid (`config` makes it from a table)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pubsub.limits import PARTITIONS_DEFAULT
from pubsub.topics import Pattern

GROUP_PREFIX: Final = "hook."
NODE_MARK: Final = "@"  # in no handler's name
RATE_UNITS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000}

Path = tuple[str | int, ...]


class HandlerType(StrEnum):
    """Where the code of a handler runs."""

    IN_PROCESS = "in_process"  # a Python function in the handler host of its node
    SHELL = "shell"  # a command
    FILE = "file"  # a file of this node, rendered from the cluster's members or from keys


class Scope(StrEnum):
    """Which nodes handle an event."""

    CLUSTER = "cluster"  # one node of the cluster
    NODE = "node"  # every node, each with a place of its own in the log
    LEADER = "leader"  # the node that leads
    SELECTOR = "selector"  # one of the nodes whose labels fit


class OrderBy(StrEnum):
    """Which events of a handler are handled one after the other; debounce and throttle count by
    the same."""

    KEY = "key"  # those of one key; of one topic where there is no key
    HANDLER = "handler"  # all of them; needs a single partition


class OnFailure(StrEnum):
    """What becomes of an event whose last attempt failed."""

    DEAD_LETTER = "dead_letter"  # kept in the group's dead letters, with the error
    SKIP = "skip"  # counted and passed over
    BLOCK = "block"  # tried again until it succeeds; later events of its key wait


class Renderer(StrEnum):
    """What a rendered file looks like."""

    HOSTS = "hosts"  # lines of an address and a name, as in /etc/hosts
    FILE_SD = "file_sd"  # targets for Prometheus's file-based service discovery


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: Path  # of the key, from the top of the file
    message: str
    suggestion: str | None = None  # the spelling that was probably meant

    def __str__(self) -> str:
        meant = f' (did you mean "{self.suggestion}"?)' if self.suggestion else ""
        return f"{'.'.join(str(part) for part in self.path)}: {self.message}{meant}"


class Rate(NamedTuple):
    """So many starts in so much time."""

    starts: int
    period_ms: int

    def __str__(self) -> str:
        unit = next(unit for unit, ms in RATE_UNITS.items() if ms == self.period_ms)
        return f"{self.starts}/{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerDefinition:
    """One handler, complete and valid.

    Every key but `LOCAL_KEYS` is part of the handler's policy, which is registered in the
    replicated state: every node routes and handles by that, whatever its own file says. The code
    itself, and whether it must load, is a matter of each node.
    """

    name: str
    pattern: Pattern
    type: HandlerType
    version: int = 1  # a registered policy gives way to the same or a higher version only
    filter: str | None = None  # a condition in CEL; what it is false for is passed over
    scope: Scope = Scope.CLUSTER
    selector: tuple[tuple[str, str], ...] = ()  # scope selector: labels that a node must have
    partitions: int = PARTITIONS_DEFAULT
    order_by: OrderBy = OrderBy.KEY
    start: str | int = "latest"  # where a handler begins that the cluster has never seen
    priority: int = 100  # on one node, starts for one event come in this order, lowest first
    after: tuple[str, ...] = ()  # handlers that must be done with an event before this one starts
    concurrency: int = 8  # attempts at a time on one node; of one key it is always one
    rate_limit: Rate | None = None  # starts of this handler, over all nodes
    rate_limit_per_key: Rate | None = None
    debounce_ms: int = 0  # wait until so long nothing came; then only the newest is handled
    debounce_ms_max: int = 0  # but never longer than this after the first; 0: ten times debounce_ms
    throttle_ms: int = 0  # at most one start in so long; of what came meanwhile only the newest
    batch_max: int = 1  # events of one partition in one attempt
    batch_wait_ms: int = 0  # how long a batch that is not full waits for more
    timeout_ms: int = 5_000
    retry_count: int = 3  # attempts after the first
    on_failure: OnFailure = OnFailure.DEAD_LETTER
    breaker_failures: int = 0  # attempts in a row that failed on one node open its breaker; 0: none
    breaker_open_ms: int = 30_000  # then nothing starts there for so long, and after it one probe
    report_executions: bool = False  # an event `hooks.hook.executed` for each that it handled

    enabled: bool = True  # what the cluster begins with; `cluster hook enable` and `disable` decide
    required: bool = False  # the node does not start when this handler cannot be loaded
    handler_id: str | None = None  # in_process: the name under which the function is registered
    command: tuple[str, ...] = ()  # shell: the argument vector, or one text for `sh -c`
    shell: bool = False  # shell: give the command to `sh -c`
    working_dir: str | None = None
    env: tuple[str, ...] = ()  # shell: variables of the node's environment that are passed on
    output_bytes_max: int = 64 * 1024  # shell: kept of what it prints
    final_exit_codes: tuple[int, ...] = ()  # shell: failures that trying again cannot mend
    cpu_seconds_max: int | None = None  # shell: limits of the operating system, per attempt
    memory_bytes_max: int | None = None
    open_files_max: int | None = None
    file_bytes_max: int | None = None  # of one file that it writes
    path: str | None = None  # file: where it is
    renderer: Renderer = Renderer.HOSTS
    source: str = "members"  # file: "members", or the prefix of the keys that it is made from
    domain: str | None = None  # file, hosts: is appended to each name
    port: int | None = None  # file, file_sd: of the targets that name none
    labels: tuple[tuple[str, str], ...] = ()  # file, file_sd: of every target
    mode: int = 0o644  # file: its permissions

    def group_of(self, node: str) -> str:
        """The consumer group that holds this handler's place on `node`."""
        return group_name(self.name, node if self.scope is Scope.NODE else None)

    def policy(self) -> dict[str, object]:
        """The registered part, as msgpack and JSON carry it."""
        return {key: value for key, value in self.as_dict().items() if key not in LOCAL_KEYS}

    def with_policy(self, policy: Mapping[str, Any]) -> "HandlerDefinition":
        """This node's code under the registered policy; keys of newer releases are passed over."""
        known: dict[str, Any] = {
            key: _BUILDERS[key](value) if key in _BUILDERS and value is not None else value
            for key, value in policy.items()
            if key in _POLICY_KEYS
        }
        return replace(self, **known)

    @classmethod
    def of_policy(cls, policy: Mapping[str, Any]) -> "HandlerDefinition":
        """A registered handler whose code this node need not have."""
        bare = cls(name=policy["name"], pattern=Pattern(">"), type=HandlerType(policy["type"]))
        return bare.with_policy(policy)

    def as_dict(self) -> dict[str, object]:
        """For people and programs: the configuration keys with the values in force."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def group_name(handler: str, node: str | None = None) -> str:
    """The name of a handler's consumer group; of one with scope node, that of `node`."""
    return f"{GROUP_PREFIX}{handler}" + ("" if node is None else f"{NODE_MARK}{node}")


def handler_of(group: str) -> str | None:
    """The handler that a consumer group belongs to, or None when it is no handler's group."""
    if not group.startswith(GROUP_PREFIX):
        return None
    return group.removeprefix(GROUP_PREFIX).partition(NODE_MARK)[0]


LOCAL_KEYS: Final = frozenset(
    (
        "enabled", "required", "handler_id", "command", "shell", "working_dir", "env",
        "output_bytes_max", "final_exit_codes", "cpu_seconds_max", "memory_bytes_max",
        "open_files_max", "file_bytes_max", "path", "renderer", "source", "domain", "port",
        "labels", "mode",
    )
)  # fmt: skip
_POLICY_KEYS: Final = frozenset(field.name for field in fields(HandlerDefinition)) - LOCAL_KEYS
_BUILDERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "pattern": Pattern,
    "type": HandlerType,
    "scope": Scope,
    "selector": lambda labels: tuple(sorted(dict(labels).items())),
    "order_by": OrderBy,
    "after": tuple,
    "rate_limit": lambda text: parse_rate(text),
    "rate_limit_per_key": lambda text: parse_rate(text),
    "on_failure": OnFailure,
}


def parse_rate(text: str) -> Rate:
    """A rate like `10/s` or `5/m`; raises ValueError on anything else."""
    count, _, unit = text.partition("/")
    if not (count.isascii() and count.isdigit() and int(count) and unit in RATE_UNITS):
        raise ValueError(f'"{text}" is no rate; like "10/s", "100/m" or "5/h" is expected')
    return Rate(int(count), RATE_UNITS[unit])


def _plain(value: Any) -> object:
    if isinstance(value, Pattern):
        return value.text
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Rate):
        return str(value)
    if isinstance(value, tuple):
        return dict(value) if value and isinstance(value[0], tuple) else list(value)
    return value
