"""Shaping against dumb simulations that look at every millisecond."""

from collections.abc import Sequence
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from hooks.configuration.definition import Rate
from hooks.delivery import deliver
from hooks.execution.attempt import Succeeded
from hooks.execution.breaker import Breaker
from hooks.execution.partition import Item
from hooks.execution.rates import KeyRate, RecentKeys, SharedRate
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from pubsub.groups import Assignment
from tests.hooks.workbench import definition, write_event

Started = tuple[int, list[int], int]  # when, which revisions, how many more they stand for

arrivals = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=1, max_size=25
).map(sorted)
"""When events come, and of which key; their revisions count from 1."""


def simulate(events: list[tuple[int, str]], takes_ms: int, **keys: object) -> list[Started]:
    """What `HandlerWork` starts when every attempt takes so long."""
    handler = definition(partitions=1, concurrency=200, **keys)
    work = HandlerWork(handler, HookLimits(), 1 << 20)
    work.assign([Assignment("hook.h", 0, 1, 0, False)], lambda _: ())
    started: list[Started] = []
    running: list[tuple[Sequence[Item], int]] = []
    for now_ms in range(400):
        for items, until_ms in list(running):
            if until_ms == now_ms:
                running.remove((items, until_ms))
                work.end(items, Succeeded(), now_ms, 0.5)
        come = [revision for revision, event in enumerate(events, 1) if event[0] == now_ms]
        if come and work.wants(come[-1]):
            for revision in come:
                work.offer(deliver(write_event(revision, events[revision - 1][1])))
            work.advance(come[-1])
        work.wake(now_ms)
        while items := work.take(now_ms):
            revisions = [item.revision for item in items]
            started.append((now_ms, revisions, items[-1].coalesced))
            running.append((items, now_ms + takes_ms))
        due_ms = work.due_ms(now_ms)
        assert due_ms is None or due_ms > now_ms, "it would be asked without end"
    return started


def of_keys(events: list[tuple[int, str]], takes_ms: int, keys: str, wait: "Wait") -> list[Started]:
    """The dumb simulation for one event at a time: of each key, only the newest that waits."""
    started: list[Started] = []
    pending: dict[str, list[tuple[int, int]]] = {key: [] for key in keys}  # (when, revision)
    began: dict[str, int] = {}
    for now_ms in range(400):
        for revision, (at_ms, key) in enumerate(events, 1):
            if at_ms == now_ms:
                pending[key].append((at_ms, revision))
        for key in keys:
            is_busy = key in began and now_ms < began[key] + takes_ms
            if pending[key] and not is_busy and wait(pending[key], began.get(key), now_ms):
                started.append((now_ms, [pending[key][-1][1]], len(pending[key]) - 1))
                pending[key].clear()
                began[key] = now_ms
    return started


class Wait:
    """Whether a key's waiting events have waited long enough."""

    def __init__(self, calm_ms: int = 0, longest_ms: int = 0, apart_ms: int = 0) -> None:
        self.calm_ms, self.longest_ms, self.apart_ms = calm_ms, longest_ms, apart_ms

    def __call__(self, waiting: list[tuple[int, int]], began_ms: int | None, now_ms: int) -> bool:
        if self.calm_ms:
            is_calm = now_ms >= waiting[-1][0] + self.calm_ms
            return is_calm or now_ms >= waiting[0][0] + self.longest_ms
        return began_ms is None or now_ms >= began_ms + self.apart_ms


@given(arrivals, st.integers(1, 20), st.integers(1, 15), st.integers(1, 40))
@settings(deadline=None, max_examples=150)
def test_debounce_starts_what_a_dumb_simulation_starts(
    events: list[tuple[int, str]], takes_ms: int, calm_ms: int, more_ms: int
) -> None:
    """The same events at the same time, and each stands for as many others."""
    longest_ms = calm_ms + more_ms
    seen = simulate(events, takes_ms, debounce_ms=calm_ms, debounce_ms_max=longest_ms)
    wait = Wait(calm_ms=calm_ms, longest_ms=longest_ms)
    assert sorted(seen) == sorted(of_keys(events, takes_ms, "abc", wait))


@given(arrivals, st.integers(1, 20), st.integers(1, 30))
@settings(deadline=None, max_examples=150)
def test_throttle_starts_what_a_dumb_simulation_starts(
    events: list[tuple[int, str]], takes_ms: int, apart_ms: int
) -> None:
    """The first at once, the newest of the others when so long has passed."""
    seen = simulate(events, takes_ms, throttle_ms=apart_ms)
    assert sorted(seen) == sorted(of_keys(events, takes_ms, "abc", Wait(apart_ms=apart_ms)))


def in_batches(
    events: list[tuple[int, str]], takes_ms: int, batch_max: int, wait_ms: int
) -> list[Started]:
    """The dumb simulation for batches: whatever waits of keys that are not busy."""
    started: list[Started] = []
    pending: list[tuple[int, str, int]] = []
    busy: list[tuple[int, str]] = []  # until when, key
    for now_ms in range(400):
        busy = [each for each in busy if each[0] > now_ms]
        for revision, (at_ms, key) in enumerate(events, 1):
            if at_ms == now_ms:
                pending.append((at_ms, key, revision))
        while True:
            taken = {key for _, key in busy}
            free = [each for each in pending if each[1] not in taken]
            if not free or (len(free) < batch_max and now_ms < free[0][0] + wait_ms):
                break
            batch = free[:batch_max]
            started.append((now_ms, [revision for _, _, revision in batch], 0))
            busy += [(now_ms + takes_ms, key) for _, key, _ in batch]
            pending = [each for each in pending if each not in batch]
    return started


@given(arrivals, st.integers(1, 20), st.integers(2, 6), st.integers(0, 30))
@settings(deadline=None, max_examples=200)
def test_batches_are_those_of_a_dumb_simulation(
    events: list[tuple[int, str]], takes_ms: int, batch_max: int, wait_ms: int
) -> None:
    """The same events together, at the same time."""
    seen = simulate(events, takes_ms, batch_max=batch_max, batch_wait_ms=wait_ms)
    assert seen == in_batches(events, takes_ms, batch_max, wait_ms)


@given(
    st.integers(1, 5),
    st.sampled_from([7, 10, 1_000]),
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), max_size=40),
)
def test_the_rate_of_a_key_is_that_of_a_bucket(
    starts: int, period_ms: int, asked: list[tuple[int, str]]
) -> None:
    """A bucket of fractions, filled at every millisecond, says the same and as early."""
    rate = KeyRate(Rate(starts, period_ms), 100)
    buckets = {"a": Fraction(starts), "b": Fraction(starts)}
    now_ms = 0
    for pause_ms, key in asked:
        now_ms += pause_ms
        for each in buckets:
            filled = buckets[each] + Fraction(pause_ms * starts, period_ms)
            buckets[each] = min(filled, Fraction(starts))
        due_ms = rate.due_ms(key, now_ms)
        assert (due_ms is None) == (buckets[key] >= 1)
        if due_ms is None:
            rate.start(key, now_ms)
            buckets[key] -= 1
        else:
            later = buckets[key] + Fraction((due_ms - now_ms) * starts, period_ms)
            assert later >= 1 > later - Fraction(starts, period_ms)


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 7), st.integers(0, 2)), max_size=60),
)
@settings(deadline=None)
def test_a_shared_rate_is_kept_wherever_the_partitions_are(
    starts: int, moves: list[tuple[int, int, int]]
) -> None:
    """Three nodes that start whatever they may, while partitions move between them."""
    nodes = [SharedRate(Rate(starts, 1_000), 8) for _ in range(3)]
    owners = [0] * 8
    nodes[0].own(8)
    now_ms, started = 0, 0
    for pause_ms, partition, to in moves:
        now_ms += pause_ms
        for node in nodes:
            while node.due_ms(now_ms) is None:
                node.start()
                started += 1
        assert started <= len(nodes) + Fraction(starts * now_ms, 1_000)
        owners[partition] = to
        for number, node in enumerate(nodes):
            node.own(owners.count(number))


@given(st.integers(1, 8), st.integers(1, 20), st.sampled_from([100, 1_000]))
def test_a_node_that_owns_everything_uses_the_whole_rate(
    partitions: int, starts: int, period_ms: int
) -> None:
    """One start in hand, and then all that the rate allows."""
    rate = SharedRate(Rate(starts, period_ms), partitions)
    rate.own(partitions)
    started = 0
    for now_ms in range(3 * period_ms + 1):
        while rate.due_ms(now_ms) is None:
            rate.start()
            started += 1
    assert started == 1 + 3 * starts


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=80))
def test_recent_keys_forgets_the_oldest_only(puts: list[tuple[int, int]]) -> None:
    """What is there is the newest number of its key; only a full table loses what still means
    something."""
    recent = RecentKeys(4)
    order: dict[str, int] = {}
    for now, (key, more) in enumerate(puts, 1):
        name = f"k{key}"
        recent.put(name, now + more, now - 1)
        order.pop(name, None)
        order[name] = now + more
        assert len(recent) <= 4
        newest = list(order)[-4:]
        for each in newest:
            assert recent.get(each) == order[each] or order[each] <= now - 1


class DumbBreaker:
    """Knows every attempt that began since the last change, and how the newest ended."""

    def __init__(self, failures_max: int, open_ms: int) -> None:
        self.failures_max, self.open_ms = failures_max, open_ms
        self.counted: set[int] = set()
        self.ended: list[bool] = []  # whether each failed
        self.open_until: int | None = None
        self.half_open = False

    def admits(self, now_ms: int) -> bool:
        if self.open_until is not None and now_ms >= self.open_until:
            self.open_until, self.half_open = None, True
        return self.open_until is None and not (self.half_open and self.counted)

    def end(self, number: int, failed: bool | None, now_ms: int) -> None:
        if number not in self.counted:
            return
        self.counted.remove(number)
        if failed is None:
            return
        self.ended.append(failed)
        in_a_row = self.ended[-self.failures_max :]
        if failed and (self.half_open or in_a_row == [True] * self.failures_max):
            self._change()
            self.open_until = now_ms + self.open_ms
        elif self.half_open:
            self._change()

    def _change(self) -> None:
        self.counted.clear()
        self.ended.clear()
        self.half_open = False


@given(
    st.integers(1, 3),
    st.integers(1, 10),
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 3), st.sampled_from([True, True, False, None])),
        max_size=60,
    ),
)
def test_a_breaker_is_that_of_a_dumb_simulation(
    failures_max: int, open_ms: int, steps: list[tuple[int, int, bool | None]]
) -> None:
    """Whatever runs at once, fails, succeeds or is stopped, and however late it ends."""
    breaker, dumb = Breaker(), DumbBreaker(failures_max, open_ms)
    running: list[tuple[int, int]] = []  # number, epoch
    now_ms = number = 0
    for pause_ms, which, failed in steps:
        now_ms += pause_ms
        assert breaker.admits(now_ms) == dumb.admits(now_ms)
        if breaker.admits(now_ms) and len(running) < 4:
            number += 1
            dumb.counted.add(number)
            running.append((number, breaker.start()))
        if which < len(running):
            ended, epoch = running.pop(which)
            dumb.end(ended, failed, now_ms)
            if failed is None:
                breaker.cancel(epoch)
            else:
                breaker.end(epoch, failed, now_ms, failures_max, open_ms)
