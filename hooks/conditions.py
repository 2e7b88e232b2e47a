"""Conditions: whether a handler is for an event, by an expression over what the event says.

    event.topic == "hooks.kv.write_committed" && data.key.startsWith("orders/") && json.total > 100

The language is CEL, the Common Expression Language, evaluated by a library (docs/adr/0016); which
part of it is taken, and why that part cannot take long, is in `hooks.clauses`. An expression sees
nothing but the event: no clock, no state, no other event. So a condition says the same of an event
on every node and at any time, and whoever explains a delivery can ask again.

A condition that cannot be evaluated for an event is neither true nor false, and says so
(`ConditionFailed`). It is asked clause by clause: one that is false decides, whatever the others
would have failed with, and JSON is not read for events that an earlier clause has ruled out.
Deciding code.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from hooks.clauses import (
    FUNCTIONS,
    METHODS,
    TYPES,
    VARIABLES,
    Clause,
    Read,
    clauses_of,
    regex_weight,
)
from hooks.delivery import Delivery
from hooks.expression import ExpressionError
from hooks.facts import Facts, Unknown
from hooks.limits import (
    CONDITION_COST_MAX,
    CONDITION_ERROR_BYTES_MAX,
    CONDITIONS_KEPT_MAX,
    REGEX_WEIGHT_MAX,
)

if TYPE_CHECKING:
    import cel

_PLACE: Final = re.compile(r"ERROR: <input>:\d+:(\d+): (.*)")
_NO_OVERLOAD: Final = "No such overload"
_UNDEFINED: Final = "Undefined variable or function: '"


class ConditionFailed(NamedTuple):
    """A condition could not be evaluated for an event: neither a match nor none."""

    text: str


class Condition:
    """One condition, ready to be asked, by any thread. ValueError for what `problem` tells of."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._clauses = [_Compiled(clause) for clause in clauses_of(text, _literal)]
        if not any(compiled.clause.reads for compiled in self._clauses):
            # A constant: what is wrong with it is known now, and would be so for every event.
            found = self._decide(Facts(None))
            if isinstance(found, ConditionFailed):
                raise ExpressionError(found.text)

    def decide(self, delivery: Delivery) -> bool | ConditionFailed:
        """Whether the handler is for this event, or why that cannot be told. Never raises."""
        return self._decide(Facts(delivery))

    def _decide(self, facts: Facts) -> bool | ConditionFailed:
        failed: ConditionFailed | None = None
        for compiled in self._clauses:
            found = compiled.ask(facts)
            if found is False:
                return False
            if failed is None and isinstance(found, ConditionFailed):
                failed = found
                if len(self._clauses) > 1:
                    failed = ConditionFailed(_short(f"{found.text} (in: {compiled.clause.text})"))
        return True if failed is None else failed

    def clauses(self, delivery: Delivery) -> list[tuple[str, bool | str]]:
        """What each of the parts that `&&` joins says: true, false or the text of its error."""
        facts = Facts(delivery)
        answers = [(compiled.clause.text, compiled.ask(facts)) for compiled in self._clauses]
        return [
            (text, found.text if isinstance(found, ConditionFailed) else found)
            for text, found in answers
        ]

    def reads(self) -> list[list[Read]]:
        """What each of these parts names."""
        return [list(compiled.clause.reads) for compiled in self._clauses]


def problem(text: str) -> str | None:
    """What is wrong with a condition, or None."""
    try:
        Condition(text)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(CONDITIONS_KEPT_MAX)
def condition(text: str) -> Condition | ConditionFailed:
    """The condition of a registered handler, made once; why there is none where this release
    refuses it."""
    try:
        return Condition(text)
    except ValueError as error:
        return ConditionFailed(_short(f"not a condition for this release: {error}"))


class _Compiled:
    """One clause with its program."""

    def __init__(self, clause: Clause) -> None:
        self.clause = clause
        self._program = _compile(clause.text)
        known = {*VARIABLES, *TYPES, *(macro.element for macro in clause.macros)}
        if strange := sorted(set(self._program.variables()) - known):
            # Our reading and the library's differ: then our bounds do not hold for it.
            raise ExpressionError(f"the name {strange[0]!r} is unknown")
        # Of a variable only the fields that are named are handed over, unless it is named whole.
        self._wanted: dict[str, tuple[str, ...] | None] = {}
        for variable in VARIABLES:
            fields = [read.field for read in clause.reads if read.variable == variable]
            if fields:
                whole = None in fields
                self._wanted[variable] = None if whole else tuple(dict.fromkeys(map(str, fields)))

    def ask(self, facts: Facts) -> bool | ConditionFailed:
        """What the clause says of an event."""
        unknown: Unknown | None = None
        variables: dict[str, object] = {}
        try:
            for variable, fields in self._wanted.items():
                try:
                    found = _fields(facts.value(variable), fields)
                    for name in fields or (None,):
                        facts.check(Read(variable, name))
                except Unknown as reason:
                    # Left out: what asks for it fails, and what does not ask is not disturbed.
                    unknown = reason
                else:
                    variables[variable] = found
            cost = self.clause.cost(facts.size, facts.length)
        except Unknown as reason:
            return ConditionFailed(_short(str(reason)))
        if cost > facts.cost_left:
            return ConditionFailed(
                f"costs too much for this event: {cost:,} units, {facts.cost_left:,} are left of"
                f" {CONDITION_COST_MAX:,}"
            )
        facts.cost_left -= cost
        try:
            found = self._program.execute(variables)
        except BaseException as error:
            _raise_unless_of_library(error)
            return ConditionFailed(_short(_reason(error) if unknown is None else str(unknown)))
        if isinstance(found, bool):
            return found
        return ConditionFailed(f"is {_kind(found)}, neither true nor false")


def _fields(value: object, fields: tuple[str, ...] | None) -> object:
    if fields is None or not isinstance(value, dict):
        return value
    return {name: value[name] for name in fields if name in value}


def _compile(text: str) -> "cel.Program":
    """The program of a text; raises ExpressionError with what is wrong."""
    # Imported here: the package brings a terminal program along, 0.2 s and 30 MiB for whoever
    # only wants to know what a configuration without conditions says (docs/adr/0016).
    import cel

    try:
        return cel.compile(text)
    except BaseException as error:
        _raise_unless_of_library(error)
        raise ExpressionError(_short(_syntax_error(str(error)))) from error


def _literal(text: str) -> str:
    """The value of a text that is written in the language: of a regular expression."""
    value = _compile(text).execute({})
    assert isinstance(value, str)
    if regex_weight(value) <= REGEX_WEIGHT_MAX:  # or it is refused for that
        try:
            _compile(f'"".matches({text})').execute({})
        except Exception as error:
            reason = _reason(error).partition("error: ")[2] or str(error)
            message = f"{text} is no regular expression: {' '.join(reason.split())}"
            raise ExpressionError(_short(message)) from error
    return value


def _raise_unless_of_library(error: BaseException) -> None:
    """Let through what wants this task or process to end. A panic of the library is not below
    Exception, and is an answer like any other."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _syntax_error(text: str) -> str:
    """The first of the library's messages, without the text and without all it had expected."""
    found = _PLACE.search(text)
    if found is None:
        return text
    return f"{found[2].partition(' expecting ')[0]} (character {found[1]})"


def _reason(error: BaseException) -> str:
    """Why an evaluation failed, for people."""
    text = str(error)
    if isinstance(error, KeyError):
        return f'there is no "{error.args[0]}"'
    if text.startswith(_NO_OVERLOAD):
        return "an operator or a function is not defined for what it is given, like a text > 1"
    if isinstance(error, TypeError):
        return text.partition(". ")[0]
    if text.startswith(_UNDEFINED):
        name = text.removeprefix(_UNDEFINED).partition("'")[0]
        if name in FUNCTIONS or name in METHODS:
            return f'"{name}" is not defined for what it is given'
    if not isinstance(error, Exception):
        return f"the library that evaluates conditions failed: {text}"
    return text


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "a text", dict: "a map", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def _short(text: str) -> str:
    """A message that fits into an error of an attempt, whatever it quotes."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= CONDITION_ERROR_BYTES_MAX:
        return encoded.decode()
    return encoded[: CONDITION_ERROR_BYTES_MAX - 3].decode(errors="ignore") + "..."
