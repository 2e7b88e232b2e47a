"""What an event type is: its fields, and how JSON Schema says them.

A schema has a version. A later release may append fields to a type, under the next version; it
never removes one or gives it another meaning. A reader that passes over what it does not know can
read every version.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_PREFIX: Final = "urn:tremula:event:"

_ANY: Final = "any"


class Field(NamedTuple):
    """One field of a payload. In every event of its type it is there, if only as null."""

    kind: str  # a JSON type or "any"; "|null" after it where the value may be missing
    meaning: str
    choices: tuple[str, ...] = ()  # of a text: what it can be
    items: str | None = None  # of an array: the JSON type of its items

    def json_schema(self) -> dict[str, Any]:
        """The field's part of the schema."""
        kind, _, optional = self.kind.partition("|")
        found: dict[str, Any] = {}
        if kind != _ANY:
            found["type"] = [kind, "null"] if optional else kind
        if self.choices:
            found["enum"] = [*self.choices, None] if optional else list(self.choices)
        if self.items:
            found["items"] = {"type": self.items}
        return {**found, "description": self.meaning}


class EventType(NamedTuple):
    """One kind of event: what it says, and the fields of its payload."""

    topic: str
    summary: str
    fields: Mapping[str, Field]  # in the order of the payload
    version: int = 1

    @property
    def schema_id(self) -> str:
        """Names the schema, in its `$id` and as `dataschema` of a CloudEvent."""
        return f"{SCHEMA_PREFIX}{self.topic}:{self.version}"

    def json_schema(self) -> dict[str, Any]:
        """The payload's shape as JSON Schema 2020-12."""
        return {
            "$schema": DIALECT,
            "$id": self.schema_id,
            "title": self.topic,
            "description": self.summary,
            "type": "object",
            "properties": {name: field.json_schema() for name, field in self.fields.items()},
            "required": list(self.fields),
        }
