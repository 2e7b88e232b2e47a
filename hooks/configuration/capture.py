"""The `[[hooks.capture]]` tables: rules that the cluster begins with. Deciding code."""

from collections.abc import Mapping
from typing import Final

from hooks.configuration.definition import Path, Problem
from hooks.replicated.capture import MODES, Rule, complete, rule_problem
from pubsub.limits import CAPTURE_RULES_MAX
from pubsub.topics import closest

KEYS: Final = ("prefix", "mode", "bytes")


def parse_capture(
    tables: object, path: Path = ("hooks", "capture")
) -> tuple[tuple[Rule, ...], list[Problem]]:
    """The rules, and everything that is wrong with them."""
    if not isinstance(tables, list | tuple):
        return (), [Problem(path, "an array of tables is expected: [[hooks.capture]]")]
    problems: list[Problem] = []
    if len(tables) > CAPTURE_RULES_MAX:
        problems.append(Problem(path, f"{len(tables)} rules; at most {CAPTURE_RULES_MAX}"))
    rules: dict[str, Rule] = {}
    for number, table in enumerate(tables):
        at = (*path, number)
        if not isinstance(table, Mapping):
            problems.append(Problem(at, "a table is expected: [[hooks.capture]]"))
            continue
        found = _problems(table, at)
        problems += found
        if found:
            continue
        rule = complete(table["prefix"], table["mode"], table.get("bytes"))
        if rule.prefix in rules:
            problems.append(Problem((*at, "prefix"), f'a second rule for "{rule.prefix}"'))
        rules[rule.prefix] = rule
    return tuple(rules.values()), problems


def _problems(table: Mapping[str, object], at: Path) -> list[Problem]:
    found = [
        Problem((*at, key), "no such key", closest(key, KEYS)) for key in table if key not in KEYS
    ]
    found += [Problem((*at, key), "is missing") for key in KEYS[:2] if key not in table]
    if found:
        return found
    mode = table["mode"]
    if mode not in MODES:
        known = ", ".join(f'"{name}"' for name in MODES)
        meant = closest(mode, MODES) if isinstance(mode, str) else None
        return [Problem((*at, "mode"), f"one of {known} is expected", meant)]
    if wrong := rule_problem(table["prefix"], mode, table.get("bytes")):
        key, _, message = wrong.partition(": ")
        return [Problem((*at, key), message)]
    return []
