"""What conditions see of an event, found when the first clause asks for it.

    event    what the log knows of it: topic, key, revision, who and why
    data     its payload, as handlers get it
    json     the value that was written or the payload that was published, read as JSON

What cannot be had, or could not be handed to the library, is `Unknown`: a clause that asks for it
fails, one that does not is not disturbed. Deciding code.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from hooks.clauses import EVENT_FIELDS, Read
from hooks.delivery import Delivery
from hooks.limits import (
    CONDITION_COST_MAX,
    CONDITION_JSON_BYTES_MAX,
    CONDITION_VALUE_DEPTH_MAX,
)

# What a list or a map takes of the library, in the units in which a text counts its bytes.
ITEM_SIZE: Final = 128
ENTRY_SIZE: Final = 256
_LARGEST: Final = int(1.7e308)  # of the numbers that have no place in 64 bits


class Unknown(Exception):
    """A value that cannot be had, and why."""


class Facts:
    """What the clauses of one condition ask about one event, found when the first one asks."""

    def __init__(self, delivery: Delivery | None) -> None:
        self.cost_left = CONDITION_COST_MAX
        self._delivery = delivery
        self._found: dict[str, object] = {}
        self._sizes: dict[Read, int | Unknown] = {}

    def value(self, variable: str) -> Any:
        """A variable; raises Unknown."""
        if variable not in self._found:
            try:
                self._found[variable] = self._find(variable)
            except Unknown as unknown:
                self._found[variable] = unknown
        found = self._found[variable]
        if isinstance(found, Unknown):
            raise found
        return found

    def check(self, read: Read) -> None:
        """Raises Unknown for what cannot be handed over."""
        if read not in self._sizes:
            try:
                path = (read.variable,) if read.field is None else read
                self._sizes[read] = _size_of(self.at(path))
            except Unknown as unknown:
                self._sizes[read] = unknown
        found = self._sizes[read]
        if isinstance(found, Unknown):
            raise found

    def size(self, read: Read) -> int:
        """Of what a clause names and was checked; what is left out costs nothing."""
        found = self._sizes.get(read, 0)
        return found if isinstance(found, int) else 0

    def at(self, path: tuple[str | None, ...]) -> object:
        """What stands at a path from a variable on; None where nothing does."""
        try:
            found = self.value(str(path[0]))
        except Unknown:
            return None
        for name in path[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def length(self, path: tuple[str, ...]) -> int:
        """Of a list. Raises Unknown for a map, whose order is not the same everywhere."""
        found = self.at(path)
        if isinstance(found, dict):
            raise Unknown(f"{'.'.join(path)} is a map; all, exists and exists_one go over lists")
        return len(found) if isinstance(found, list | tuple) else 0

    def _find(self, variable: str) -> object:
        assert self._delivery, "a constant asks for nothing"
        if variable == "event":
            return {name: field(self._delivery) for name, field in _EVENT.items()}
        if variable == "data":
            try:
                return self._delivery.payload()
            except Exception as error:
                raise Unknown(f"the payload cannot be read: {error}") from error
        return _json(self.value("data"))


_EVENT: Final[Mapping[str, Callable[[Delivery], object]]] = {
    "topic": lambda delivery: delivery.topic,
    "key": lambda delivery: delivery.event.key,
    "revision": lambda delivery: delivery.event.revision,
    "actor": lambda delivery: delivery.event.actor,
    "correlation_id": lambda delivery: delivery.event.correlation_id,
    "causation_id": lambda delivery: delivery.event.causation_id,
    "hops": lambda delivery: delivery.event.hops,
    "time_ms": lambda delivery: delivery.event.wall_ms,
    "triggered": lambda delivery: delivery.triggered,
    "replayed": lambda delivery: delivery.replayed,
}
assert tuple(_EVENT) == EVENT_FIELDS


def _json(payload: Mapping[str, object]) -> object:
    """The value that was written, or the payload that was published, read as JSON."""
    name = next((name for name in ("value", "payload") if name in payload), None)
    if name is None:
        raise Unknown("there is no json: this event has neither a value nor a payload")
    found = payload[name]
    if found is None:
        raise Unknown(f"there is no json: the log does not have the {name}")
    if not isinstance(found, str):
        return found  # of a triggered event, as it was given
    if payload.get(f"{name}_encoding") == "base64":
        raise Unknown(f"there is no json: the {name} is no text")
    most = CONDITION_JSON_BYTES_MAX
    if len(found) > most or len(found.encode(errors="surrogatepass")) > most:
        raise Unknown(f"there is no json: the {name} has more than {most} bytes")
    try:
        return json.loads(found, parse_constant=_no_constant)
    except RecursionError as error:
        raise Unknown("there is no json: lists and maps stand too deep in each other") from error
    except ValueError as error:
        raise Unknown(f"there is no json: {error}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _size_of(value: object) -> int:
    """In bytes, at least; raises Unknown for what the library would not take, or not survive."""
    size = 0
    level: list[Any] = [value]
    for _ in range(CONDITION_VALUE_DEPTH_MAX + 1):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, str):
                size += len(each) if each.isascii() else _bytes_of(each)
            elif isinstance(each, dict):
                size += ENTRY_SIZE * len(each)
                deeper += each
                deeper += each.values()
            elif isinstance(each, list | tuple):
                size += ITEM_SIZE * len(each)
                deeper += each
            elif isinstance(each, int) and abs(each) > _LARGEST:
                raise Unknown("it looks at a number that is too large")
            else:
                size += 8
        if not deeper:
            return size
        level = deeper
    most = CONDITION_VALUE_DEPTH_MAX
    raise Unknown(f"lists and maps stand in each other more than {most} deep")


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise Unknown("it looks at a text that is no Unicode") from error
