"""What `cluster hook explain` says of an event, stage by stage, on a fake cluster."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hooks.control import explanations
from hooks.control.explain import merge
from hooks.execution.service import HookService
from hooks.registry import HookContext
from pubsub.events import Event
from pubsub.rejection import Rejection
from tests.hooks.fleet import Fleet, Node, a_fleet, at_once


async def never(context: HookContext) -> None:
    """A handler that does not come back."""
    await trio.sleep_forever()


async def fails(context: HookContext) -> None:
    """A handler that cannot."""
    raise ValueError("no such thing")


async def asked(
    fleet: Fleet, service: HookService, what: dict[str, Any]
) -> dict[str, Any] | Rejection:
    """What one node answers."""

    async def published(topic: str, revision: int) -> Sequence[Event]:
        found = fleet.cluster.read(revision, 1_000, 1 << 20)
        return [event for event in found if event.topic == topic]

    return await explanations.explain(service, what, published)


async def explained(fleet: Fleet, node: Node, **what: Any) -> dict[str, dict[str, Any]]:
    """The rows of one node's answer, by handler."""
    answer = await asked(fleet, node.service, what)
    assert isinstance(answer, dict), answer
    return {row["handler"]: row for row in answer["handlers"]}


async def settle(fleet: Fleet, name: str = "h") -> None:
    """Until the handler's partitions have their owners."""
    await fleet.until(
        lambda: any(
            partition["owner"] for partition in fleet.cluster.described(name).get("partitions", ())
        )
    )
    await trio.sleep(1)


async def test_what_is_not_for_a_handler_says_which_clause_is_false(clock: MockClock) -> None:
    """The pattern, the clause of a condition, or an event that matches and is done."""
    async with a_fleet() as fleet:
        condition = 'event.key.startsWith("a/") && data.value_size_bytes > 3'
        fleet.handle("picky", at_once, filter=condition)
        fleet.handle("broken", fails, filter='json.size > 3 && event.key == "a/1"', retry_count=0)
        fleet.handle("other", at_once, pattern="orders.>")
        fleet.handle("all", at_once)
        (a,) = await fleet.start("a")
        await settle(fleet, "all")
        revision = fleet.cluster.put("a/1", b"v")
        await fleet.until_done("all")
        await fleet.until_done("broken")
        rows = await explained(fleet, a, revision=revision)
        assert {name: row["stage"] for name, row in rows.items()} == {
            "all": "done", "broken": "dead_letter", "other": "no_match", "picky": "no_match",
        }  # fmt: skip
        assert rows["other"]["because"] == (
            'the topic hooks.kv.write_committed does not match "orders.>"'
        )
        said = [result for _, result in rows["picky"]["clauses"]]
        assert said == [True, False]
        assert "value_size_bytes > 3" in rows["picky"]["because"]
        assert rows["broken"]["decision"] == "error"
        assert [attempt["outcome"] for attempt in rows["all"]["attempts"]] == ["done"]


async def test_what_the_cluster_keeps_from_handlers_is_said(clock: MockClock) -> None:
    """publish_topics is a reason of its own; what somebody triggers is not held back by it."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await settle(fleet)
        fleet.cluster.do("hook.settings", {"publish_topics": ["hooks.cluster.*"]})
        revision = fleet.cluster.put("k")
        row = (await explained(fleet, a, revision=revision))["h"]
        assert (row["stage"], row["decision"]) == ("no_match", "not_published")
        assert "hooks.cluster.*" in row["because"]
        triggered, _ = fleet.cluster.do("hook.trigger", "hooks.kv.write_committed", "k", b"{}")
        await fleet.until(lambda: triggered in fleet.revisions("h"))
        assert (await explained(fleet, a, revision=triggered))["h"]["decision"] == "match"


async def test_an_event_in_hand_has_its_stage_and_its_attempt(clock: MockClock) -> None:
    """Running, behind another of its key, between two attempts; then given up, with the error."""
    async with a_fleet(backoff_first_ms=1_000, backoff_ms_max=1_000) as fleet:
        fleet.handle("stuck", never, timeout_ms=30_000)
        fleet.handle("h", fails, retry_count=1)
        (a,) = await fleet.start("a")
        await settle(fleet)
        first, second = fleet.cluster.put("k"), fleet.cluster.put("k")
        await fleet.until(lambda: len(fleet.begun) == 2)
        await trio.sleep(0.05)
        rows = await explained(fleet, a, revision=first)
        assert (rows["stuck"]["stage"], rows["stuck"]["attempt"]) == ("running", 1)
        assert (rows["h"]["stage"], rows["h"]["attempt"]) == ("retrying", 2)
        assert 0 < rows["h"]["due_in_ms"] <= 1_000
        assert rows["h"]["attempts"][0]["error"].startswith("ValueError: no such")
        rows = await explained(fleet, a, revision=second)
        assert rows["stuck"]["stage"] == "queued"
        assert f"event {first}" in rows["stuck"]["because"]
        await fleet.until_done("h")
        row = (await explained(fleet, a, revision=first))["h"]
        assert row["stage"] == "dead_letter"
        assert row["because"].startswith("given up after 2 attempts: ValueError: no such thing")
        for node in (a, *await fleet.start("b")):  # who made none knows how many there were
            assert (await explained(fleet, node, revision=first))["h"]["attempt"] == 2


async def test_an_event_that_was_skipped_is_not_said_to_be_done(clock: MockClock) -> None:
    """The state keeps nothing of it; the event that was published about it does."""
    async with a_fleet() as fleet:
        fleet.handle("h", fails, retry_count=0, on_failure="skip")
        (a,) = await fleet.start("a")
        await settle(fleet)
        revision = fleet.cluster.put("k")
        await fleet.until_done("h")
        row = (await explained(fleet, a, revision=revision))["h"]
        assert row["stage"] == "skipped"
        assert "given up after 1 attempt: ValueError" in row["because"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"debounce_ms": 5_000}, "debounce_ms"),
        ({"throttle_ms": 5_000}, "throttle_ms"),
        ({"rate_limit": "1/h"}, "rate_limit is used up"),
        ({"rate_limit_per_key": "1/h"}, "rate_limit_per_key"),
        ({"batch_max": 10, "batch_wait_ms": 5_000}, "batch"),
        ({"breaker_failures": 1, "retry_count": 0}, "breaker"),
        ({"concurrency": 1, "partitions": 1}, "concurrency"),
        ({"after": ["stuck"]}, 'handler "stuck" is not done'),
    ],
)
async def test_an_event_that_may_not_start_says_what_holds_it(
    keys: dict[str, Any], reason: str, clock: MockClock
) -> None:
    """Each of what shapes a handler is named, with its key of the configuration."""
    async with a_fleet() as fleet:
        fleet.handle("stuck", never, timeout_ms=30_000, pattern="hooks.kv.*", concurrency=64)
        body = never if "concurrency" in keys else fails if "breaker_failures" in keys else at_once
        fleet.handle("h", body, timeout_ms=30_000, **keys)
        (a,) = await fleet.start("a")
        await settle(fleet)
        first = fleet.cluster.put("k")
        await trio.sleep(0.05)
        revision = fleet.cluster.put("other" if "concurrency" in keys else "k")
        if "batch_max" in keys or "after" in keys:
            revision = first  # the other one is behind it
        await trio.sleep(0.05)
        row = (await explained(fleet, a, revision=revision))["h"]
        assert row["stage"] == "held", row
        assert reason in row["because"]


async def test_whoever_owns_the_partition_knows_and_the_others_say_so(clock: MockClock) -> None:
    """Of two answers the owner's is taken; the other node says whose matter it is."""
    async with a_fleet() as fleet:
        fleet.handle("h", never, timeout_ms=30_000)
        a, b = await fleet.start("a", "b")
        await settle(fleet)
        await fleet.until(lambda: fleet.cluster.described("h").get("members", [1])[1:])
        await trio.sleep(2)
        revision = fleet.cluster.put("k")
        await trio.sleep(0.5)
        answers = [await explained(fleet, node, revision=revision) for node in (a, b)]
        stages = sorted(answer["h"]["stage"] for answer in answers)
        assert stages == ["elsewhere", "running"]
        (best,) = merge([list(answer.values()) for answer in answers])
        assert (best["stage"], best["node"]) == ("running", best["owner"])
        assert merge([list(answer.values()) for answer in reversed(answers)]) == [best]


async def test_a_node_tells_its_attempts_only_of_its_own_group(clock: MockClock) -> None:
    """With scope node each node made one attempt, and the merged answer has it once."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, scope="node")
        a, b = await fleet.start("a", "b")
        await trio.sleep(2)
        revision = fleet.cluster.put("k")
        await trio.sleep(2)
        answers = [await asked(fleet, node.service, {"revision": revision}) for node in (a, b)]
        rows = merge([answer["handlers"] for answer in answers if isinstance(answer, dict)])
        assert [(row["group"], [each["node"] for each in row["attempts"]]) for row in rows] == [
            ("hook.h@a", ["a"]),
            ("hook.h@b", ["b"]),
        ]


async def test_a_handler_that_may_not_run_says_why(clock: MockClock) -> None:
    """Disabled with a reason, or removed from every node; enabled again the event is handled."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        (a,) = await fleet.start("a")
        await settle(fleet)
        fleet.cluster.do("hook.disable", "h", "it is broken")
        await trio.sleep(1)
        revision = fleet.cluster.put("k")
        await trio.sleep(1)
        row = (await explained(fleet, a, revision=revision))["h"]
        assert (row["stage"], row["because"]) == ("disabled", "it is broken")
        fleet.cluster.do("hook.enable", "h", None)
        await fleet.until_done("h")
        assert (await explained(fleet, a, revision=revision))["h"]["stage"] == "done"
        await a.stop()
        fleet.cluster.do("hook.register", "a", [])
        later = fleet.cluster.put("k")
        assert (await explained(fleet, a, revision=later))["h"]["stage"] == "removed"


async def test_an_event_from_before_a_handler_was_there_is_not_said_to_be_done(
    clock: MockClock,
) -> None:
    """A handler that starts at "latest" never had it."""
    async with a_fleet() as fleet:
        fleet.cluster.tells_registrations = True
        fleet.handle("h", at_once, start="latest")
        before = fleet.cluster.put("k")
        (a,) = await fleet.start("a")
        await settle(fleet)
        row = (await explained(fleet, a, revision=before))["h"]
        assert row["stage"] == "before_start"


async def hand_out_again(fleet: Fleet) -> int:
    """Handler h gets its first event once more; returns the revision of the fact that says so."""
    fleet.cluster.put("k")
    await fleet.until_done("h")
    replay = fleet.cluster.do("replay.start", "hook.h", 1, 1)
    fleet.cluster.do("replay.step", replay, 10)
    return fleet.cluster.revision


async def test_an_event_that_is_handed_out_again_is_for_one_group_alone(clock: MockClock) -> None:
    """The handler that it names has it as what it was; for the others it is the plain fact."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("other", at_once)
        fleet.handle("watcher", at_once, pattern="hooks.group.>")
        (a,) = await fleet.start("a")
        await settle(fleet)
        fact = await hand_out_again(fleet)
        await fleet.until_done("h")
        rows = await explained(fleet, a, revision=fact)
        assert (rows["h"]["stage"], rows["watcher"]["stage"]) == ("done", "done")
        assert (rows["other"]["stage"], rows["other"]["because"]) == (
            "no_match", 'the topic hooks.group.event_replayed does not match "hooks.kv.*"',
        )  # fmt: skip


async def test_an_event_that_is_handed_out_again_concerns_each_group_in_its_way(
    clock: MockClock,
) -> None:
    """With scope node the group that it names has the original, the others what they match."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, scope="node")
        fleet.handle("every", at_once, scope="node", pattern=">")
        a, b = await fleet.start("a", "b")
        await trio.sleep(2)
        fleet.cluster.put("k")
        await trio.sleep(2)
        facts = {}
        for name in ("h", "every"):
            replay = fleet.cluster.do("replay.start", f"hook.{name}@b", 1, 1)
            fleet.cluster.do("replay.step", replay, 10)
            facts[name] = fleet.cluster.revision
        await trio.sleep(2)
        groups = {}
        for name, fact in facts.items():
            answers = [await asked(fleet, node.service, {"revision": fact}) for node in (a, b)]
            rows = merge([answer["handlers"] for answer in answers if isinstance(answer, dict)])
            groups[name] = [
                (row["group"], row["stage"], [each["node"] for each in row["attempts"]])
                for row in rows
                if row["handler"] == name
            ]
        assert groups == {
            "h": [("hook.h@b", "done", ["b"])],
            "every": [("hook.every@a", "done", ["a"]), ("hook.every@b", "done", ["b"])],
        }


async def test_an_event_whose_original_is_gone_is_still_the_fact_of_others(
    clock: MockClock,
) -> None:
    """The handler that it was for gets nothing, and the answer says so."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once)
        fleet.handle("watcher", at_once, pattern="hooks.group.>")
        (a,) = await fleet.start("a")
        await settle(fleet)
        fact = await hand_out_again(fleet)
        await fleet.until_done("watcher")
        fleet.cluster.trim(1)
        rows = await explained(fleet, a, revision=fact)
        assert (rows["h"]["stage"], rows["watcher"]["stage"]) == ("no_match", "done")
        assert "retention took it" in rows["h"]["because"]


async def test_a_node_that_skipped_an_event_speaks_for_itself_alone(clock: MockClock) -> None:
    """With scope node one node gave it up, and the other one did it."""

    async def fails_on_b(context: HookContext) -> None:
        if fleet.begun[-1].node == "b":
            raise ValueError("not here")

    async with a_fleet() as fleet:
        fleet.handle("h", fails_on_b, scope="node", retry_count=0, on_failure="skip")
        a, _ = await fleet.start("a", "b")
        await trio.sleep(2)
        revision = fleet.cluster.put("k")
        await trio.sleep(2)
        answer = await asked(fleet, a.service, {"revision": revision})
        assert isinstance(answer, dict)
        stages = {row["group"]: row["stage"] for row in answer["handlers"]}
        assert stages == {"hook.h@a": "done", "hook.h@b": "skipped"}


async def test_every_event_of_a_batch_names_its_attempt(clock: MockClock) -> None:
    """While it is under way and afterwards, by the newest event of the batch."""
    release = trio.Event()

    async def waits(context: HookContext) -> None:
        await release.wait()

    async with a_fleet() as fleet:
        fleet.handle("h", waits, batch_max=3, batch_wait_ms=5_000, partitions=1, timeout_ms=30_000)
        (a,) = await fleet.start("a")
        await settle(fleet)
        revisions = [fleet.cluster.put(key) for key in ("x", "y", "z")]
        await fleet.until(lambda: fleet.begun)
        for revision in revisions:
            row = (await explained(fleet, a, revision=revision))["h"]
            assert (row["stage"], row["attempt"]) == ("running", 1)
            assert "at a batch of 3 events, of which 3 is the newest" in row["because"]
        release.set()
        await fleet.until_done("h")
        for revision in revisions:
            row = (await explained(fleet, a, revision=revision))["h"]
            assert (row["stage"], row["attempt"], row["batch"]) == ("done", 1, 3)
            assert "batch of 3 events, of which 3 is the newest" in row["because"]
            assert [each["revisions"] for each in row["attempts"]] == [(1, 2, 3)]


async def test_an_event_that_was_passed_over_once_is_not_said_to_have_been_run(
    clock: MockClock,
) -> None:
    """By another condition, or kept back by publish_topics: who asks by today's is told so."""
    async with a_fleet() as fleet:
        fleet.cluster.tells_registrations = True
        fleet.handle("h", at_once, filter='event.key == "a"')
        (a,) = await fleet.start("a")
        await settle(fleet)
        passed_over = fleet.cluster.put("b")
        fleet.cluster.do("hook.settings", {"publish_topics": ["hooks.cluster.*"]})
        kept_back = fleet.cluster.put("a")
        await fleet.until_done("h")
        fleet.cluster.do("hook.settings", {"publish_topics": []})
        ran = fleet.cluster.put("a")
        await fleet.until_done("h")
        row = (await explained(fleet, a, revision=kept_back))["h"]
        assert (row["stage"], row["attempts"]) == ("done", [])
        assert f"in force until revision {ran - 1} passed it over" in row["because"]
        assert (await explained(fleet, a, revision=ran))["h"]["because"] is None
        fleet.handlers.clear()
        fleet.handle("h", at_once, filter='event.key != "c"')
        await a.reload()
        await settle(fleet)
        row = (await explained(fleet, a, revision=passed_over))["h"]
        assert row["stage"] == "done"
        assert "passed it over, is not remembered" in row["because"]


@pytest.mark.parametrize("shaped", [{"debounce_ms": 1_000}, {"throttle_ms": 1_000}])
async def test_an_event_that_a_newer_one_stands_for_says_so(
    shaped: dict[str, Any], clock: MockClock
) -> None:
    """It was not run; where nobody remembers, the answer says what is certain."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, **shaped)
        (a,) = await fleet.start("a")
        await settle(fleet)
        first, *over, newest = [fleet.cluster.put("k") for _ in range(4)]
        await trio.sleep(0.05)
        rows = [(await explained(fleet, a, revision=revision))["h"] for revision in over]
        assert [row["stage"] for row in rows] == ["ended", "ended"]
        assert f"event {over[1]} of its key stands for it" in rows[0]["because"]
        await fleet.until_done("h")
        assert newest in fleet.revisions("h")
        ran = fleet.revisions("h")
        for revision in (first, *over, newest):
            row = (await explained(fleet, a, revision=revision))["h"]
            if revision in ran:
                assert (row["stage"], row["because"]) == ("done", None)
            else:
                assert (row["stage"], row["stood_for_by"]) == ("coalesced", newest)
                assert f"event {newest} of its key stands for it" in row["because"]
        await a.stop()
        await a.start()
        await settle(fleet)
        row = (await explained(fleet, a, revision=over[0]))["h"]
        assert row["stage"] == "done"
        assert "is not remembered" in row["because"]


async def test_of_two_answers_the_one_that_remembers_is_taken(clock: MockClock) -> None:
    """A node that knows only that an event is over gives way to the one that dealt with it."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, debounce_ms=500)
        a, b = await fleet.start("a", "b")
        await trio.sleep(3)
        older, newer = fleet.cluster.put("k"), fleet.cluster.put("k")
        await fleet.until_done("h")
        for revision, stage in ((older, "coalesced"), (newer, "done")):
            answers = [[(await explained(fleet, n, revision=revision))["h"]] for n in (a, b)]
            (best,) = merge(answers)
            assert merge(reversed(answers)) == [best]
            assert (best["stage"], best["because"] or "") == (
                stage, f"it was not run: event {newer} of its key stands for it"
                if stage == "coalesced" else "",
            )  # fmt: skip


@pytest.mark.parametrize("less", ["done", "before_start", "unread", "elsewhere"])
def test_whoever_ran_an_event_is_believed(less: str) -> None:
    """Whatever the others say that know less, and in whichever order they answer."""
    row = {"handler": "h", "group": "hook.h", "owner": "a", "attempts": []}
    done = {"outcome": "done", "events": 1, "started_ms": 1}
    other = {**row, "node": "a", "stage": less}
    knows = {**row, "node": "b", "stage": "done", "attempts": [done]}
    coalesced = {**row, "node": "b", "stage": "coalesced"}
    for best in (knows, coalesced):
        assert merge([[other], [best]]) == merge([[best], [other]]) == [best]
    assert merge([[coalesced], [knows]]) == [knows]


async def test_a_made_up_event_is_routed_and_nothing_more(clock: MockClock) -> None:
    """Topic, key and payload are enough to say who would get it."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, pattern="orders.>", filter="json.total > 10.0")
        fleet.handle("writes", at_once, filter="data.value_size_bytes > 10")
        (a,) = await fleet.start("a")
        order = {"topic": "orders.created", "payload": '{"total": 12.5}'}
        assert (await explained(fleet, a, **order))["h"]["stage"] == "would_run"
        small = {"topic": "orders.created", "payload": '{"total": 1.5}'}
        assert (await explained(fleet, a, **small))["h"]["decision"] == "filter"
        write = {"topic": "hooks.kv.write_committed", "payload": {"value_size_bytes": 11}}
        assert (await explained(fleet, a, **write))["writes"]["stage"] == "would_run"
        assert fleet.cluster.revision == 0
        fleet.cluster.do("hook.settings", {"publish_topics": ["hooks.cluster.*"]})
        row = (await explained(fleet, a, **write))["writes"]
        assert (row["stage"], row["decision"]) == ("no_match", "not_published")
        assert "hooks.cluster.*" in row["because"]
        assert (await explained(fleet, a, **order))["h"]["stage"] == "would_run"


@pytest.mark.parametrize(
    ("condition", "said", "stage", "words"),
    [
        ("json.total > 10.0", {}, "depends", "payload; json.total > 10.0 decides"),
        ("!has(data.nothing)", {}, "depends", "payload"),
        ('event.key == "a" && json.total > 10.0', {}, "depends", "key, payload"),
        ('event.key == "a" && json.total > 10.0', {"key": "b"}, "no_match", 'event.key == "a"'),
        ('event.key == "a"', {"key": "a"}, "would_run", None),
        ('event.topic == "orders.made"', {}, "would_run", None),
        ('event.actor == "ann"', {"payload": "{}"}, "depends", "event.actor"),
        ('json.total > 10.0 && data.key == "a"', {"key": "b"}, "no_match", 'data.key == "a"'),
        ("json.total > 10.0", {"payload": '{"total": 11.5}'}, "would_run", None),
        ("json.total > 10.0", {"payload": "{}"}, "would_fail", "cannot be evaluated"),
    ],
)
async def test_what_was_not_said_of_a_made_up_event_is_not_guessed(
    condition: str, said: dict[str, Any], stage: str, words: str | None, clock: MockClock
) -> None:
    """Where the condition asks for it, it depends; a clause that is false without it decides."""
    async with a_fleet() as fleet:
        fleet.handle("h", at_once, pattern="orders.>", filter=condition)
        (a,) = await fleet.start("a")
        row = (await explained(fleet, a, topic="orders.made", **said))["h"]
        assert row["stage"] == stage, row
        assert (row["because"] is None) == (words is None)
        assert words is None or words in row["because"]
        assert stage != "depends" or any(result is None for _, result in row["clauses"])


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ({"revision": 99}, "unknown_event", "not there yet"),
        ({"revision": 0}, "malformed", "from 1"),
        ({}, "malformed", "a revision or else a topic"),
        ({"topic": "hooks.kv.write_commited"}, "unknown_topic", 'mean "hooks.kv.write_committed"'),
        ({"topic": "a..b"}, "malformed", ""),
        ({"revision": 1, "handler": "adit"}, "unknown_handler", 'did you mean "audit"'),
        ({"revison": 1}, "malformed", "revison"),
        ({"revision": 1, "handler": [1]}, "unknown_handler", ""),
        ({"revision": 2**80}, "malformed", "from 1"),
        ({"revision": "1"}, "malformed", "from 1"),
        ({"topic": 7}, "malformed", ""),
        ({"topic": "a.b", "key": 7}, "malformed", "key"),
        ({"topic": "a.b", "payload": [b"x"]}, "malformed", "not JSON"),
        ({"topic": "hooks.kv.write_committed", "payload": b"x"}, "malformed", "not JSON"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    what: dict[str, Any], code: str, words: str, clock: MockClock
) -> None:
    """By name, with what was probably meant."""
    async with a_fleet() as fleet:
        fleet.handle("audit", at_once)
        (a,) = await fleet.start("a")
        fleet.cluster.put("k")
        refused = await asked(fleet, a.service, what)
        assert isinstance(refused, Rejection)
        assert (refused.code, words in refused.detail) == (code, True), refused
