"""What values in the file turn into, and the base of every table: strict, closed and frozen."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainValidator

from cluster.config.address import Address, parse_address
from hooks.configuration.parsers import labels_problem

NAME_CHARACTERS_MAX = 63  # one DNS label, because a node's name is also in its certificate


class Section(BaseModel):
    """A table of the file: unknown keys are refused, types are not guessed, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _name(text: str) -> str:
    allowed = text.isascii() and text.replace("-", "").replace("_", "").isalnum()
    if not allowed or not text[0].isalnum() or len(text) > NAME_CHARACTERS_MAX:
        raise ValueError(
            f"a name has 1 to {NAME_CHARACTERS_MAX} letters, digits, - and _, "
            f"starting with a letter or digit; got {text!r}"
        )
    return text


def _address(value: object) -> Address:
    if not isinstance(value, str):
        raise ValueError(f"expected host:port in quotes, got {value!r}")
    return parse_address(value)


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"expected a path in quotes, got {value!r}")
    return Path(value).expanduser()


def _labels(value: object) -> Mapping[str, str]:
    if wrong := labels_problem(value):
        raise ValueError(wrong)
    assert isinstance(value, Mapping)
    return MappingProxyType(dict(value))


def to_tuple(value: object) -> object:
    """TOML arrays arrive as lists; frozen models hold tuples."""
    return tuple(value) if isinstance(value, list) else value


Name = Annotated[str, AfterValidator(_name)]
AddressText = Annotated[Address, PlainValidator(_address)]
FilePath = Annotated[Path, PlainValidator(_path)]
Addresses = Annotated[tuple[AddressText, ...], BeforeValidator(to_tuple)]
Texts = Annotated[tuple[str, ...], BeforeValidator(to_tuple)]
Labels = Annotated[Mapping[str, str], PlainValidator(_labels)]
