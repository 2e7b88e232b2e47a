"""The checker of histories: against histories made by hand, a dumb checker, and a true register."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.history import History, Kind, Operation, Outcome, edn_lines, to_edn
from simulation.linearizability import (
    EXPLANATION_LINES_MAX,
    Linearizable,
    NotLinearizable,
    Undecided,
    Verdict,
    check,
)


class Script:
    """A history written down line by line; the time is the number of the event."""

    def __init__(self) -> None:
        self.history = History()

    def begin(
        self,
        client: int,
        kind: Kind,
        value: str | None = None,
        expected: str | None = None,
        key: str = "k",
    ) -> Operation:
        now = float(len(self.history.events))
        return self.history.invoke(client, kind, key, value, now, expected=expected)

    def ok(self, operation: Operation, result: str | bool | None = None) -> None:
        self.history.ok(operation, result, float(len(self.history.events)))

    def fail(self, operation: Operation) -> None:
        self.history.fail(operation, "refused", float(len(self.history.events)))

    def info(self, operation: Operation) -> None:
        self.history.info(operation, "timeout", float(len(self.history.events)))

    def wrote(self, client: int, value: str) -> None:
        self.ok(self.begin(client, Kind.WRITE, value))

    def deleted(self, client: int) -> None:
        self.ok(self.begin(client, Kind.DELETE))

    def read(self, client: int, value: str | None) -> None:
        self.ok(self.begin(client, Kind.READ), value)

    def swapped(self, client: int, expected: str | None, value: str, matched: bool) -> None:
        self.ok(self.begin(client, Kind.CAS, value, expected), matched)

    def explanation(self) -> str:
        verdict = check(self.history)
        assert isinstance(verdict, NotLinearizable)
        assert verdict.explanation.count("\n") < EXPLANATION_LINES_MAX
        return verdict.explanation

    def passes(self) -> bool:
        return holds(self.history)


def holds(history: History) -> bool:
    """The verdict as yes or no; an order that is offered as proof is looked at."""
    verdict: Verdict = check(history)
    if isinstance(verdict, Linearizable):
        for key, order in verdict.orders.items():
            operations = [op for op in history.operations if op.key == key]
            answered = [op for op in operations if op.outcome is Outcome.OK]
            assert set(answered) <= set(order) <= set(operations)
            assert len(set(order)) == len(order)
            assert replays(order)
            assert all(not before(b, a) for n, a in enumerate(order) for b in order[n + 1 :])
        return True
    assert isinstance(verdict, NotLinearizable)
    return False


# -- A dumb checker: all orders, of all choices of what of the unknown happened --------------------


def before(a: Operation, b: Operation) -> bool:
    """In real time: a was answered before b began."""
    return a.outcome is Outcome.OK and a.completed is not None and a.completed < b.invoked


def after_step(held: str | None, op: Operation) -> tuple[bool, str | None]:
    """Whether this operation gives its answer on a register that holds this, and what it leaves."""
    if op.kind is Kind.READ:
        return op.outcome is not Outcome.OK or op.result == held, held
    if op.kind is Kind.CAS:
        matches = op.expected == held
        return op.outcome is not Outcome.OK or op.result is matches, op.value if matches else held
    return True, op.value


def replays(order: tuple[Operation, ...]) -> bool:
    held: str | None = None
    for op in order:
        fits, held = after_step(held, op)
        if not fits:
            return False
    return True


def dumb(history: History) -> bool:
    def placeable(held: str | None, left: list[Operation]) -> bool:
        if all(op.outcome is not Outcome.OK for op in left):
            return True
        for op in left:
            rest = [other for other in left if other is not op]
            fits, then = after_step(held, op)
            if fits and not any(before(other, op) for other in rest) and placeable(then, rest):
                return True
        return False

    return placeable(None, [op for op in history.operations if op.outcome is not Outcome.FAIL])


# -- By hand --------------------------------------------------------------------------------------


def test_nothing_at_all_is_linearizable() -> None:
    """The empty history, and a read of a register that nobody wrote."""
    assert Script().passes()
    script = Script()
    script.read(0, None)
    assert script.passes()


def test_a_stale_read_is_found() -> None:
    """A read that begins after a write was acknowledged must not return what was before."""
    script = Script()
    script.wrote(0, "a")
    script.wrote(0, "b")
    script.read(1, "a")
    assert script.explanation().splitlines() == [
        "key k: the longest order that fits has 1 operations, at its end:",
        '  client 0 write "a" (ok, 0.000..1.000 s)',
        'then it holds "a", and one of these had to be next:',
        '  client 0 write "b" (ok, 2.000..3.000 s)',
        'but what it holds is to be seen even later: client 1 read -> "a" (ok, 4.000..5.000 s)',
    ]


def test_a_lost_write_is_found() -> None:
    """An acknowledged write that is not there afterwards."""
    script = Script()
    script.wrote(0, "a")
    script.read(1, None)
    assert not script.passes()


def test_a_read_of_a_failed_write_is_found() -> None:
    """A definite error means that it never happens."""
    script = Script()
    write = script.begin(0, Kind.WRITE, "a")
    script.fail(write)
    script.read(1, "a")
    assert script.explanation().endswith(": that write failed")


def test_a_value_out_of_nowhere_is_found() -> None:
    """A read of what nobody wrote."""
    script = Script()
    script.read(1, "a")
    assert script.explanation().endswith(": nobody wrote that")


def test_a_read_of_the_future_is_found() -> None:
    """A value that was read before its write began, or before its unknown write did."""
    script = Script()
    script.read(1, "a")
    script.wrote(0, "a")
    assert not script.passes()
    script = Script()
    script.read(1, "a")
    script.info(script.begin(0, Kind.WRITE, "a"))
    assert not script.passes()


@pytest.mark.parametrize("ends", [True, False], ids=["info", "open"])
def test_an_unknown_write_may_take_effect_late(ends: bool) -> None:
    """Long after its client gave up: nothing, nothing, then it is there, and there to stay."""
    script = Script()
    write = script.begin(0, Kind.WRITE, "late")
    if ends:
        script.info(write)
    script.read(1, None)
    script.wrote(1, "a")
    script.read(1, "a")
    script.read(1, "late")
    assert script.passes()
    script.read(1, "a")
    assert not script.passes()


def test_an_unknown_write_may_never_happen() -> None:
    """Nobody ever sees it."""
    script = Script()
    script.info(script.begin(0, Kind.WRITE, "never"))
    script.wrote(1, "a")
    script.read(2, "a")
    assert script.passes()


def test_an_unknown_delete_may_take_effect_once() -> None:
    """One delete explains one disappearance, and no second one."""
    script = Script()
    script.info(script.begin(0, Kind.DELETE))
    script.wrote(1, "a")
    script.read(1, None)
    script.wrote(1, "b")
    assert script.passes()
    script.read(1, None)
    assert not script.passes()


@pytest.mark.parametrize("last", ["a", "b"])
def test_two_concurrent_writes_end_in_either_order(last: str) -> None:
    """Either may be the last, but once it was read it stays."""
    script = Script()
    first, second = script.begin(0, Kind.WRITE, "a"), script.begin(1, Kind.WRITE, "b")
    script.ok(first)
    script.ok(second)
    script.read(2, last)
    assert script.passes()
    script.read(2, "b" if last == "a" else "a")
    assert not script.passes()


def test_concurrent_reads_do_not_go_back() -> None:
    """While a write is under way a read may see it; the next read then must."""
    script = Script()
    script.wrote(0, "a")
    write = script.begin(0, Kind.WRITE, "b")
    script.read(1, "b")
    script.ok(script.begin(2, Kind.READ), "a")
    script.ok(write)
    assert not script.passes()


def test_a_delete_leaves_nothing() -> None:
    """What was deleted is not read any more."""
    script = Script()
    script.wrote(0, "a")
    script.deleted(0)
    script.read(1, None)
    assert script.passes()
    script.read(1, "a")
    assert not script.passes()


def test_compare_and_set_tells_what_it_saw() -> None:
    """It matches where its value stands and does not match elsewhere; two cannot both win."""
    script = Script()
    script.swapped(0, None, "a", True)
    script.swapped(0, None, "b", False)
    script.swapped(0, "a", "c", True)
    script.read(1, "c")
    assert script.passes()
    script.swapped(0, "a", "d", True)
    assert not script.passes()


def test_an_unseen_unknown_write_may_be_why_a_compare_and_set_did_not_match() -> None:
    """So it may not be left out, though nobody read it."""
    script = Script()
    script.wrote(0, "a")
    script.info(script.begin(1, Kind.WRITE, "unseen"))
    script.swapped(0, "a", "b", False)
    assert script.passes()
    script.read(2, "a")
    assert not script.passes()


def test_an_unknown_compare_and_set_needs_what_it_expects() -> None:
    """It takes effect where it matches, and only there."""
    script = Script()
    script.info(script.begin(0, Kind.CAS, "b", "a"))
    script.wrote(1, "a")
    script.read(1, "b")
    assert script.passes()
    script = Script()
    script.info(script.begin(0, Kind.CAS, "b", "a"))
    script.wrote(1, "c")
    script.read(1, "b")
    assert not script.passes()


def test_keys_are_judged_one_by_one() -> None:
    """The verdict names the key that is wrong, though another is undecided."""
    script = Script()
    for n in range(4):
        script.ok(script.begin(0, Kind.WRITE, f"v{n}", key="long"))
    script.ok(script.begin(0, Kind.READ, key="wrong"), "x")
    verdict = check(script.history, looks_max=3)
    assert isinstance(verdict, NotLinearizable)
    assert verdict.key == "wrong"


def test_a_search_beyond_its_bound_is_undecided() -> None:
    """Never a silent yes; one look more than needed for the answer changes nothing."""
    script = Script()
    for n in range(4):
        script.wrote(0, f"v{n}")
    assert check(script.history, looks_max=3) == Undecided("k", 3)
    assert isinstance(check(script.history, looks_max=4), Linearizable)


def test_an_explanation_is_bounded() -> None:
    """Also with a hundred operations before, and thirty at once that do not fit."""
    script = Script()
    for n in range(100):
        script.wrote(0, f"v{n}")
    reads = [script.begin(client, Kind.READ) for client in range(30)]
    for read in reads:
        script.ok(read, "nowhere")
    lines = script.explanation().splitlines()
    assert lines[-1] == "  and 23 more"
    assert sum("read" in line for line in lines) == 7


# -- Against the dumb checker ---------------------------------------------------------------------

Draw = Callable[[int], int]  # below this number

OPERATIONS_MAX = 6


def arbitrary(draw: Draw, unique: bool) -> History:
    """A small history with any answers: about as many are right as wrong."""
    script = Script()
    opened: list[Operation] = []
    written: list[str | None] = [None]
    for client in range(2 + draw(OPERATIONS_MAX - 1)):
        while opened and draw(2):
            complete(script, draw, opened.pop(draw(len(opened))), written)
        kind = (Kind.READ, Kind.WRITE, Kind.READ, Kind.WRITE, Kind.DELETE, Kind.CAS)[draw(6)]
        value = expected = None
        if kind is Kind.CAS:
            expected = written[draw(len(written))]
        if kind in (Kind.WRITE, Kind.CAS):
            value = f"v{client}" if unique else f"v{draw(2)}"
            written.append(value)
        opened.append(script.begin(client, kind, value, expected))
    while opened and draw(8):
        complete(script, draw, opened.pop(draw(len(opened))), written)
    return script.history


def complete(script: Script, draw: Draw, operation: Operation, written: list[str | None]) -> None:
    outcome = draw(8)
    if outcome == 7:
        script.fail(operation)
    elif outcome >= 5:
        script.info(operation)
    elif operation.kind is Kind.READ:
        script.ok(operation, written[draw(len(written))])
    else:
        script.ok(operation, draw(2) == 1 if operation.kind is Kind.CAS else None)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_it_says_what_a_dumb_checker_says(data: st.DataObject, unique: bool) -> None:
    """On any small history, whether its values are unique or not."""
    history = arbitrary(lambda n: data.draw(st.integers(0, n - 1)), unique)
    assert dumb(history) == holds(history), to_edn(history)


def test_it_says_what_a_dumb_checker_says_both_ways() -> None:
    """Both verdicts come up often among drawn histories, and are right."""
    verdicts = {True: 0, False: 0}
    for seed in range(3000):
        history = arbitrary(random.Random(seed).randrange, unique=seed % 3 > 0)
        expected = dumb(history)
        verdicts[expected] += 1
        assert expected == holds(history), f"seed {seed}\n{to_edn(history)}"
    assert min(verdicts.values()) > 500, verdicts


# -- Against a true register ----------------------------------------------------------------------


@dataclass
class Mix:
    """What the clients of true registers do, and what share of outcomes they do not learn."""

    operations: int
    keys: int = 5
    clients: int = 10
    unknown: float = 0.05
    cas: float = 0.0


def true_history(seed: int, mix: Mix) -> History:
    """Clients of atomic registers: each operation happens at one instant between its invocation and
    its answer; one whose outcome is unknown happens then, much later, or never."""
    draw = random.Random(seed)
    history = History()
    registers: dict[str, str | None] = {}
    due: list[tuple[float, int, Callable[[float], None]]] = []
    numbers = iter(range(10 * mix.operations))

    def at(when: float, do: Callable[[float], None]) -> None:
        heapq.heappush(due, (when, next(numbers), do))

    def begin(client: int, now: float) -> None:
        number = len(history.operations)
        if number >= mix.operations:
            return
        key, value = f"k{draw.randrange(mix.keys)}", None
        kind = draw.choice([Kind.READ, Kind.READ, Kind.WRITE, Kind.WRITE, Kind.DELETE])
        if draw.random() < mix.cas:
            kind = Kind.CAS
        if kind in (Kind.WRITE, Kind.CAS):
            value = f"v{number}"
        expected = registers.get(key) if kind is Kind.CAS else None
        op = history.invoke(client, kind, key, value, now, expected=expected)
        results: list[str | bool | None] = []
        unknown = draw.random() < mix.unknown
        instant = now + draw.expovariate(100.0)
        answer = instant + draw.expovariate(100.0)

        def happen(now: float) -> None:
            held = registers.get(key)
            if kind is Kind.CAS:
                results.append(held == expected)
            else:
                results.append(held if kind is Kind.READ else None)
            if kind in (Kind.WRITE, Kind.DELETE) or (kind is Kind.CAS and held == expected):
                registers[key] = value

        def end(now: float) -> None:
            if unknown:
                history.info(op, "timeout", now)
            else:
                history.ok(op, results[0], now)
            at(now + draw.expovariate(100.0), lambda now: begin(client, now))

        if not unknown:
            at(instant, happen)
        elif draw.random() < 0.6:
            at(instant + draw.expovariate(1.0), happen)
        at(answer, end)

    for client in range(mix.clients):
        at(draw.random() * 0.01, lambda now, client=client: begin(client, now))  # type: ignore[misc]
    while due:
        now, _, do = heapq.heappop(due)
        do(now)
    return history


@pytest.mark.parametrize("seed", range(40))
def test_a_true_register_passes(seed: int) -> None:
    """Also with many clients, with compare and set, and with every third outcome unknown."""
    for mix in (
        Mix(200),
        Mix(200, keys=1, clients=5),
        Mix(200, keys=2, cas=0.3),
        Mix(150, keys=2, clients=5, unknown=0.3),
    ):
        assert holds(true_history(seed, mix))


def test_two_thousand_operations_take_a_moment() -> None:
    """Five keys, ten clients, one outcome of twenty unknown."""
    histories = [true_history(seed, Mix(2000)) for seed in range(5)]
    began = time.process_time()
    for history in histories:
        assert isinstance(check(history), Linearizable)
    assert time.process_time() - began < 5.0


def test_unknown_deletes_do_not_double_the_search() -> None:
    """Nor do unknown writes that nobody saw: four of ten outcomes are unknown here."""
    for seed in range(5):
        history = true_history(seed, Mix(1000, keys=1, unknown=0.4, cas=0.2))
        assert isinstance(check(history, looks_max=200_000), Linearizable)


def plant_stale_read(history: History, draw: random.Random) -> str:
    """Gives a read the value of an acknowledged write that another such write, begun later, had
    replaced before the read began; returns its key. Values are unique, so it cannot be right."""
    operations = history.operations
    done = [op for op in operations if op.outcome is Outcome.OK]
    reads = [op for op in done if op.kind is Kind.READ]
    draw.shuffle(reads)
    for read in reads:
        writes = [op for op in done if op.key == read.key and op.kind is Kind.WRITE]
        over = [op for op in writes if before(op, read)]
        stale = [op for op in over if any(before(op, later) for later in over)]
        if stale:
            read.result = draw.choice(stale).value
            return read.key
    raise AssertionError("no read with two writes before it")


@pytest.mark.parametrize("seed", range(20))
def test_a_stale_read_among_two_thousand_operations_is_found(seed: int) -> None:
    """On the right key, with a bounded explanation, and never undecided."""
    history = true_history(seed, Mix(2000))
    key = plant_stale_read(history, random.Random(seed))
    verdict = check(history)
    assert isinstance(verdict, NotLinearizable)
    assert key == verdict.key
    assert verdict.explanation.count("\n") < EXPLANATION_LINES_MAX


# -- The file format ------------------------------------------------------------------------------


def test_jepsen_reads_our_histories() -> None:
    """Golden lines: a fresh process after an unknown outcome, nil, escapes, a late answer."""
    history = History()
    write = history.invoke(1, Kind.WRITE, "k1", 'say "hi"\\\n', 0.0000012)
    read = history.invoke(0, Kind.READ, "k1", None, 0.5)
    history.info(write, "timeout", 1.0)
    history.ok(read, None, 1.25)
    swap = history.invoke(1, Kind.CAS, "k1", "b", 2.0, expected="a")
    delete = history.invoke(0, Kind.DELETE, "k2", None, 2.0)
    history.fail(delete, "no_leader", 2.125)
    history.ok(swap, False, 2.25)
    late = history.invoke(0, Kind.WRITE, "k2", "é\0\U000e0001", 3.0)
    again = history.invoke(0, Kind.READ, "k2", None, 4.0)
    history.ok(again, "é", 4.5)
    history.ok(late, None, 5.0)
    assert list(edn_lines(history)) == [
        r'{:index 0, :time 1200, :type :invoke, :process 1, :f :write, :key "k1", '
        r':value "say \"hi\"\\\n"}',
        '{:index 1, :time 500000000, :type :invoke, :process 0, :f :read, :key "k1", :value nil}',
        r'{:index 2, :time 1000000000, :type :info, :process 1, :f :write, :key "k1", '
        r':value "say \"hi\"\\\n", :error "timeout"}',
        '{:index 3, :time 1250000000, :type :ok, :process 0, :f :read, :key "k1", :value nil}',
        '{:index 4, :time 2000000000, :type :invoke, :process 3, :f :cas, :key "k1", '
        ':value ["a" "b"]}',
        '{:index 5, :time 2000000000, :type :invoke, :process 0, :f :delete, :key "k2", '
        ":value nil}",
        '{:index 6, :time 2125000000, :type :fail, :process 0, :f :delete, :key "k2", '
        ':value nil, :error "no_leader"}',
        '{:index 7, :time 2250000000, :type :fail, :process 3, :f :cas, :key "k1", '
        ':value ["a" "b"], :error "did not match"}',
        '{:index 8, :time 3000000000, :type :invoke, :process 0, :f :write, :key "k2", '
        r':value "é\u0000\udb40\udc01"}',
        '{:index 9, :time 4000000000, :type :invoke, :process 2, :f :read, :key "k2", :value nil}',
        '{:index 10, :time 4500000000, :type :ok, :process 2, :f :read, :key "k2", :value "é"}',
        '{:index 11, :time 5000000000, :type :ok, :process 0, :f :write, :key "k2", '
        r':value "é\u0000\udb40\udc01"}',
    ]
    assert to_edn(history).splitlines() == list(edn_lines(history))


def test_a_process_has_one_operation_at_a_time() -> None:
    """In the written form, whatever its clients left open."""
    history = true_history(1, Mix(500, unknown=0.2))
    busy: dict[str, bool] = {}
    for line in edn_lines(history):
        process, begins = line.split(":process ")[1].split(",")[0], ":type :invoke" in line
        assert busy.get(process, False) is not begins
        busy[process] = begins or ":type :info" in line


def test_an_operation_ends_once() -> None:
    """A second answer is a mistake of who keeps the history."""
    script = Script()
    read = script.begin(0, Kind.READ)
    script.ok(read, None)
    with pytest.raises(AssertionError, match="completed twice"):
        script.ok(read, None)
