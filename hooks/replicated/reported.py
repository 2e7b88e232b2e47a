"""What a node says of its handlers, read: the arguments of `hook.register`.

Of a policy only that is looked at which the state machine itself needs. Everything else is for the
nodes, so that a release can add to policies without a new version of the operation.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from hooks.configuration.definition import NODE_MARK, group_name
from hooks.limits import HOOKS_MAX, POLICY_BYTES_MAX, POLICY_DEPTH_MAX, PROBLEM_BYTES_MAX
from pubsub.limits import INTEGER_MAX, PARTITIONS_MAX
from pubsub.rejection import Rejection
from pubsub.topics import validate_name, validate_pattern


class Reported(NamedTuple):
    """One item of a node's list."""

    name: str  # of a handler, or of what the node could not read
    policy: dict[str, Any] | None  # keys in order; None: the node does not know it
    packed: bytes | None  # the policy
    enabled: bool  # what a new handler begins with
    problem: str | None  # why it does not run on the node


def parse(handlers: Any) -> list[Reported] | Rejection:
    """The items of a node's list (`registrations.register`)."""
    if not isinstance(handlers, list | tuple) or len(handlers) > HOOKS_MAX:
        return Rejection("malformed", f"handlers: a list of at most {HOOKS_MAX} is needed")
    reported: dict[str, Reported] = {}
    for item in handlers:
        parsed = _parse_item(item)
        if isinstance(parsed, Rejection):
            return parsed
        if parsed.name in reported:
            return Rejection("malformed", f'handler "{parsed.name}" is named twice')
        reported[parsed.name] = parsed
    return list(reported.values())


def _parse_item(item: Any) -> Reported | Rejection:
    if not isinstance(item, list | tuple) or len(item) != 3:
        return Rejection("malformed", "a handler is [policy, enabled, problem]")
    policy, enabled, problem = item
    if type(enabled) is not bool or not (problem is None or isinstance(problem, str)):
        return Rejection("malformed", "enabled: true or false; problem: a text or nil")
    if isinstance(problem, str):
        problem = problem.encode("utf-8", "replace")[:PROBLEM_BYTES_MAX].decode("utf-8", "ignore")
    if isinstance(policy, str):
        # Of a handler, or the path of a file, which may have blanks in it.
        if not problem or not 0 < len(policy.encode("utf-8", "replace")) <= PROBLEM_BYTES_MAX:
            return Rejection(
                "malformed", f"a name of at most {PROBLEM_BYTES_MAX} bytes and a problem are needed"
            )
        return Reported(policy, None, None, enabled, problem)
    if not isinstance(policy, dict) or not _is_plain(policy, POLICY_DEPTH_MAX):
        return Rejection("malformed", "policy: a map of texts, numbers, lists and maps is needed")
    ordered = _ordered(policy)
    packed = msgpack.packb(ordered)
    if len(packed) > POLICY_BYTES_MAX:
        return Rejection("limit_exceeded", f"policy: at most {POLICY_BYTES_MAX} bytes")
    wrong = _wrong_policy(ordered)
    if wrong:
        return Rejection("malformed", wrong)
    return Reported(ordered["name"], ordered, packed, enabled, problem)


def _wrong_policy(policy: Mapping[str, Any]) -> str | None:
    """What is wrong with what the state machine itself looks at; the rest is for the nodes."""
    name, partitions = policy.get("name"), policy.get("partitions")
    wrong = _wrong_name(name) or validate_pattern(policy.get("pattern"))
    if wrong:
        return wrong
    version = policy.get("version")
    if type(version) is not int or not 0 <= version <= INTEGER_MAX:
        return f'handler "{name}": version: an integer from 0 is needed'
    if type(partitions) is not int or not 1 <= partitions <= PARTITIONS_MAX:
        return f'handler "{name}": partitions: from 1 to {PARTITIONS_MAX} are needed'
    if not isinstance(policy.get("scope"), str) or not isinstance(policy.get("type"), str):
        return f'handler "{name}": scope and type: texts are needed'
    return None


def _wrong_name(name: Any) -> str | None:
    wrong = validate_name(name, "handler")
    if wrong is None and (NODE_MARK in name or validate_name(group_name(name), "handler")):
        return f'handler: shorter, and without "{NODE_MARK}", is needed'
    return wrong


def _is_plain(value: Any, depth: int) -> bool:
    """Whether it is a value that a policy may have, not too deeply nested to be packed again."""
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(
            isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items()
        )
    return value is None or type(value) in (bool, int, str)


def _ordered(value: Any) -> Any:
    """The value with the keys of its maps in order: equal policies are equal bytes."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value
