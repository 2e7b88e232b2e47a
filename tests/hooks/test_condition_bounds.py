"""What conditions can cost and what they survive: bounds by sizes and operations, not clocks."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random

import cel
import pytest

from hooks import facts
from hooks.clauses import Clause, Read, clauses_of, regex_weight
from hooks.conditions import Condition, ConditionFailed, problem
from hooks.limits import (
    CONDITION_BYTES_MAX,
    CONDITION_COST_MAX,
    CONDITION_DEPTH_MAX,
    CONDITION_MACROS_MAX,
    CONDITION_REGEXES_MAX,
    CONDITION_TOKENS_MAX,
    REGEX_WEIGHT_MAX,
)
from tests.hooks.test_conditions import asked, written

MANY = 100_000


def clause(text: str) -> Clause:
    (found,) = clauses_of(text, lambda literal: literal[1:-1])
    return found


def cost(text: str, size: int, length: int = 0) -> int:
    """Of a clause that names values of `size` bytes, in lists of `length` elements."""
    return clause(text).cost(lambda read: size, lambda path: length)


def estimated(text: str, sizes: Mapping[str, int], length: int) -> int:
    """The same where each field has a size of its own."""
    return clause(text).cost(lambda read: sizes[str(read.field)], lambda path: length)


@pytest.mark.parametrize(
    "text",
    [
        "(" * MANY + "true" + ")" * MANY,
        "[" * MANY + "]" * MANY,
        "{1:" * MANY + "1" + "}" * MANY,
        "(" * MANY,
        ")" * MANY,
        "!" * MANY + "true",
        "- " * MANY + "1 == 1",
        "1" + "+1" * MANY + " == 1",
        "true" + " && true" * MANY,
        "true ? " * MANY + "true" + " : true" * MANY,
        "data" + ".a" * MANY,
        "data" + "[0]" * MANY,
        '"' + "x" * MANY + '" == data.key',
        "9" * MANY + " > data.version",
        "x" * MANY,
        "data.key.matches('" + "(" * MANY + "')",
        "\0" * MANY,
        "\ud800" * MANY,
    ],
)
def test_long_texts_are_refused_before_they_are_parsed(text: str) -> None:
    """Each of them would have ended the process, or held it up."""
    assert f"at most {CONDITION_BYTES_MAX}" in str(problem(text))


def _chains() -> list[str]:
    words = CONDITION_TOKENS_MAX
    deep = CONDITION_DEPTH_MAX
    return [
        "!" * (words - 1) + "true",
        "-" * (words - 3) + "1 == 1",
        "1" + "+1" * (words // 2 - 2) + " == 1",
        "true" + "&&true" * (words // 2 - 1),
        "false" + "||true" * (words // 2 - 1),
        "1" + "==1" * (words // 2 - 1),
        "json" + ".a" * (words // 2 - 1),
        "json" + "[0]" * (words // 3 - 1),
        "true?true:" * (words // 4 - 1) + "true",
        "true?" * 60 + "true" + ":true" * 60,
        "(" * deep + "true" + ")" * deep,
        "[" * deep + "]" * deep,
        "{1:" * deep + "1" + "}" * deep,
        "!(" * deep + "true" + ")" * deep,
        "size(" * deep + "json" + ")" * deep,
        "json" + ".size()" * (words // 4 - 1),
        "(" * deep + "json.a.all(x, x" + "-x" * 200 + " > 1)" + ")" * (deep - 1),
    ]


def test_the_longest_chains_need_little_stack() -> None:
    """A process with an eighth of the usual stack reads and evaluates all that is taken."""
    program = (
        "import json, sys, threading\n"
        "from hooks.conditions import Condition, ConditionFailed\n"
        "from tests.hooks.test_conditions import written\n"
        "def ask():\n"
        "    for text in json.load(sys.stdin):\n"
        "        try:\n"
        "            found = Condition(text).decide(written())\n"
        "        except ValueError as error:\n"
        "            found = f'problem: {error}'\n"
        "        answers.append(str(found)[:100])\n"
        "answers = []\n"
        "threading.stack_size(1 << 20)\n"
        "thread = threading.Thread(target=ask)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print(json.dumps(answers))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(_chains()), capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = json.loads(done.stdout)
    assert len(answers) == len(_chains())
    assert "True" in answers


def test_one_more_than_allowed_is_refused() -> None:
    """Each bound of a text, by one."""
    deep = CONDITION_DEPTH_MAX + 1
    assert "deep" in str(problem("(" * deep + "true" + ")" * deep))
    assert problem("true" + "&&true" * (CONDITION_TOKENS_MAX // 2 - 1)) is None
    assert "words and signs" in str(problem("true" + "&&true" * (CONDITION_TOKENS_MAX // 2)))
    macros = ["json.a.all(x, x > 1)"] * CONDITION_MACROS_MAX
    assert problem(" && ".join(macros)) is None
    assert "at most 8" in str(problem(" && ".join([*macros, "json.a.exists(x, true)"])))
    regexes = ['data.key.matches("a")'] * CONDITION_REGEXES_MAX
    assert problem(" || ".join(regexes)) is None
    assert "at most 4" in str(problem(" || ".join([*regexes, 'data.key.matches("b")'])))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a{1000}){1000}",
        "(?:a{1000}){100}",
        "{1000}{1000}",
        "a{1000}{1000}",
        "((a{9}){9}){9}",
        "a{ 1000 }",
        "(?:abc)*{100}",
        "(?:(?:ab){3}c){50}",
        "[a-z]{60}",
        "a{1,1000}",
        "a{500,}",
        "[01]*1[01]{70}",
        r"\b{100}",
        r"\x41{300}",
        r"\w\w\w\w\w\w\w\w",
        r"(?:\w?){60}z",
        r"\pL{50}",
        r"\p{Greek}{100}",
        "a" * 300,
        "x{99999999999999999999}",
    ],
)
def test_regular_expressions_that_grow_are_refused(pattern: str) -> None:
    """Compiled at each evaluation, each would hold the node up for every event."""
    assert regex_weight(pattern) > REGEX_WEIGHT_MAX
    assert "has the weight" in str(problem(f"data.key.matches(r'{pattern}')"))


@pytest.mark.parametrize(
    "pattern",
    [
        "^orders/[0-9]+$",
        r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}Z$",
        "(a+)+$",
        "(a|aa)*b",
        r"^[\w.]+@[\w.]+$",
        "(?i)^(north|south)-",
        "[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{6}",
        r"[]\]^[:alpha:]-]{2}\{[^]]",
    ],
)
def test_ordinary_regular_expressions_are_taken(pattern: str) -> None:
    """Nested quantifiers too: the library's time is linear, it never goes back."""
    assert problem(f"data.key.matches(r'{pattern}')") is None


@pytest.mark.parametrize("pattern", [r"[\w[a]]{200}", "(?x)a {200}", "(?ix) a", "["])
def test_what_cannot_be_weighed_is_refused(pattern: str) -> None:
    """Where a repetition repeats something else than it seems to."""
    assert "regular expression" in str(problem(f"data.key.matches(r'{pattern}')"))


def test_text_that_doubles_itself_costs_its_sum() -> None:
    """There are neither variables nor lists that are made: a text of n places is n times as long,
    and the cost of putting it together, place by place, is in the estimate."""
    text = " + ".join(["data.value"] * 9) + ' == ""'
    assert cost(text, 1_000) >= 9 * 9 * 1_000
    assert cost(text, 1 << 20) > CONDITION_COST_MAX
    assert "costs too much" in str(asked(text, written(b"x" * (1 << 20))))
    assert asked('data.value + data.value != "x"', written(b"x" * (1 << 20))) is True
    for doubling in (
        '["a"].map(x, x + x).size() == 1',
        "json.a.all(x, json.b.all(y, true))",
        "json.a.exists(x, json.a.exists_one(y, x == y))",
    ):
        assert "is not taken" in str(problem(doubling))


def test_the_cost_grows_with_what_is_looked_at() -> None:
    """Linear in the sizes outside of lists, and inside of them when only the element is named;
    with something from outside it is their product."""
    near = "json.items.all(item, item.n > 1)"
    far = "json.items.all(item, item.n > json.main)"
    assert cost('data.value.contains("x")', 2_000_000) < 2.1 * cost(
        'data.value.contains("x")', 1_000_000
    )
    assert cost(near, 20_000, 2_000) < 2.1 * cost(near, 10_000, 1_000)
    assert cost(far, 20_000, 2_000) > 3.5 * cost(far, 10_000, 1_000)
    assert cost(far, 10_000, 1_000) > 10_000 * 1_000


def test_what_an_evaluation_may_touch_is_within_the_estimate() -> None:
    """A dumb count of the comparisons of a list with a value from outside, byte by byte, never
    exceeds what was estimated: the estimate is an upper bound."""
    text = "json.items.exists(item, item == json.main && item.size() == json.main.size())"
    random = Random(5)
    for _ in range(50):
        items = ["x" * random.randrange(200) for _ in range(random.randrange(100))]
        main = "x" * random.randrange(2_000)
        touched = sum(min(len(item), len(main)) + len(item) + len(main) for item in items)
        sizes = {"items": sum(map(len, items)) + len(items), "main": len(main)}
        assert estimated(text, sizes, len(items)) >= touched


def test_a_condition_too_costly_for_an_event_fails_and_says_so() -> None:
    """The product of a long list and a long text; on a small value the same condition is asked."""
    text = "json.items.exists(item, item == json.main && json.main.contains(item))"
    large = {"items": ["x"] * 5_000, "main": "y" * 20_000}
    found = str(asked(text, written(large)))
    assert found.startswith("costs too much for this event:")
    assert asked(text, written({"items": ["x", "y"], "main": "y"})) is True
    assert asked(f'data.key == "other" && {text}', written(large)) is False


def test_all_clauses_together_have_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clauses that are each affordable are not affordable without end."""
    one = '!json.a.contains("b")'
    delivery = written({"a": "x" * 10_000})
    monkeypatch.setattr(facts, "CONDITION_COST_MAX", 5 * cost(one, 10_000))
    assert asked(one, delivery) is True
    assert asked(" && ".join([one] * 4), delivery) is True
    assert "costs too much" in str(asked(" && ".join([one] * 6), delivery))


def test_only_what_is_named_is_handed_over() -> None:
    """A condition on the key does not pay for a large value beside it."""
    large = written(b"x" * (1 << 20))
    assert clause("data.key == 'a' || has(data.value)").reads == [
        Read("data", "key"),
        Read("data", "value"),
    ]
    assert asked('data.key.matches("^orders/.*[0-9]{3}$")', large) is False
    assert asked('data.key.contains("orders") && data.version == 1', large) is True


def test_a_panic_of_the_library_is_a_failed_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panics are no exceptions of the ordinary kind; what ends a task or a process passes."""

    class PanicException(BaseException):
        pass

    class Failing:
        error: BaseException = PanicException("index out of bounds")

        def execute(self, variables: object) -> object:
            raise self.error

        def variables(self) -> list[str]:
            return []

    monkeypatch.setattr(cel, "compile", lambda text: Failing())
    assert "index out of bounds" in str(asked("data.is_create"))
    Failing.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        asked("data.is_create")

    def broken(text: str) -> object:
        raise PanicException("parser")

    monkeypatch.setattr(cel, "compile", broken)
    assert problem("data.is_create") == "parser"


def test_names_that_only_the_library_sees_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it to read a text otherwise than we do, none of our bounds would hold."""

    class Other:
        def variables(self) -> list[str]:
            return ["data", "hidden"]

    monkeypatch.setattr(cel, "compile", lambda text: Other())
    assert problem("data.is_create") == "the name 'hidden' is unknown"


def test_threads_may_ask_the_same_condition() -> None:
    """A condition keeps nothing of an event."""
    asking = Condition("json.n == event.revision * 0 + json.twin && json.items.all(i, i == json.n)")
    deliveries = [
        written({"n": number, "twin": number, "items": [number] * 50}) for number in range(40)
    ]
    wrong = written({"n": 1, "twin": 2, "items": []})

    def ask(number: int) -> list[bool | ConditionFailed]:
        return [asking.decide(delivery) for delivery in [*deliveries, wrong]]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers == [[*[True] * 40, False]] * 8
