"""The @hook decorator and what is collected."""

from types import ModuleType
from typing import Any

import pytest

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
        delivery=made.delivery,
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
