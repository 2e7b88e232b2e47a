"""What both runners of Python handlers promise: the one in the loop of a node, which the simulator
uses, and the handler host, which is another process. The same tests run against both."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from hooks.delivery import deliver
from hooks.effects import put
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Runner, Succeeded
from hooks.handlers.host import Host
from hooks.handlers.inprocess import InlineRunner
from hooks.limits import HookLimits
from hooks.ports import ClientFactory
from hooks.registry import Registry
from tests.hooks import sample_clients, sample_handlers
from tests.hooks.workbench import ListLog, attempt, definition, write_event

LIMITS = HookLimits(host_grace_ms=100, host_restart_ms_first=10)
KINDS = ("inline", "host")


@asynccontextmanager
async def running(kind: str) -> AsyncIterator[Runner]:
    """A runner with the sample handlers, and clients that answer with what they were told."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            if kind == "inline":
                registry = Registry().collect([sample_handlers])
                clients = sample_clients.open_clients(nursery, {"greeting": "hello"})
                yield InlineRunner(registry, ListLog(), LIMITS, clients)
            else:
                factory = ClientFactory(
                    "tests.hooks.sample_clients:open_clients", {"greeting": "hello"}
                )
                host = Host(
                    ["tests.hooks.sample_handlers"],
                    ListLog(),
                    environment=os.environ,
                    limits=LIMITS,
                    client=factory,
                )
                await nursery.start(host.run)
                yield host
        nursery.cancel_scope.cancel()


def of(name: str, value: str = "0", timeout_ms: int = 5000, **fields: object) -> Attempt:
    handler = definition(name=name, timeout_ms=timeout_ms)
    return attempt(handler, write_event(value=value.encode()), **fields)


def text_of(outcome: Outcome) -> str:
    """What a handler wrote into its first effect."""
    assert isinstance(outcome, Succeeded), outcome
    value = outcome.effects[0].arguments[1]
    assert isinstance(value, bytes)
    return value.decode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gives_up", "gives_up_in_a_nursery"])
async def test_a_handler_that_gives_up_fails_for_good(kind: str, name: str) -> None:
    """GiveUp is a final failure, also when a nursery of the handler has wrapped it."""
    async with running(kind) as runner:
        outcome = await runner.execute(of(name))
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.final) == (FailureKind.ERROR, True)
        assert "no such customer" in outcome.error
        outcome = await runner.execute(of("raises"))
        assert isinstance(outcome, Failed)
        assert not outcome.final


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["counts_a_batch", "counts_a_batch_async"])
async def test_a_batch_comes_as_a_whole(kind: str, name: str) -> None:
    """Each event of the batch in order, the newest of them as the event."""
    deliveries = tuple(deliver(write_event(n, f"k{n}", b"%d" % n)) for n in (3, 4, 6))
    made = of(name, deliveries=deliveries, coalesced=2)
    async with running(kind) as runner:
        assert text_of(await runner.execute(made)) == "3,4,6 newest 6 values 3,4,6 coalesced 2"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_async_handler_has_its_scope(kind: str) -> None:
    """The deadline is the attempt's, a handler may cancel itself, and cannot gain time."""
    async with running(kind) as runner:
        assert float(text_of(await runner.execute(of("tells_its_deadline")))) <= 5.0
        outcome = await runner.execute(of("cancels_itself"))
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.ERROR
        assert "its own cancel scope" in outcome.error
        outcome = await runner.execute(of("moves_its_deadline", timeout_ms=100))
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sync_handler_has_none(kind: str) -> None:
    """To ask for the scope of what cannot be cancelled is an error that says so."""
    async with running(kind) as runner:
        outcome = await runner.execute(of("asks_for_a_scope"))
        assert isinstance(outcome, Failed)
        assert "no cancel scope" in outcome.error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "how"), [("asks", "sync"), ("asks_async", "async")])
async def test_a_client_knows_what_it_is_for(kind: str, name: str, how: str) -> None:
    """What a handler requests names the event as its cause and is one hop further."""
    event = write_event(7, correlation_id="order-1", hops=2)
    made = attempt(definition(name=name), event)
    async with running(kind) as runner:
        said = text_of(await runner.execute(made))
        assert said == f"hello {how} {name} order-1 7 3"
        made = attempt(definition(name=name), write_event(8))
        assert text_of(await runner.execute(made)) == f"hello {how} {name} 8 8 1"


@pytest.mark.parametrize("kind", KINDS)
async def test_misbehaving_handlers_end_alike(kind: str) -> None:
    """What a wrong return value or an exception is called does not depend on the place."""
    expected = {
        "raises": "ValueError: no such customer",
        "leaves": "SystemExit: enough",
        "returns_rubbish": "returned int",
        "returns_a_list_with_rubbish": "list with str in it",
        "returns_too_much": "effects of",
        "returns_too_many": "at most 100",
        "returns_an_object": "returned object",
        "returns_a_generator": "returned generator",
    }
    async with running(kind) as runner:
        for name, error in expected.items():
            outcome = await runner.execute(of(name))
            assert isinstance(outcome, Failed), name
            assert (outcome.kind, outcome.final) == (FailureKind.ERROR, False)
            assert error in outcome.error
        assert await runner.execute(of("returns_effects")) == Succeeded((put("seen/k", "1"),))


async def test_async_handlers_start_in_the_order_of_their_attempts() -> None:
    """Priority orders starts, so the host keeps the order in which it was asked, also for many."""
    order: list[int] = []

    async def note(host: Runner, number: int) -> None:
        order.append(int(text_of(await host.execute(of("counts_starts", str(number))))))

    async with running("host") as host, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(note, host, number)
            await trio.lowlevel.checkpoint()  # one starts before the next
    assert sorted(order) == list(range(50)), "each saw how many had started before it"


async def test_an_inline_handler_without_clients_says_so() -> None:
    """Where nobody gives clients, asking for one is an error with a way out."""
    runner = InlineRunner(Registry().collect([sample_handlers]), ListLog(), LIMITS)
    outcome = await runner.execute(of("asks_async"))
    assert isinstance(outcome, Failed)
    assert "ClientUnavailable" in outcome.error
    assert "Return effects" in outcome.error
