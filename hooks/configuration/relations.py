"""What the keys of a handler demand of each other, and handlers of other handlers. Deciding code.

Nothing is accepted and then ignored: a key that has no effect beside another one is a problem. What
a key's absence means can depend on others as well, so that the defaults that do stand here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from hooks.configuration.definition import (
    HandlerDefinition,
    HandlerType,
    OrderBy,
    Renderer,
    Scope,
)
from hooks.configuration.keys import KEYS, MEMBERS_SOURCE
from hooks.configuration.parsers import TableReader
from hooks.events.catalogue import ABOUT_HOOKS
from pubsub.topics import closest

FILE_DEBOUNCE_MS: Final = 200  # many changes at once are one file
# An attempt is a message to the handler host and one back: few under way would wait for each other.
IN_PROCESS_CONCURRENCY: Final = 64
MEMBERS_PATTERN: Final = "hooks.cluster.>"
KEYS_PATTERN: Final = "hooks.kv.*"

_OF_TYPE: Final[Mapping[HandlerType, tuple[str, ...]]] = {
    HandlerType.IN_PROCESS: ("handler_id",),
    HandlerType.SHELL: (
        "command", "shell", "working_dir", "env", "output_bytes_max", "final_exit_codes",
        "cpu_seconds_max", "memory_bytes_max", "open_files_max", "file_bytes_max",
    ),
    HandlerType.FILE: ("path", "renderer", "source", "domain", "port", "labels", "mode"),
}  # fmt: skip
_NEEDED: Final[Mapping[HandlerType, str]] = {
    HandlerType.IN_PROCESS: "handler_id",
    HandlerType.SHELL: "command",
    HandlerType.FILE: "path",
}
_OF_RENDERER: Final[Mapping[str, Renderer]] = {
    "domain": Renderer.HOSTS,
    "port": Renderer.FILE_SD,
    "labels": Renderer.FILE_SD,
}
_OF_TABLES: Final = (
    "type", "execution_mode", "handler_id", *_OF_TYPE[HandlerType.SHELL],
    *_OF_TYPE[HandlerType.FILE],
)  # fmt: skip
DECORATOR_KEYS: Final = tuple(key for key in KEYS if key not in _OF_TABLES)
"""The keys of a handler that `@hook` takes as well."""


def complete(values: dict[str, Any]) -> None:
    """Add the defaults that depend on other keys."""
    if values.get("type") is HandlerType.FILE:
        _complete_file(values)
    single = values.get("order_by") is OrderBy.HANDLER or values.get("scope") is Scope.LEADER
    if single:
        values.setdefault("partitions", 1)
    elif values.get("type") is HandlerType.IN_PROCESS:
        values.setdefault("concurrency", IN_PROCESS_CONCURRENCY)


def _complete_file(values: dict[str, Any]) -> None:
    values.setdefault("scope", Scope.NODE)
    values.setdefault("order_by", OrderBy.HANDLER)
    if not values.get("throttle_ms"):
        values.setdefault("debounce_ms", FILE_DEBOUNCE_MS)
    source = values.get("source", MEMBERS_SOURCE)
    if "pattern" not in values:
        values["pattern"] = MEMBERS_PATTERN if source == MEMBERS_SOURCE else KEYS_PATTERN
        if source != MEMBERS_SOURCE:
            # Or every write of other keys would put off the next rendering.
            prefix = json.dumps(source, ensure_ascii=False)
            values.setdefault("filter", f"event.key != null && event.key.startsWith({prefix})")


def relate(reader: TableReader, values: Mapping[str, Any]) -> None:
    """Report what contradicts itself in one table; `values` are complete."""
    kind = values.get("type")
    if isinstance(kind, HandlerType):
        _relate_type(reader, kind)
        is_list = isinstance(reader.table.get("command"), list | tuple)
        if kind is HandlerType.SHELL and values.get("shell") is True and is_list:
            reader.problem("command", "sh -c takes one text, not a list")
        if kind is HandlerType.FILE:
            _relate_file(reader, values)
    _relate_order(reader, values)
    _relate_shaping(reader, values)
    if values.get("report_executions") and str(values.get("pattern")).startswith(ABOUT_HOOKS):
        reader.problem("report_executions", f"of events below {ABOUT_HOOKS} nothing is reported")
    if values.get("name") in values.get("after", ()):
        reader.problem("after", "a handler cannot wait for itself")


def _relate_type(reader: TableReader, kind: HandlerType) -> None:
    table, needed = reader.table, _NEEDED[kind]
    if needed not in table:
        reader.problem(needed, f'is missing: a handler of type "{kind}" needs one')
    for other, keys in _OF_TYPE.items():
        for key in keys:
            if other is not kind and key in table:
                reader.problem(key, f'only a handler of type "{other}" has one')


def _relate_file(reader: TableReader, values: Mapping[str, Any]) -> None:
    table = reader.table
    renderer = values.get("renderer", Renderer.HOSTS)
    for key, only in _OF_RENDERER.items():
        if key in table and renderer is not only:
            reader.problem(key, f'only the renderer "{only}" has one')
    if values.get("scope") not in (None, Scope.NODE):
        reader.problem("scope", 'a file is rendered on every node: "node" is expected')
    if values.get("order_by") not in (None, OrderBy.HANDLER):
        reader.problem("order_by", 'a file is one thing: "handler" is expected')
    for key in ("batch_max", "batch_wait_ms"):
        if key in table:
            reader.problem(key, "a file is rendered from the state: debounce_ms gathers its events")


def _relate_order(reader: TableReader, values: Mapping[str, Any]) -> None:
    by_selector = values.get("scope") is Scope.SELECTOR
    if by_selector and "selector" not in reader.table:
        reader.problem("selector", 'is missing: the scope "selector" needs one')
    known = "scope" in values or "scope" not in reader.table
    if "selector" in reader.table and known and not by_selector:
        reader.problem("selector", 'only the scope "selector" has one')
    if values.get("order_by") is OrderBy.HANDLER:
        why = 'order_by = "handler" puts all events in one order'
        if values.get("partitions", 1) != 1:
            reader.problem("partitions", f"{why}, which only 1 partition has")
        if values.get("concurrency", 1) != 1:
            reader.problem("concurrency", f"{why}: one attempt at a time")


def _relate_shaping(reader: TableReader, values: Mapping[str, Any]) -> None:
    table = reader.table
    debounce, throttle = values.get("debounce_ms", 0), values.get("throttle_ms", 0)
    if debounce and throttle:
        reader.problem("throttle_ms", "debounce_ms already thins out the events: one of the two")
    if values.get("batch_max", 1) > 1:
        for key in ("debounce_ms", "throttle_ms"):
            if table.get(key) and values.get(key):
                reader.problem(
                    key, "keeps only the newest event, and a batch is of all: one of two"
                )
    elif table.get("batch_wait_ms") and "batch_wait_ms" in values:
        reader.problem("batch_wait_ms", "without batch_max above 1 there is nothing to wait for")
    longest = values.get("debounce_ms_max", 0)
    if longest and not debounce:
        reader.problem("debounce_ms_max", "without debounce_ms it has no effect")
    elif longest and longest < debounce:
        reader.problem("debounce_ms_max", f"must not be below debounce_ms ({debounce})")
    if "breaker_open_ms" in table and not table.get("breaker_failures"):
        reader.problem("breaker_open_ms", "without breaker_failures it has no effect")


def unknown_after(
    handlers: Iterable[HandlerDefinition], names: Sequence[str]
) -> dict[str, tuple[str, str | None]]:
    """By handler: a name in its `after` that no handler has, and the nearest that one has."""
    found: dict[str, tuple[str, str | None]] = {}
    for handler in handlers:
        for name in handler.after:
            if name not in names:
                others = [other for other in names if other != handler.name]
                found.setdefault(handler.name, (name, closest(name, others)))
    return found


def cycles_of_after(handlers: Iterable[HandlerDefinition]) -> list[tuple[str, ...]]:
    """Handlers that wait for each other in a ring, so that none of them would ever start. Each ring
    begins with the handler that was defined first."""
    waits = {handler.name: handler.after for handler in handlers}
    done: set[str] = set()
    rings: list[tuple[str, ...]] = []
    for first in waits:
        trail: list[str] = []
        branches = [iter((first,))]
        while branches:
            name = next(branches[-1], None)
            if name is None:
                branches.pop()
                if trail:
                    done.add(trail.pop())
            elif name in trail:
                rings.append(tuple(trail[trail.index(name) :]))
            elif name in waits and name not in done:
                trail.append(name)
                branches.append(iter(waits[name]))
    return rings
