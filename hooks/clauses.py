"""What a condition names and what it can cost, told from its words.

Every node evaluates conditions in its one loop, so this module takes only a part of the language
whose cost can be told from the text and from the sizes of the values that it names
(`Clause.cost`). Nothing in it grows faster than the product of the length of a clause and of the
sizes that it names: no list is gone through inside of another, none is made (the library needs
quadratic time for it), and of regular expressions only such are taken that stay small, because they
are compiled at each evaluation. A macro goes through lists only: the order of a map differs from
process to process, and with it which of two elements is asked first. Deciding code.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hooks.expression import Expression, ExpressionError, Token, read
from hooks.limits import CONDITION_MACROS_MAX, CONDITION_REGEXES_MAX, REGEX_WEIGHT_MAX
from pubsub.topics import closest

VARIABLES: Final = ("event", "data", "json")
EVENT_FIELDS: Final = (
    "topic", "key", "revision", "actor", "correlation_id", "causation_id", "hops", "time_ms",
    "triggered", "replayed",
)  # fmt: skip
FUNCTIONS: Final = (
    "double", "duration", "has", "int", "size", "string", "timestamp", "type", "uint"
)  # fmt: skip
METHODS: Final = (
    "contains", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
    "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds",
    "matches", "size", "startsWith",
)  # fmt: skip
MACROS: Final = ("all", "exists", "exists_one")
TYPES: Final = ("bool", "double", "int", "list", "map", "null_type", "string", "uint")
_CONSTANTS: Final = ("true", "false", "null")
_OTHER_LANGUAGES: Final = {
    "and": "&&", "or": "||", "not": "!", "True": "true", "False": "false", "None": "null",
    "nil": "null",
}  # fmt: skip
_MAKES_LISTS: Final = {
    "filter": "ask the elements: exists for any, exists_one for exactly one, all for all of them",
    "map": "ask the elements themselves: exists for any of them, all for all of them",
}
_SCANS: Final = frozenset(("==", "!=", "<", "<=", ">", ">=", "in", "+"))
_SCANS_NOTHING: Final = frozenset(("has", "type", "matches"))  # `matches` counts by its weight

# Units of cost: rather more than the nanoseconds that docs/adr/0016 measured.
TOKEN_COST: Final = 128  # a step that looks at nothing large
REGEX_COST: Final = 1_000  # to compile one, for each unit of its weight
REGEX_SHARE: Final = 8  # an expression of this weight costs one unit for each byte that it sees
_CHARACTER_WEIGHT: Final = 8
_CLASS_WEIGHTS: Final = (
    (re.compile(r"\\[wWpP]"), 256),  # the letters of all scripts: some 250 microseconds each
    (re.compile(r"\\[bBdDsS]"), 64),
)
_SPACED: Final = re.compile(r"\(\?[A-Za-z-]*x")
_REGEX_PART: Final = re.compile(
    r"""(?P<escape>\\(?:[pP](?:\{[^{}]*\}|.)|[xuU]\{[^{}]*\}|b\{[a-z-]*\}|.))
    |(?P<set>\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\[\]\\])*\])
    |(?P<open>\()|(?P<close>\))
    |(?P<count>\{[^{}]*\})
    |(?P<again>[*+?])
    |(?P<character>.)""",
    re.VERBOSE | re.DOTALL,
)


class Read(NamedTuple):
    """What a clause names: a variable, or one field of it."""

    variable: str
    field: str | None


@dataclass(slots=True)
class Macro:
    """A condition that is asked of each element of a list."""

    name: str
    element: str
    path: tuple[str, ...]  # of the list, from a variable on; empty when it is written out
    written: int  # no more elements than this has a list that is written out
    tokens: int  # of what is asked
    bytes: int
    scans: int = 0
    own: int = 0  # how often it names the element
    reads: list[Read] = field(default_factory=list)  # what else it names


@dataclass(slots=True)
class Clause:
    """One of the parts that the outermost `&&` of a condition join."""

    text: str
    tokens: int
    reads: list[Read] = field(default_factory=list)  # one for each place
    macros: list[Macro] = field(default_factory=list)
    scans: int = 0  # operators and functions that copy or look at all of what they are given
    regexes: int = 0
    regex_weight: int = 0

    def cost(
        self, size_of: Callable[[Read], int], length_of: Callable[[tuple[str, ...]], int]
    ) -> int:
        """An upper bound of the units that an evaluation takes, for values of these sizes.

        There are no variables of its own and no lists are made, so all that a clause computes is
        put together from what it names, from each place at most once: it is no larger than `whole`.
        """
        sizes = {read: size_of(read) for read in self.reads}
        whole = len(self.text) + sum(sizes[read] for read in self.reads)
        units = whole + self.tokens * TOKEN_COST + self.scans * whole
        units += self.regex_weight * (REGEX_COST + whole // REGEX_SHARE)
        for macro in self.macros:
            steps = length_of(macro.path) if macro.path else macro.written
            # The elements of a list together are no larger than the list.
            elements = whole if macro.path else steps * whole
            outside = macro.bytes + sum(sizes[read] for read in macro.reads)
            units += steps * macro.tokens * TOKEN_COST
            units += (macro.scans + 1) * (macro.own * elements + steps * outside)
        return units


def clauses_of(text: str, literal: Callable[[str], str]) -> list[Clause]:
    """The clauses of a condition; raises ExpressionError with what is wrong.

    `literal` gives the value of a text that is written in the language, with its quotes.
    """
    expression = read(text)
    if any(first == end for first, end in expression.parts()):
        raise ExpressionError('nothing stands beside a "&&"')
    clauses = [_Reader(expression, literal, first, end).read() for first, end in expression.parts()]
    macros = sum(len(clause.macros) for clause in clauses)
    if macros > CONDITION_MACROS_MAX:
        raise ExpressionError(f"{macros} of {', '.join(MACROS)}; at most {CONDITION_MACROS_MAX}")
    regexes = sum(clause.regexes for clause in clauses)
    if regexes > CONDITION_REGEXES_MAX:
        raise ExpressionError(f"{regexes} regular expressions; at most {CONDITION_REGEXES_MAX}")
    return clauses


def regex_weight(pattern: str) -> int:
    """How large a regular expression is once it is compiled: what the library unrolls, weighed.
    Raises ExpressionError where it cannot be told what a counted repetition repeats."""
    if _SPACED.search(pattern):
        raise ExpressionError('the mode "(?x)" of regular expressions is not taken')
    groups = [0]
    atom = _CHARACTER_WEIGHT  # the weight of what a repetition would repeat
    for found in _REGEX_PART.finditer(pattern):
        kind, text = found.lastgroup, found.group()
        if kind == "open":
            groups.append(0)
            atom = _CHARACTER_WEIGHT
        elif kind == "close" and len(groups) > 1:
            atom = groups.pop() + _CHARACTER_WEIGHT
            groups[-1] += atom
        elif kind == "count":
            counts = [_count(digits) for digits in re.findall("[0-9]+", text)]
            groups[-1] += atom * (max(counts, default=1) - 1)
            atom *= max(counts, default=1)
        elif kind == "again":
            groups[-1] += _CHARACTER_WEIGHT
        elif text == "[":
            raise ExpressionError('a set in a set, or a "[" alone, in a regular expression')
        else:
            atom = len(text) * _CHARACTER_WEIGHT
            atom += sum(len(wide.findall(text)) * each for wide, each in _CLASS_WEIGHTS)
            groups[-1] += atom
    return sum(groups)


def _count(digits: str) -> int:
    return max(1, int(digits)) if len(digits) <= 6 else 10**6


class _Reader:
    """The way over the words of one clause."""

    def __init__(
        self, expression: Expression, literal: Callable[[str], str], first: int, end: int
    ) -> None:
        self._words = expression.tokens
        self._pairs = expression.pairs
        self._literal = literal
        self._expression = expression
        self._first, self._end = first, end
        self._clause = Clause(expression.cut(first, end), end - first)
        self._macro: Macro | None = None  # whose question is being read
        self._macro_end = 0

    def read(self) -> Clause:
        for index in range(self._first, self._end):
            if index >= self._macro_end:
                self._macro = None
            token = self._words[index]
            if token.kind == "sign":
                self._sign(index, token)
            elif token.kind == "name":
                if self._is_sign(index - 1, "."):
                    self._member(index, token.text)
                elif self._is_sign(index + 1, "("):
                    self._function(token.text)
                else:
                    self._name(index, token.text)
        return self._clause

    def _at(self, index: int) -> Token | None:
        return self._words[index] if self._first <= index < self._end else None

    def _is_sign(self, index: int, *texts: str) -> bool:
        token = self._at(index)
        return token is not None and token.kind == "sign" and token.text in texts

    def _ends_value(self, index: int) -> bool:
        """Whether a value ends at this word, so that what follows belongs to it."""
        token = self._at(index)
        return token is not None and (token.kind != "sign" or token.text in (")", "]", "}"))

    def _is_variable(self, index: int) -> bool:
        token = self._at(index)
        return token is not None and token.text in VARIABLES and not self._is_sign(index - 1, ".")

    def _scan(self) -> None:
        if self._macro:
            self._macro.scans += 1
        else:
            self._clause.scans += 1

    def _sign(self, index: int, token: Token) -> None:
        if token.text in _SCANS:
            self._scan()
        elif token.text == "." and not self._ends_value(index - 1):
            raise ExpressionError('nothing stands before a "."')
        elif token.text == "{" and self._ends_value(index - 1):
            raise ExpressionError("objects of a type are not taken")
        elif token.text == "{" or (token.text == "[" and self._ends_value(index - 1)):
            self._scan()

    def _name(self, index: int, name: str) -> None:
        if self._macro and name == self._macro.element:
            self._macro.own += 1
        elif name in VARIABLES:
            self._variable(index, name)
        elif name not in _CONSTANTS and name not in TYPES:
            if name in _OTHER_LANGUAGES:
                raise ExpressionError(f'"{name}" is written {_OTHER_LANGUAGES[name]}')
            own = [self._macro.element] if self._macro else []
            hint = _meant(name, [*VARIABLES, *own])
            hint = hint or f"; there are {', '.join((*VARIABLES, *own))}"
            raise ExpressionError(f'the name "{name}" is unknown{hint}')

    def _variable(self, index: int, name: str) -> None:
        found = Read(name, None)
        following = self._at(index + 2)
        if (
            self._is_sign(index + 1, ".")
            and following is not None
            and following.kind == "name"
            and not self._is_sign(index + 3, "(")
        ):
            found = Read(name, following.text)
            if name == "event" and following.text not in EVENT_FIELDS:
                hint = _meant(following.text, EVENT_FIELDS)
                there = hint or f"; there are {', '.join(EVENT_FIELDS)}"
                raise ExpressionError(f'events have no "{following.text}"{there}')
        self._clause.reads.append(found)
        if self._macro:
            self._macro.reads.append(found)

    def _function(self, name: str) -> None:
        if name not in FUNCTIONS and (name in METHODS or name in MACROS):
            raise ExpressionError(f'"{name}" stands behind its value: value.{name}(...)')
        if name not in FUNCTIONS:
            raise ExpressionError(f'there is no function "{name}"{_meant(name, FUNCTIONS)}')
        if name not in _SCANS_NOTHING:
            self._scan()

    def _member(self, index: int, name: str) -> None:
        if not self._is_sign(index + 1, "("):
            if not self._is_variable(index - 2):
                self._scan()  # the library copies what a field holds; the first one is a Read
        elif name in MACROS:
            self._begin_macro(index, name)
        elif name == "matches":
            self._regex(index)
        elif name in METHODS:
            self._scan()
        elif name in _MAKES_LISTS:
            raise ExpressionError(f'"{name}" is not taken; {_MAKES_LISTS[name]}')
        elif name in FUNCTIONS:
            raise ExpressionError(f'"{name}" stands before its value: {name}(value)')
        else:
            hint = _meant(name, (*METHODS, *MACROS))
            raise ExpressionError(f'there is no function "{name}"{hint}')

    def _regex(self, index: int) -> None:
        pattern = self._at(index + 2)
        if pattern is None or pattern.kind != "text" or not self._is_sign(index + 3, ")"):
            raise ExpressionError('"matches" takes a text that is written out, nothing computed')
        if self._macro:
            raise ExpressionError(
                f'"matches" is not taken inside of "{self._macro.name}": it would be compiled for'
                " each element; use contains, startsWith, endsWith or =="
            )
        weight = regex_weight(self._literal(pattern.text))
        if weight > REGEX_WEIGHT_MAX:
            raise ExpressionError(
                f"the regular expression {pattern.text} has the weight {weight}, at most"
                f" {REGEX_WEIGHT_MAX} is taken (a character 8; \\b, \\d, \\s 64 more; \\w and \\p"
                " 256 more; counted repetitions multiply); [a-z] is light"
            )
        self._clause.regexes += 1
        self._clause.regex_weight += weight

    def _begin_macro(self, index: int, name: str) -> None:
        if self._macro:
            raise ExpressionError(f'"{name}" inside of "{self._macro.name}" is not taken')
        element, comma = self._at(index + 2), self._at(index + 3)
        end = self._pairs[index + 1]
        if element is None or element.kind != "name" or comma is None or comma.text != ",":
            raise ExpressionError(f'"{name}" is written list.{name}(x, condition on x)')
        if element.text in (*VARIABLES, *TYPES, *_CONSTANTS):
            raise ExpressionError(f'"{element.text}" has a meaning; name the element otherwise')
        path, written = self._list_before(index - 2, name)
        self._macro = Macro(
            name=name,
            element=element.text,
            path=path,
            written=written,
            tokens=end - index - 4,
            bytes=len(self._expression.cut(index + 4, end)),
        )
        self._macro_end = end
        self._clause.macros.append(self._macro)

    def _list_before(self, last: int, macro: str) -> tuple[tuple[str, ...], int]:
        """The path of the list that ends at this word, or how many words it is written with."""
        if self._is_sign(last, "]") and not self._ends_value(self._pairs[last] - 1):
            return (), last - self._pairs[last]
        path: list[str] = []
        index = last
        while (token := self._at(index)) is not None and token.kind == "name":
            path.insert(0, token.text)
            if not self._is_sign(index - 1, "."):
                if token.text in VARIABLES:
                    return tuple(path), 0
                break
            index -= 2
        raise ExpressionError(
            f'"{macro}" is asked of a list that has a name, like json.items.{macro}(...), or that'
            f' is written out, like ["a", "b"].{macro}(...)'
        )


def _meant(name: str, names: tuple[str, ...] | list[str]) -> str:
    nearest = closest(name, names)
    return f'; did you mean "{nearest}"?' if nearest else ""
