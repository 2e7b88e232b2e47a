"""What a handler is: its definition, complete and valid (hooks.config makes it from a table)."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from pubsub.limits import PARTITIONS_DEFAULT
from pubsub.topics import Pattern

GROUP_PREFIX: Final = "hook."

Path = tuple[str | int, ...]


class HandlerType(StrEnum):
    """Where the code of a handler runs."""

    IN_PROCESS = "in_process"  # a Python function in the handler host of its node
    SHELL = "shell"  # a command


class OnFailure(StrEnum):
    """What becomes of an event whose last attempt failed."""

    DEAD_LETTER = "dead_letter"  # kept in the group's dead letters, with the error
    SKIP = "skip"  # counted and passed over
    BLOCK = "block"  # tried again until it succeeds; later events of its key wait


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: Path  # of the key, from the top of the file
    message: str
    suggestion: str | None = None  # the spelling that was probably meant

    def __str__(self) -> str:
        meant = f' (did you mean "{self.suggestion}"?)' if self.suggestion else ""
        return f"{'.'.join(str(part) for part in self.path)}: {self.message}{meant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerDefinition:
    """One handler, complete and valid."""

    name: str
    pattern: Pattern
    type: HandlerType
    handler_id: str | None = None  # in_process: the name under which the function is registered
    command: tuple[str, ...] = ()  # shell: the argument vector, or one text for `sh -c`
    shell: bool = False  # shell: give the command to `sh -c`
    working_dir: str | None = None
    env: tuple[str, ...] = ()  # shell: variables of the node's environment that are passed on
    output_bytes_max: int = 64 * 1024  # shell: kept of what it prints
    timeout_ms: int = 5_000
    retry_count: int = 3  # attempts after the first
    enabled: bool = True
    scope: str = "cluster"
    concurrency: int = 8  # attempts at a time on one node; of one key it is always one
    partitions: int = PARTITIONS_DEFAULT
    priority: int = 100  # on one node, starts for one event come in this order, lowest first
    start: str | int = "latest"  # where a handler begins that the cluster has never seen
    on_failure: OnFailure = OnFailure.DEAD_LETTER

    @property
    def group(self) -> str:
        """The consumer group that holds this handler's place."""
        return GROUP_PREFIX + self.name

    def as_dict(self) -> dict[str, object]:
        """For people and programs: the configuration keys with the values in force."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["pattern"] = self.pattern.text
        plain["type"], plain["on_failure"] = self.type.value, self.on_failure.value
        plain["command"], plain["env"] = list(self.command), list(self.env)
        return plain
