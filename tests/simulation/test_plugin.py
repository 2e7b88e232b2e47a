"""The pytest plugin for users' hooks: what it finds, what it says, and that a seed is one run."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import pytest
import trio

from hooks.registry import HookContext, hook
from pubsub.events import Event
from simulation.testing import Cluster, SimulatedCluster, expectations
from tests.simulation import remembering_hooks

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
BUGGY, FIXED = "test_each_order_is_charged_once", "test_each_order_is_charged_once_when_fixed"

Scenario = Callable[[Cluster], Awaitable[None]]


def run_pytest(folder: Path, *arguments: str, hash_seed: str = "1") -> tuple[int, str]:
    """pytest in a process of its own, with this checkout's plugin: its exit code and its words."""
    plugin = ["-p", "no:tremula", "-p", "simulation.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "COLUMNS": "200"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def play(scenario: Scenario, outside: dict[str, object], seed: int = 1, nodes: int = 3) -> None:
    SimulatedCluster(seed).run(
        scenario, hooks=[remembering_hooks], outside=outside, nodes=nodes, within_s=120
    )


def nothing(*arguments: object) -> None:
    """A world outside that takes everything."""


QUIET: dict[str, object] = {"deliver": nothing, "call": nothing}


# --- the worked example ---


def test_the_example_is_found_and_replays_from_the_printed_line() -> None:
    """The bug shows within the default seeds; the printed line gives the same run in a process
    whose strings hash differently."""
    code, said = run_pytest(EXAMPLES, f"test_payments.py::{BUGGY}")
    assert code == 1, said
    seed = re.search(r"simulated cluster, seed (\d+)", said)
    replay = re.search(r"^replay: pytest (.+)$", said, re.MULTILINE)
    assert seed is not None
    assert replay is not None
    assert replay[1] == f"test_payments.py::{BUGGY} --tremula-seed {seed[1]}"
    assert "too often: 2 times 'order-" in said
    again_code, again = run_pytest(EXAMPLES, *replay[1].split(), hash_seed="4711")
    assert again_code == 1
    assert _told(again) == _told(said)
    assert "1 failed" in again


def test_the_fixed_example_passes_under_seeds_that_break_the_other() -> None:
    """The idempotency key is what makes the difference."""
    code, said = run_pytest(EXAMPLES, f"test_payments.py::{FIXED}", "--tremula-seeds", "3:9")
    assert code == 0, said
    assert "6 passed" in said


def _told(said: str) -> list[str]:
    """The failure and the whole story, without what pytest adds."""
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("E  ")]
    begin = next(n for n, line in enumerate(lines) if "simulated cluster, seed" in line)
    end = next(n for n, line in enumerate(lines) if line.startswith("replay: "))
    return errors + lines[begin : end + 1]


# --- what users get wrong ---


def test_bad_options_are_named(tmp_path: Path) -> None:
    """What is no seed is a usage error that says what is expected."""
    code, said = run_pytest(tmp_path, "--tremula-seeds", "many")
    assert code == 4
    assert "how many seeds, as in 50, or which, as in 100:150 (without 150), not 'many'" in said
    code, said = run_pytest(tmp_path, "--tremula-seed", "-3")
    assert code == 4
    assert "a seed is a whole number from 0 on" in said


def test_other_parameters_stay_in_the_replay_line(tmp_path: Path) -> None:
    """A test with parameters of its own is replayed with them, and fails alone."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('size', [1, 2])\n"
        "def test_it(simulated_cluster, size):\n"
        "    assert size == 1\n"
    )
    code, said = run_pytest(tmp_path, "--tremula-seeds", "3")
    assert code == 1
    assert "1 failed, 3 passed, 2 skipped" in said
    assert "replay: pytest 'test_it.py::test_it[2-seed0]' --tremula-seed 0" in said or (
        "replay: pytest 'test_it.py::test_it[seed0-2]' --tremula-seed 0" in said
    )


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """Nodes, handlers, faults and things outside."""

    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ValueError, match=r'no node has the name "osla" \(did you mean "oslo"'):
            cluster.crash("osla")
        with pytest.raises(ValueError, match=r'did you mean "announce"'):
            cluster.attempts("anounce")
        with pytest.raises(ValueError, match=r'did you mean "deliver"'):
            cluster.crash_at("delivr")
        with pytest.raises(ValueError, match=r'did you mean "isolate"'):
            async with cluster.chaos(kinds=["isolat"]):
                pass
        with pytest.raises(ValueError, match="two sides or more"):
            cluster.partition("oslo")

    SimulatedCluster(1).run(
        scenario, hooks=[remembering_hooks], outside=QUIET, nodes=["oslo", "paris", "rome"]
    )


@pytest.mark.parametrize(
    ("hooks", "outside", "message"),
    [
        ([os], {}, "module os has no function with @hook"),
        ([], {}, "nothing is in the list"),
        ([nothing], {}, "nothing is no function with @hook"),
        (remembering_hooks, {}, r"as in hooks=\[tests.simulation.remembering_hooks\]"),
        ([remembering_hooks], {"delver": nothing}, r'did you mean "deliver"'),
        ([hook("hooks.kv.*", timeout_ms=-1)(lambda context: None)], {}, "timeout_ms"),
    ],
)
def test_bad_hooks_are_refused_before_the_run(
    hooks: list[object], outside: dict[str, object], message: str
) -> None:
    """The message says what is wrong, and nothing runs."""

    async def scenario(cluster: Cluster) -> None:
        raise AssertionError("nothing runs")

    with pytest.raises((TypeError, ValueError), match=message):
        SimulatedCluster(1).run(scenario, hooks=hooks, outside=outside)  # type: ignore[arg-type]


def test_a_scenario_is_an_async_function() -> None:
    """The other one is a mistake that would do nothing at all."""
    with pytest.raises(TypeError, match="an async function"):
        SimulatedCluster(1).run(nothing, hooks=[remembering_hooks])  # type: ignore[arg-type]


async def test_an_async_test_is_told_to_be_an_ordinary_one() -> None:
    """One trio cannot run in another."""

    async def scenario(cluster: Cluster) -> None:
        pass

    with pytest.raises(RuntimeError, match="def, not async def"):
        SimulatedCluster(1).run(scenario, hooks=[remembering_hooks])


# --- what a scenario sees ---


def test_the_memory_of_a_handler_dies_with_its_node() -> None:
    """Each life of each node begins with modules as they are imported."""
    delivered: list[tuple[str, int]] = []

    async def scenario(cluster: Cluster) -> None:
        async with cluster.client() as client:
            for number in range(4):
                await client.publish("parcels.sent", b"", key="one")
                await cluster.eventually(lambda n=number: len(delivered) > n)  # type: ignore[misc]
            cluster.crash(*cluster.names)
            cluster.restart(*cluster.names)
            await cluster.wait_leader()
            await client.publish("parcels.sent", b"", key="one")
        await cluster.settle()

    play(scenario, {**QUIET, "deliver": lambda *parcel: delivered.append(parcel)})
    assert [before for _, before in delivered[:4]] == [1, 2, 3, 4]
    assert delivered[4] == ("one", 1)
    assert remembering_hooks.seen == []


def test_modules_that_hooks_import_can_be_loaded_anew_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being named they are shared by all nodes, as everything in one process."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "cache.py").write_text("seen = []\n")
    (tmp_path / "shop" / "hooks.py").write_text(
        "from hooks.registry import hook\n"
        "from shop import cache\n"
        "def tell(count): pass\n"
        "@hook('t', start='earliest')\n"
        "async def count(context):\n"
        "    cache.seen.append(context.key)\n"
        "    tell(len(cache.seen))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cache = importlib.import_module("shop.cache")

    def counts(*reload: ModuleType) -> list[int]:
        told: list[int] = []

        async def scenario(cluster: Cluster) -> None:
            async with cluster.client() as client:
                await client.publish("t", b"")
                await cluster.settle()
                cluster.crash("a")
                cluster.restart("a")
                await client.publish("t", b"")
            await cluster.settle()

        hooks, outside = ["shop.hooks"], {"tell": told.append}
        SimulatedCluster(1).run(scenario, hooks=hooks, outside=outside, nodes=1, reload=reload)
        return told

    assert counts() == [1, 2]
    assert counts(cache) == [1, 1]
    assert sys.modules["shop.cache"] is cache


@pytest.mark.parametrize("name", ["deliver", "call"])
def test_a_node_dies_between_the_effect_and_its_knowledge_of_it(name: str) -> None:
    """The same for functions and async functions: it happened, and happens again."""
    parcels: list[str] = []

    async def take(parcel: str) -> None:
        parcels.append(parcel)

    def take_now(parcel: str, seen_before: int) -> None:
        parcels.append(parcel)

    topic = {"deliver": "parcels.sent", "call": "parcels.announced"}[name]

    async def scenario(cluster: Cluster) -> None:
        cluster.crash_at(name, when="before")
        async with cluster.client() as client:
            await client.publish(topic, b"", key="p")
            await cluster.eventually(lambda: len(cluster.attempts()) == 1)
            await cluster.settle()
            assert parcels == ["p"]
            cluster.assert_exactly_once(topic, parcels)
            cluster.crash_at(name)
            await client.publish(topic, b"", key="q")
            await cluster.eventually(lambda: parcels.count("q") == 1)
            await cluster.settle()
        assert parcels == ["p", "q", "q"]
        with pytest.raises(AssertionError, match=r"2 times 'q' \(revision \d+\)") as caught:
            cluster.assert_exactly_once(topic, parcels)
        assert re.search(r"attempt 1 on \w: \w died in it", str(caught.value))

    play(scenario, {**QUIET, "call": take, "deliver": take_now})


def test_what_a_fake_asserts_ends_the_run() -> None:
    """It is the test's word, and nothing that a handler could retry."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("the bank is closed")

    async def scenario(cluster: Cluster) -> None:
        async with cluster.client() as client:
            await client.publish("parcels.sent", b"", key="p")
        await cluster.sleep(10)

    with pytest.raises(AssertionError, match="the bank is closed"):
        play(scenario, {**QUIET, "deliver": refuse})


def test_a_partition_leaves_the_majority_at_work_until_it_is_healed() -> None:
    """The leader is cut off by name; another one takes over, and all agree again."""
    found: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        old = cluster.leader
        cluster.partition(old, [name for name in cluster.names if name != old])
        async with cluster.client() as client:
            await cluster.eventually(lambda: cluster.leader != old)
            await client.publish("parcels.sent", b"", key="p")
        cluster.freeze(cluster.leader, 1.0)
        await cluster.settle()
        found.extend(event.topic for event in cluster.events("parcels.*"))

    play(scenario, QUIET)
    assert found == ["parcels.sent"]


def test_a_handler_that_gives_up_leaves_a_dead_letter() -> None:
    """It counts as done, and the letter says why."""
    letters: list[dict[int, str]] = []

    def busy(parcel: str) -> None:
        raise OSError("line is busy")

    async def scenario(cluster: Cluster) -> None:
        async with cluster.client() as client:
            await client.publish("parcels.announced", b"", key="p")
        await cluster.settle()
        letters.append(cluster.dead_letters("announce"))
        assert [attempt.number for attempt in cluster.attempts("announce")] == [1, 2]

    play(scenario, {**QUIET, "call": busy})
    assert ["line is busy" in error for error in letters[0].values()] == [True]


def test_functions_of_the_test_itself_can_be_hooks() -> None:
    """They are shared by all nodes, as the test that they belong to."""
    keys: list[str | None] = []

    @hook("hooks.kv.write_committed")
    async def note(context: HookContext) -> None:
        keys.append(context.key)

    async def scenario(cluster: Cluster) -> None:
        async with cluster.client() as client:
            await client.put("one", b"1")
            await client.put("two", b"2")
        await cluster.settle()
        cluster.assert_exactly_once("hooks.kv.write_committed", keys)

    SimulatedCluster(3).run(scenario, hooks=[note], nodes=1)
    assert sorted(map(str, keys)) == ["one", "two"]


def test_time_is_virtual_and_bounded() -> None:
    """What is not over in time fails, and eventually says what it waited for."""

    async def waits(cluster: Cluster) -> None:
        async with cluster.client() as client:
            await client.publish("parcels.sent", b"", key="p")
        with pytest.raises(AssertionError, match="not within 2 virtual s: pigs fly"):
            await cluster.eventually(lambda: False, 2.0, "pigs fly")
        with pytest.raises(AssertionError, match=r'no event on "parcels\.snt" was committed \(did'):
            cluster.assert_exactly_once("parcels.snt", [])
        await trio.sleep_forever()

    with pytest.raises(AssertionError, match="not over within 120 virtual s"):
        play(waits, QUIET, nodes=1)


def test_the_same_seed_is_the_same_story() -> None:
    """Also after other runs in the same process; another seed is another one."""

    def story(seed: int) -> list[str]:
        simulated = SimulatedCluster(seed)

        async def scenario(cluster: Cluster) -> None:
            async with cluster.chaos(seconds=2, rate=2.0), cluster.client() as client:
                for number in range(5):
                    await client.publish("parcels.sent", b"", key=str(number))
            await cluster.settle()

        simulated.run(scenario, hooks=[remembering_hooks], outside=QUIET)
        return simulated.story()

    assert story(7) == story(7)
    assert story(7) != story(8)


# --- the words of the assertions ---


def event(revision: int, key: str) -> Event:
    return Event(revision, "t", key, (), None, None, None, 0, None, 0, revision, 0, 1)


LOG = [event(5, "a"), event(6, "b"), event(7, "a"), event(9, "c")]


def test_exactly_once_lists_missing_repeated_and_unknown() -> None:
    """With revisions, and what is known of the attempts."""
    said = expectations.once(
        "t", LOG, ["a", "a", "a", "b", "z"], lambda e: e.key, lambda e: [f"tried {e.revision}"]
    )
    assert said is not None
    assert said.splitlines() == [
        "of 4 events on t, each wanted exactly once: 1 missing, 1 too often, 1 not wanted",
        "  missing: never 'c' (revision 9)",
        "    tried 9",
        "  too often: 3 times instead of 2 times 'a' (revisions 5, 7)",
        "    tried 5",
        "    tried 7",
        "  not wanted: 1 x 'z', of no event",
    ]
    assert expectations.once("t", LOG, [9, 7, 6, 5], lambda e: e.revision, lambda e: []) is None


def test_order_is_per_key_unless_asked_otherwise() -> None:
    """Repetitions count where they came first."""
    of = expectations.identify("revision", "")
    assert expectations.order("t", LOG, [9, 5, 6, 7, 5], of, per_key=True) is None
    said = expectations.order("t", LOG, [7, 5, 6, 9], of, per_key=True)
    assert said == (
        "of 4 events on t, wanted in order per key: 1 out of order\n"
        "  out of order: key 'a': 5 (revision 5) came after 7 (revision 7)"
    )
    assert expectations.order("t", LOG, [6, 5, 7, 9], of, per_key=False) is not None
    with pytest.raises(ValueError, match="revisions 5 and 7 are both 'a'"):
        expectations.order("t", LOG, ["a"], lambda e: e.key, per_key=True)
    with pytest.raises(ValueError, match="by='kee'"):
        expectations.identify("kee", "")  # type: ignore[arg-type]
