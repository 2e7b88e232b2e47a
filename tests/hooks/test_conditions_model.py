"""Conditions against a dumb model: the same expressions, computed in Python with three values."""

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from hooks.conditions import Condition, ConditionFailed, problem
from tests.hooks.test_conditions import written

ERROR = "error"
Value = bool | int | str | list[int] | None
Facts = dict[str, Value]


class Expression(NamedTuple):
    """A text of the language, and what it means."""

    text: str
    meaning: Callable[[Facts], object]  # a value, or ERROR


NAMES = ("n", "m", "s", "flag", "nothing", "empty", "list")
FACTS = st.fixed_dictionaries(
    {
        "n": st.integers(-(2**63), 2**64 - 1) | st.integers(-3, 3),
        "m": st.integers(-3, 3),
        "s": st.text(st.characters(codec="utf-8"), max_size=4) | st.just("a"),
        "flag": st.booleans(),
        "empty": st.none(),
        "list": st.lists(st.integers(-3, 3), max_size=5),
    }
)


def kind(value: object) -> str:
    return "number" if type(value) is int else type(value).__name__


def compared(operator: str, left: object, right: object) -> object:
    if operator in ("==", "!="):
        same = kind(left) == kind(right) and left == right
        return same == (operator == "==")
    if kind(left) != kind(right) or kind(left) not in ("number", "str", "bool"):
        return ERROR
    assert isinstance(left, int | str)
    below, equal = left < right, left == right  # type: ignore[operator]
    return {"<": below, "<=": below or equal, ">": not (below or equal), ">=": not below}[operator]


def fact(name: str) -> Expression:
    return Expression(f"json.{name}", lambda facts: facts.get(name, ERROR))


def comparison(operator: str, left: Expression, right: Expression) -> Expression:
    def meaning(facts: Facts) -> object:
        one, other = left.meaning(facts), right.meaning(facts)
        return ERROR if ERROR in (one, other) else compared(operator, one, other)

    return Expression(f"{left.text} {operator} {right.text}", meaning)


def joined(operator: str, left: Expression, right: Expression) -> Expression:
    decides = operator == "||"

    def meaning(facts: Facts) -> object:
        both = [left.meaning(facts), right.meaning(facts)]
        if any(value is decides for value in both):
            return decides
        return not decides if all(value is (not decides) for value in both) else ERROR

    return Expression(f"({left.text}) {operator} ({right.text})", meaning)


def negated(inner: Expression) -> Expression:
    def meaning(facts: Facts) -> object:
        value = inner.meaning(facts)
        return not value if isinstance(value, bool) else ERROR

    return Expression(f"!({inner.text})", meaning)


def chosen(condition: Expression, left: Expression, right: Expression) -> Expression:
    def meaning(facts: Facts) -> object:
        value = condition.meaning(facts)
        if not isinstance(value, bool):
            return ERROR
        return left.meaning(facts) if value else right.meaning(facts)

    return Expression(f"({condition.text}) ? ({left.text}) : ({right.text})", meaning)


def asked_of_each(macro: str, bound: int) -> Expression:
    def meaning(facts: Facts) -> object:
        items = facts["list"]
        assert isinstance(items, list)
        count = sum(item > bound for item in items)
        return {"all": count == len(items), "exists": count > 0, "exists_one": count == 1}[macro]

    return Expression(f"json.list.{macro}(each, each > {bound})", meaning)


def has(name: str) -> Expression:
    return Expression(f"has(json.{name})", lambda facts: name in facts)


def constant(value: int | str | bool) -> Expression:
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"'
    return Expression(str(value) if kind(value) == "number" else text, lambda facts: value)


OPERANDS = st.sampled_from(NAMES).map(fact) | (
    st.integers(-3, 3) | st.sampled_from(("a", "b")) | st.booleans()
).map(constant)
SIMPLE = (
    st.builds(comparison, st.sampled_from(("==", "!=", "<", "<=", ">", ">=")), OPERANDS, OPERANDS)
    | st.builds(asked_of_each, st.sampled_from(("all", "exists", "exists_one")), st.integers(-3, 3))
    | st.sampled_from(NAMES).map(has)
    | OPERANDS
)
EXPRESSIONS = st.recursive(
    SIMPLE,
    lambda inner: (
        st.builds(joined, st.sampled_from(("&&", "||")), inner, inner)
        | st.builds(negated, inner)
        | st.builds(chosen, inner, inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, FACTS)
def test_conditions_mean_what_the_model_means(expression: Expression, facts: Facts) -> None:
    """True, false and failed, with errors beside `&&` and `||`, in any nesting."""
    # whatever is not a truth value is an error, told at once when there is nothing to ask
    expected = expression.meaning(facts)
    if problem(expression.text) is not None:
        assert not isinstance(expected, bool)
        assert "json." not in expression.text
        return
    found = Condition(expression.text).decide(written(facts))
    if isinstance(found, ConditionFailed):
        assert not isinstance(expected, bool), found
    else:
        assert found is expected


@settings(max_examples=200, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), FACTS)
def test_cutting_at_and_changes_nothing(parts: list[Expression], facts: Facts) -> None:
    """A condition that is asked clause by clause says what it says as one clause in brackets."""
    text = " && ".join(f"({part.text})" for part in parts)
    if problem(text) is not None:
        return
    cut, whole = Condition(text), Condition(f"({text})")
    assert len(cut.clauses(written(facts))) == len(parts)
    assert len(whole.clauses(written(facts))) == 1
    one, other = cut.decide(written(facts)), whole.decide(written(facts))
    assert [isinstance(found, ConditionFailed) for found in (one, other)] in ([0, 0], [1, 1])
    if isinstance(one, bool):
        assert one is other


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("dataj son.event(){}[]\"'\\&|!=<>?:,+-*/%01rbu\n#`_é"), max_size=40))
def test_any_text_is_a_condition_or_has_a_problem(text: str) -> None:
    """Nothing that is typed raises anything but what is said of it, and what is taken answers."""
    if problem(text) is None:
        assert isinstance(Condition(text).decide(written()), bool | ConditionFailed)


@settings(max_examples=300, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
))  # fmt: skip
def test_any_value_is_answered(value: object) -> None:
    """Whatever stands in the log, there is an answer."""
    for text in ("json == json", "size(json) > 1", "json.a.b == 1", "json.exists(x, x == 1)"):
        assert isinstance(Condition(text).decide(written(value)), bool | ConditionFailed)
