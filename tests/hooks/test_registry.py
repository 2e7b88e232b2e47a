"""The @hook decorator and what is collected."""

import inspect
from types import ModuleType
from typing import Any

import pytest

from hooks.configuration.config import parse_handler
from hooks.configuration.keys import KEYS
from hooks.configuration.relations import DECORATOR_KEYS
from hooks.registry import HookContext, Registry, hook
from tests.hooks.workbench import CLUSTER_ID, ListLog, attempt, definition, write_event


def test_a_module_is_searched_in_the_order_of_its_text() -> None:
    """Marked functions are found under their names; others are not touched."""

    @hook("hooks.kv.*", priority=10)
    def first(context: HookContext) -> None: ...

    @hook(name="renamed", timeout_ms=7)
    async def second(context: HookContext) -> None: ...

    class Lazy:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: self

    module = ModuleType("m")
    vars(module).update(b=first, a=second, again=first, other=print, lazy=Lazy())
    registry = Registry().collect([module])
    assert [(f.handler_id, f.pattern, dict(f.options)) for f in registry.found] == [
        ("first", "hooks.kv.*", {"priority": 10}),
        ("renamed", None, {"timeout_ms": 7}),
    ]
    assert registry.functions["first"] is first


def test_two_functions_of_one_name_are_refused() -> None:
    """Which of the two would run is not left to chance."""
    registry = Registry()
    registry.add(hook(name="x")(lambda _: None))
    with pytest.raises(ValueError, match='both register a handler "x"'):
        registry.add(hook(name="x")(lambda _: None))


def test_a_context_shows_the_event_and_the_attempt() -> None:
    """What handlers use most is one attribute away."""
    made = attempt(definition(), write_event(9, "k", b"v"), number=2)
    context = HookContext(
        deliveries=made.deliveries,
        handler="h",
        attempt=made.number,
        fencing_token=made.token,
        cluster_id=CLUSTER_ID,
        log=ListLog(),
    )
    assert (context.topic, context.key, context.revision) == ("hooks.kv.write_committed", "k", 9)
    assert context.event_id == f"{CLUSTER_ID}-9"
    assert context.payload()["value"] == "v"
    assert not context.triggered


def test_the_decorator_takes_every_key_of_a_function() -> None:
    """What a table can say of a Python handler, @hook can say too, and no more."""
    keys = {key for key in KEYS if parse_handler({**PYTHON, key: 0})[1]}
    refused = {key for key in keys if "only a handler of type" in _problems(key)}
    ours = _parameters()
    assert ours == set(KEYS) - refused - {"execution_mode", "type", "handler_id"}
    assert ours == set(DECORATOR_KEYS)


def test_what_the_decorator_does_not_know_is_kept_for_whoever_checks_it() -> None:
    """An error there and then would take the whole module with it."""

    @hook("x", priorty=1)  # type: ignore[arg-type]
    def misspelt(context: HookContext) -> None: ...

    @hook(5, name=[])  # type: ignore[arg-type]
    def odd(context: HookContext) -> None: ...

    registry = Registry()
    registry.add(misspelt)
    registry.add(odd)
    assert [(f.handler_id, f.pattern, dict(f.options)) for f in registry.found] == [
        ("misspelt", "x", {"priorty": 1}),
        ("odd", None, {"name": [], "pattern": 5}),
    ]


def _parameters() -> set[str]:
    """Those of @hook that have a name."""
    return set(inspect.signature(hook).parameters) - {"unknown"}


PYTHON = {"name": "h", "pattern": ">", "type": "in_process", "handler_id": "f"}


def _problems(key: str) -> str:
    return " ".join(map(str, parse_handler({**PYTHON, key: 0})[1]))


def test_the_decorator_without_its_parentheses_is_refused() -> None:
    """It would take the function as a pattern, and the handler would be gone in silence."""
    with pytest.raises(TypeError, match="parentheses"):
        hook(print)  # type: ignore[arg-type]


def test_everything_that_the_decorator_is_given_is_checked() -> None:
    """All arguments reach the definition, as the keys of a table would."""

    @hook(
        "orders.*",
        name="h",
        version=2,
        filter="event.hops == 0",
        scope="selector",
        selector={"zone": "a"},
        partitions=4,
        order_by="key",
        start="earliest",
        priority=1,
        after=("x", "y"),
        concurrency=2,
        rate_limit="10/s",
        rate_limit_per_key="1/s",
        batch_max=10,
        batch_wait_ms=20,
        timeout_ms=100,
        retry_count=1,
        on_failure="skip",
        breaker_failures=3,
        breaker_open_ms=50,
        report_executions=True,
        enabled=False,
        required=True,
    )
    def handle(context: HookContext) -> None: ...

    registry = Registry()
    registry.add(handle)
    (found,) = registry.found
    definition, problems = parse_handler({**PYTHON, **found.options, "pattern": found.pattern})
    assert definition is not None, problems
    assert definition.selector == (("zone", "a"),)
    assert definition.after == ("x", "y")
    assert (definition.version, definition.filter) == (2, "event.hops == 0")
    assert (definition.enabled, definition.required) == (False, True)
    assert definition.report_executions
    unchanged = {"debounce_ms": 0, "debounce_ms_max": 0, "throttle_ms": 0}
    assert set(found.options) | set(unchanged) | {"name", "pattern"} == _parameters()
