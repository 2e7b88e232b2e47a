"""The keys of a handler's table: the type, bounds and meaning of each, one parser per key.

What keys demand of each other is in `relations`. Deciding code: it looks at no file, no clock and
no environment.
"""

import re
import shlex
from typing import Final

from hooks import conditions
from hooks.configuration.definition import HandlerType, OnFailure, OrderBy, Renderer, Scope
from hooks.configuration.parsers import (
    Parser,
    TableReader,
    choice,
    flag,
    is_number,
    labels,
    number,
    prometheus_labels,
    rate,
    text,
)
from hooks.events import catalogue
from pubsub.limits import INTEGER_MAX, PARTITIONS_MAX
from pubsub.topics import closest, is_reserved

PRIORITY_MAX: Final = 1_000
MEMBERS_SOURCE: Final = "members"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOMAIN: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9-]{1,63}")
_DOMAIN_BYTES_MAX: Final = 253
_SOURCE_BYTES_MAX: Final = 1_024  # as of any key
_READABLE: Final = 0o400
_MODE_BITS: Final = 0o644
# From a second of processor time up; more than a day is no attempt.
_CPU_SECONDS_MAX: Final = 86_400
_MEMORY_BYTES_MIN: Final = 1 << 20  # below it no program starts
_OPEN_FILES_MIN: Final = 8  # the three of every program, its own file, libraries
_OPEN_FILES_MAX: Final = 1 << 20


def pattern_problem(value: object) -> tuple[str, str | None] | None:
    """What is wrong with a handler's pattern and the nearest right one: a misspelt topic of the
    cluster would register and stay silent for ever. Topics of users cannot be checked."""
    if not isinstance(value, str):
        return "a text is expected", None
    if problem := catalogue.pattern_problem(value):
        return problem.removeprefix("pattern: "), None
    first, _, rest = value.partition(".")
    if not is_reserved(value) and rest and closest(first, ("hooks",)):
        meant = f"hooks.{rest}"
        if catalogue.pattern_problem(meant) is None:
            return 'the topics of the cluster begin with "hooks."', meant
    return None


def name_problem(value: object, bytes_max: int) -> str | None:
    """What is wrong with the name of a handler."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > bytes_max:
        return (
            f"1 to {bytes_max} of the characters A-Z a-z 0-9 . _ - are expected,"
            " the first a letter or a digit"
        )
    return None


def _name(reader: TableReader, key: str, value: object) -> object:
    if wrong := name_problem(value, reader.limits.handler_name_bytes_max):
        reader.problem(key, wrong)
        return None
    return value


def _pattern(reader: TableReader, key: str, value: object) -> object:
    if wrong := pattern_problem(value):
        reader.problem(key, *wrong)
        return None
    return value


def _filter(reader: TableReader, key: str, value: object) -> object:
    if (condition := text(reader, key, value)) is None:
        return None
    if wrong := conditions.problem(condition):
        reader.problem(key, wrong)
        return None
    return condition


def _partitions(reader: TableReader, key: str, value: object) -> object:
    count = number(1, PARTITIONS_MAX)(reader, key, value)
    if isinstance(count, int) and count & (count - 1):
        reader.problem(key, "a power of two is expected: it is fixed for the handler's life")
        return None
    return count


def _start(reader: TableReader, key: str, value: object) -> object:
    if value in ("latest", "earliest") or is_number(value, 1, INTEGER_MAX):
        return value
    meant = closest(value, ("latest", "earliest")) if isinstance(value, str) else None
    reader.problem(key, '"latest", "earliest" or a revision from 1 is expected', meant)
    return None


def _after(reader: TableReader, key: str, value: object) -> object:
    """One name or several; whether there are such handlers is seen when all are known."""
    limits = reader.limits
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        reader.problem(key, "the name of a handler or a non-empty list of names is expected")
        return None
    if len(names) > limits.after_max:
        reader.problem(key, f"{len(names)} names; at most {limits.after_max}")
        return None
    for position, each in enumerate(names):
        if wrong := name_problem(each, limits.handler_name_bytes_max):
            reader.problem(key, wrong)
            return None
        if each in names[:position]:
            reader.problem(key, f'"{each}" stands here twice')
            return None
    return tuple(names)


def _command(reader: TableReader, key: str, value: object) -> object:
    """A list is the argument vector; a text is split like a shell would, but not given to one."""
    arguments: object = value
    if isinstance(value, str):
        try:
            arguments = [value] if reader.table.get("shell") is True else shlex.split(value)
        except ValueError as error:
            reader.problem(key, f"cannot be split into arguments: {str(error).lower()}")
            return None
    if not isinstance(arguments, list | tuple) or not arguments or not arguments[0]:
        reader.problem(key, "a text or a non-empty list of texts is expected")
        return None
    if not all(isinstance(argument, str) and "\0" not in argument for argument in arguments):
        reader.problem(key, "every argument must be a text without NUL")
        return None
    limits = reader.limits
    if len(arguments) > limits.command_arguments_max:
        reader.problem(key, f"{len(arguments)} arguments; at most {limits.command_arguments_max}")
        return None
    size = sum(len(argument.encode(errors="replace")) + 1 for argument in arguments)
    if size > limits.command_bytes_max:
        reader.problem(key, f"{size} bytes; at most {limits.command_bytes_max}")
        return None
    return tuple(arguments)


def variables(reader: TableReader, key: str, value: object) -> tuple[str, ...] | None:
    """Names of environment variables."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and _VARIABLE.fullmatch(name) for name in value
    ):
        reader.problem(key, "a list of names of environment variables is expected")
        return None
    if len(value) > reader.limits.environment_names_max:
        reader.problem(key, f"at most {reader.limits.environment_names_max} names")
        return None
    return tuple(value)


def _exit_codes(reader: TableReader, key: str, value: object) -> object:
    if not isinstance(value, list | tuple) or not all(is_number(code, 1, 255) for code in value):
        reader.problem(key, "a list of exit codes from 1 to 255 is expected")
        return None
    return tuple(sorted(set(value)))


def _path(reader: TableReader, key: str, value: object) -> object:
    found = text(reader, key, value)
    if found is not None and (found.endswith("/") or found.rpartition("/")[2] in (".", "..")):
        reader.problem(key, "the path of a file is expected, not of a folder")
        return None
    return found


def _source(reader: TableReader, key: str, value: object) -> object:
    found = text(reader, key, value)
    if found is None or found == MEMBERS_SOURCE:
        return found
    if len(found.encode(errors="replace")) > _SOURCE_BYTES_MAX:
        reader.problem(key, f"longer than {_SOURCE_BYTES_MAX} bytes")
        return None
    if closest(found, (MEMBERS_SOURCE,)):
        reader.problem(key, "as the prefix of keys it would end in a separator", MEMBERS_SOURCE)
        return None
    return found


def _domain(reader: TableReader, key: str, value: object) -> object:
    if not isinstance(value, str) or not _DOMAIN.fullmatch(value) or len(value) > _DOMAIN_BYTES_MAX:
        reader.problem(key, 'a domain name is expected, like "cluster.internal"')
        return None
    return value


def _mode(reader: TableReader, key: str, value: object) -> object:
    """A decimal that was meant as octal has bits that no rendered file needs: 644 is 0o1204."""
    bits = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if bits < 0 or bits & ~_MODE_BITS or not bits & _READABLE:
        message = "permissions like 0o644 or 0o600 are expected: the node writes, others read"
        reader.problem(key, message)
        return None
    return bits


_NO_JOBS: Final = "there are no jobs yet"
_NO_FORWARDING: Final = "forwarding to another cluster does not exist yet"
_SHAPING_MS = number(0, lambda limits: limits.shaping_ms_max)

KEYS: Final[dict[str, Parser]] = {
    "name": _name,
    "pattern": _pattern,
    "execution_mode": choice(("direct",), str, {"job": f'{_NO_JOBS}; use "direct"'}),
    "type": choice(
        tuple(HandlerType),
        HandlerType,
        {"forward": _NO_FORWARDING, "webhook": "webhooks do not exist yet", "job": _NO_JOBS},
    ),
    "version": number(1, INTEGER_MAX),
    "filter": _filter,
    "scope": choice(tuple(Scope), Scope),
    "selector": labels,
    "partitions": _partitions,
    "order_by": choice(tuple(OrderBy), OrderBy),
    "start": _start,
    "priority": number(0, PRIORITY_MAX),
    "after": _after,
    "concurrency": number(1, lambda limits: limits.concurrency_max),
    "rate_limit": rate,
    "rate_limit_per_key": rate,
    "debounce_ms": _SHAPING_MS,
    "debounce_ms_max": _SHAPING_MS,
    "throttle_ms": _SHAPING_MS,
    "batch_max": number(1, lambda limits: limits.partition_events_max),
    "batch_wait_ms": _SHAPING_MS,
    "timeout_ms": number(1, lambda limits: limits.handler_timeout_ms_max),
    "retry_count": number(0, lambda limits: limits.retry_count_max),
    "on_failure": choice(tuple(OnFailure), OnFailure),
    "breaker_failures": number(0, lambda limits: limits.breaker_failures_max),
    "breaker_open_ms": number(1, lambda limits: limits.shaping_ms_max),
    "report_executions": flag,
    "enabled": flag,
    "required": flag,
    "handler_id": text,
    "command": _command,
    "shell": flag,
    "working_dir": text,
    "env": variables,
    "output_bytes_max": number(0, lambda limits: limits.output_bytes_max),
    "final_exit_codes": _exit_codes,
    "cpu_seconds_max": number(1, _CPU_SECONDS_MAX),
    "memory_bytes_max": number(_MEMORY_BYTES_MIN, INTEGER_MAX),
    "open_files_max": number(_OPEN_FILES_MIN, _OPEN_FILES_MAX),
    "file_bytes_max": number(0, INTEGER_MAX),
    "path": _path,
    "renderer": choice(tuple(Renderer), Renderer),
    "source": _source,
    "domain": _domain,
    "port": number(1, 65_535),
    "labels": prometheus_labels,
    "mode": _mode,
}

# Keys of the design that nothing reads yet.
NOT_YET: Final[dict[str, str]] = {
    "job_priority": _NO_JOBS,
    "target_cluster": _NO_FORWARDING,
    "target_topic": _NO_FORWARDING,
}
