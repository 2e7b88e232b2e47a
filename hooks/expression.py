"""The text of a condition as words and signs, before the library of the language sees it.

Conditions come from configuration files and out of the replicated state. The library would read
whatever it is given: a text that is nested deeply enough ends the process. So this module decides
first what may be read at all, and cuts the text at its outermost `&&`. Where it and the library
could see different words in one text (three quotes, bytes, comments, names in backticks) it refuses
the text. Deciding code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from hooks.limits import CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_TOKENS_MAX

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n\f]+)
    |(?P<raw>[rR](?:"[^"\r\n]*"|'[^'\r\n]*'))
    |(?P<text>"(?:[^"\\\r\n]|\\[^\r\n])*"|'(?:[^'\\\r\n]|\\[^\r\n])*')
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_REFUSED: Final = (
    (re.compile(r"""[rR]?(?:\"{3}|'{3})"""), "texts in three quotes are not taken"),
    (re.compile(r"""(?:[bB][rR]?|[rR][bB])["']"""), "bytes are not taken; events have texts"),
    (re.compile(r"//"), "comments are not taken"),
    (re.compile(r"=(?!=)"), 'to compare write "=="'),
    (re.compile(r"&"), '"and" is written "&&"'),
    (re.compile(r"\|"), '"or" is written "||"'),
    (re.compile(r"""["']"""), "a text that does not end, or one over two lines"),
)
_CLOSING: Final = {")": "(", "]": "[", "}": "{"}


class ExpressionError(ValueError):
    """What is wrong with a text, as a sentence for whoever wrote it."""


class Token(NamedTuple):
    """A word of the language."""

    kind: str  # "text", "number", "name" or "sign"; the operator `in` is a sign
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Expression(NamedTuple):
    """A text that may be read."""

    text: str
    tokens: Sequence[Token]
    pairs: Mapping[int, int]  # the tokens that are brackets: each one's other half

    def parts(self) -> Iterator[tuple[int, int]]:
        """The first token of each part that the outermost `&&` join, and the one after its last.
        One part where `||` or `? :`, which bind less, stand outside of all brackets."""
        cuts: list[int] = []
        index = 0
        while index < len(self.tokens):
            text = self.tokens[index].text
            if self.tokens[index].kind == "sign":
                if text in ("||", "?"):
                    cuts = []
                    break
                if text == "&&":
                    cuts.append(index)
                index = self.pairs[index] if text in ("(", "[", "{") else index
            index += 1
        first = 0
        for cut in (*cuts, len(self.tokens)):
            yield first, cut
            first = cut + 1

    def cut(self, first: int, end: int) -> str:
        """The text of some tokens."""
        return self.text[self.tokens[first].start : self.tokens[end - 1].end] if end > first else ""


def read(text: str) -> Expression:
    """The words of a condition; raises ExpressionError with what is wrong."""
    size = len(text.encode(errors="replace"))
    if size > CONDITION_BYTES_MAX:
        raise ExpressionError(f"{size} bytes; at most {CONDITION_BYTES_MAX}")
    tokens = list(_tokens(text))
    if not tokens:
        raise ExpressionError("is empty; something that is true or false is expected")
    if len(tokens) > CONDITION_TOKENS_MAX:
        raise ExpressionError(f"{len(tokens)} words and signs; at most {CONDITION_TOKENS_MAX}")
    return Expression(text, tokens, _pairs(tokens))


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        for pattern, message in _REFUSED[:3]:
            if pattern.match(text, place):
                raise ExpressionError(f"{message} ({_around(text, place)})")
        found = _TOKEN.match(text, place)
        if found is None:
            for pattern, message in _REFUSED[3:]:
                if pattern.match(text, place):
                    raise ExpressionError(f"{message} ({_around(text, place)})")
            raise ExpressionError(f"the sign {text[place]!r} is unknown ({_around(text, place)})")
        kind, word = str(found.lastgroup), found.group()
        if kind == "name" and word == "in":
            kind = "sign"
        if kind != "space":
            yield Token("text" if kind == "raw" else kind, word, place)
        place = found.end()


def _pairs(tokens: Sequence[Token]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    open_: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind != "sign":
            continue
        if token.text in _CLOSING.values():
            open_.append(index)
            if len(open_) > CONDITION_DEPTH_MAX:
                raise ExpressionError(f"brackets in brackets; at most {CONDITION_DEPTH_MAX} deep")
        elif token.text in _CLOSING:
            if not open_ or tokens[open_[-1]].text != _CLOSING[token.text]:
                raise ExpressionError(f'a "{token.text}" closes nothing (character {token.start})')
            pairs[index] = open_[-1]
            pairs[open_.pop()] = index
    if open_:
        lonely = tokens[open_[-1]]
        raise ExpressionError(f'a "{lonely.text}" is not closed (character {lonely.start})')
    return pairs


def _around(text: str, place: int) -> str:
    """Where something is, for people."""
    return f"at {text[place : place + 20]!r}"
