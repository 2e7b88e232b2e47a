"""What a rendered file holds: a pure function of the cluster's members, or of the keys below a
prefix.

The same facts give the same bytes on every node, so that a file is written only when it changes.
A value that does not fit is left out and named: one bad key must not cost all the others.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, NamedTuple, TypeVar

from hooks.configuration.definition import HandlerDefinition, Renderer

MEMBERS: Final = "members"  # the source that is no prefix
NODE_LABEL: Final = "node"  # of a target that is a member
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}", re.ASCII)  # of an IPv6 address: an interface
_METRIC_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST_BYTES_MAX: Final = 253  # of a whole name, as DNS has it
_PORT_MAX: Final = 65_535
_NAMES_MAX: Final = 32  # of one address, on its line
_LABELS_MAX: Final = 32
_LABEL_BYTES_MAX: Final = 1_024
_SHOWN: Final = 60  # characters of a value in a message

T = TypeVar("T")


class Entry(NamedTuple):
    """A member or a key: its name (of a key what follows the prefix) and what it says."""

    name: str
    value: bytes  # of a member its address, HOST:PORT


class Rendering(NamedTuple):
    """The file, and what is not in it."""

    content: bytes
    left_out: tuple[tuple[str, str], ...]  # name and reason
    entries: int  # that are in it


class _Unfit(ValueError):
    """Why an entry does not fit."""


def render(handler: HandlerDefinition, entries: Iterable[Entry]) -> Rendering:
    """The file of a handler of type file, from its entries."""
    make = _hosts if handler.renderer is Renderer.HOSTS else _file_sd
    return make(handler, sorted(entries))


def _sorted_out(
    entries: Sequence[Entry], read: Callable[[Entry], T]
) -> tuple[list[T], tuple[tuple[str, str], ...]]:
    """What the entries say, and the names of those that are left out, with the reason."""
    fit: list[T] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries:
        try:
            fit.append(read(entry))
        except _Unfit as reason:
            left_out.append((entry.name, str(reason)))
    return fit, tuple(left_out)


def _hosts(handler: HandlerDefinition, entries: Sequence[Entry]) -> Rendering:
    """Lines `ADDRESS NAME...`, by name, as in /etc/hosts."""
    lines = [f"# Made by the handler {_one_line(handler.name)}: changes are overwritten."]
    fit, left_out = _sorted_out(entries, partial(_host, handler))
    lines += [f"{address}\t{' '.join(names)}" for address, names in fit]
    content = "".join(f"{line}\n" for line in lines).encode()
    return Rendering(content, left_out, len(fit))


def _host(handler: HandlerDefinition, entry: Entry) -> tuple[str, list[str]]:
    address: object
    names: object = [entry.name]
    if handler.source == MEMBERS:
        address = split_address(_text(entry))[0]
    elif (found := _json(entry, ("address", "names"))) is not None:
        address, names = found.get("address"), found.get("names", names)
    else:
        address = _text(entry).strip()
    plain = _plain_address(address) if isinstance(address, str) else None
    if plain is None:
        raise _Unfit(f"{_shown(address)} is no IP address")
    if not isinstance(names, list) or not 0 < len(names) <= _NAMES_MAX:
        raise _Unfit(f"names: a list of 1 to {_NAMES_MAX} names is expected")
    suffix = "" if handler.domain is None else f".{handler.domain.strip('.')}"
    return plain, [_host_name(name, suffix) for name in names]


def _host_name(name: object, suffix: str) -> str:
    whole = f"{name}{suffix}"
    fits = isinstance(name, str) and len(whole.encode(errors="replace")) <= _HOST_BYTES_MAX
    if not fits or not all(_HOST_LABEL.fullmatch(part) for part in whole.split(".")):
        raise _Unfit(f"{_shown(name)} is no host name")
    return whole


def _file_sd(handler: HandlerDefinition, entries: Sequence[Entry]) -> Rendering:
    """Prometheus's targets in JSON: a group for each set of labels, in their order."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    fit, left_out = _sorted_out(entries, partial(_targets, handler))
    for targets, labels in fit:
        groups.setdefault(labels, []).extend(targets)
    document = [
        {"targets": sorted(set(targets)), "labels": dict(labels)}
        for labels, targets in sorted(groups.items())
    ]
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return Rendering(text.encode(), left_out, len(fit))


def _targets(
    handler: HandlerDefinition, entry: Entry
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    targets: object
    labels: object = {}
    if handler.source == MEMBERS:
        # the port in a member's address is for its peers: what is scraped is another
        targets, labels = [split_address(_text(entry))[0]], {NODE_LABEL: entry.name}
    elif (found := _json(entry, ("targets", "labels"))) is not None:
        targets, labels = found.get("targets"), found.get("labels", labels)
    else:
        targets = [_text(entry).strip()]
    if not isinstance(targets, list) or not targets:
        raise _Unfit("targets: a list of HOST:PORT is expected")
    if not isinstance(labels, dict) or len(labels) > _LABELS_MAX:
        raise _Unfit(f"labels: a map of at most {_LABELS_MAX} is expected")
    for name, value in labels.items():
        if not _METRIC_LABEL.fullmatch(name):
            raise _Unfit(f"{_shown(name)} is no name of a label")
        if not isinstance(value, str) or len(value.encode(errors="replace")) > _LABEL_BYTES_MAX:
            raise _Unfit(f"label {name}: a text of at most {_LABEL_BYTES_MAX} bytes is expected")
        _encoded(value)
    merged = {**labels, **dict(handler.labels)}
    return [_target(handler, target) for target in targets], tuple(sorted(merged.items()))


def _target(handler: HandlerDefinition, target: object) -> str:
    if not isinstance(target, str):
        raise _Unfit(f"{_shown(target)} is no HOST:PORT")
    host, port = split_address(target)
    if port is None:
        port = handler.port
    if port is None:
        raise _Unfit(f"{_shown(target)} names no port, and the handler has none either")
    bare = host.removeprefix("[").removesuffix("]")
    if _plain_address(bare) is None:
        _host_name(host, "")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def split_address(address: str) -> tuple[str, int | None]:
    """The host and the port of HOST:PORT, HOST, [IPV6]:PORT or IPV6."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return address.removeprefix("[").removesuffix("]"), None
    fits = port.isascii() and port.isdigit() and len(port) <= len(str(_PORT_MAX))
    if not fits or not 0 < int(port) <= _PORT_MAX:
        raise _Unfit(f"{_shown(address)} is no HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _plain_address(text: str) -> str | None:
    """An IP address in its usual form; what `ip_address` takes for a zone may hold a line end."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    zone = found.scope_id if isinstance(found, IPv6Address) else None
    return None if zone is not None and not _ZONE.fullmatch(zone) else str(found)


def _text(entry: Entry) -> str:
    try:
        return entry.value.decode()
    except UnicodeDecodeError:
        raise _Unfit("its value is not text") from None


def _json(entry: Entry, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The JSON object that a value holds; None when it is a plain text."""
    if not entry.value.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(entry.value)
    except (ValueError, RecursionError):
        raise _Unfit("its value begins as a JSON object and is none") from None
    assert isinstance(found, dict), "it begins with a brace"
    for key in found:
        if key not in keys:
            raise _Unfit(f"{_shown(key)}: only {' and '.join(keys)} are expected")
    return found


def _encoded(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Unfit("a text in it is not Unicode") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
