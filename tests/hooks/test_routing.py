"""Which events are for which handlers."""

from dataclasses import replace

from hooks.delivery import TRIGGER_HEADER, TRIGGER_TOPIC, deliver
from hooks.routing import (
    Decision,
    Verdict,
    decide,
    decide_filter,
    is_published,
    published,
)
from tests.hooks.workbench import definition, write_event

WRITE = deliver(write_event(7, "orders/1", b'{"total": 5}'))
TRIGGERED = deliver(
    write_event(
        7,
        "orders/1",
        topic=TRIGGER_TOPIC,
        data=(b"{}", "application/json", {TRIGGER_HEADER: "hooks.kv.write_committed"}),
    )
)


def test_each_step_says_what_decided() -> None:
    """The pattern first, then what the cluster publishes, then the condition."""
    anything = definition()
    elsewhere = definition(pattern="hooks.cluster.*")
    choosy = definition(filter="json.total > 100")
    failing = definition(filter="json.nothing > 100")
    matching = definition(filter="json.total == 5")
    topics = ("hooks.cluster.*", "hooks.kv.delete_committed")
    assert decide(anything, WRITE, ()) == Decision(Verdict.MATCH)
    assert decide(matching, WRITE, ()).matches
    assert decide(elsewhere, WRITE, topics) == Decision(Verdict.PATTERN, "hooks.cluster.*")
    assert decide(choosy, WRITE, topics) == Decision(Verdict.NOT_PUBLISHED, ", ".join(topics))
    assert decide(choosy, WRITE, ("hooks.kv.*",)) == Decision(Verdict.FILTER, "json.total > 100")
    assert decide(failing, WRITE, ()) == Decision(Verdict.ERROR, 'there is no "nothing"')
    assert not decide(failing, WRITE, ()).matches


def test_what_users_publish_is_always_published() -> None:
    """The setting is for the cluster's own topics."""
    assert is_published("orders.created", ("hooks.cluster.*",))
    assert is_published("hooks.kv.write_committed", ())
    assert not is_published("hooks.kv.write_committed", ("hooks.cluster.*",))


def test_who_asks_of_each_event_is_told_the_same() -> None:
    """The first time and every other; nobody need ask where every topic is published."""
    topics = ("hooks.cluster.*", "hooks.kv.ttl_expired")
    ask = published(topics)
    assert ask is not None
    for topic in ("orders.created", "hooks.cluster.node_added", "hooks.kv.write_committed") * 2:
        assert ask(topic) == is_published(topic, topics)
    assert published(()) is None


def test_who_triggers_by_hand_means_it() -> None:
    """An event that a person triggers is routed though its topic is not published."""
    assert decide(definition(), TRIGGERED, ("hooks.cluster.*",)).matches
    assert decide(definition(filter="!event.triggered"), TRIGGERED, ()).kind is Verdict.FILTER


def test_a_condition_of_another_release_is_an_error() -> None:
    """Its event is neither handled nor passed over."""
    newer = replace(definition(), filter="data.key.ofTheFuture()")
    decision = decide_filter(newer, WRITE)
    assert decision.kind is Verdict.ERROR
    assert "not a condition for this release" in str(decision.detail)
