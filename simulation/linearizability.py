"""Whether a history of registers is linearizable: the search of Wing and Gong (1993) with the
memory of Lowe (2017), as in Knossos and Porcupine.

Each operation is to get one place between its invocation and its answer, so that the register,
asked in that order, gives the same answers. Keys are independent: a history is linearizable if it
is for each key (Herlihy and Wing 1990, §3.2). What ended `fail` is left out. What ended `info`, or
never, gets a place anywhere behind its invocation, or none.

May not: recurse, nor say Linearizable when it gave up. The worst case is exponential; a search
beyond its bound is Undecided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from simulation.history import History, Kind, Operation, Outcome, quoted

LOOKS_MAX = 2_000_000
"""Looks at a call or an answer, per key: some seconds, and at most some hundred megabytes. A sound
history needs a few for each operation, times those that run at once."""

EXPLANATION_LINES_MAX = 20
_LISTED_MAX = (EXPLANATION_LINES_MAX - 5) // 2  # of each of its two lists, between up to five lines


@dataclass(frozen=True, slots=True)
class Linearizable:
    """It is, and this is why: for each key, its operations in an order that explains them."""

    orders: Mapping[str, tuple[Operation, ...]]


@dataclass(frozen=True, slots=True)
class NotLinearizable:
    """No order explains this key. The explanation is for people, of a bounded number of lines."""

    key: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """The search of this key was given up after so many looks: not an answer, least of all yes."""

    key: str
    looks: int


Verdict = Linearizable | NotLinearizable | Undecided


def check(history: History, *, looks_max: int = LOOKS_MAX) -> Verdict:
    """Judges a history, at its end. A key that is wrong outweighs one that is undecided."""
    operations: dict[str, list[Operation]] = {}
    for operation in history.operations:
        operations.setdefault(operation.key, []).append(operation)
    orders: dict[str, tuple[Operation, ...]] = {}
    undecided: Undecided | None = None
    for key, of_key in operations.items():
        search = _Search(_steps(of_key))
        answer = search.run(looks_max)
        if answer is False:
            return NotLinearizable(key, _explanation(key, of_key, search))
        if answer is None:
            undecided = undecided or Undecided(key, looks_max)
        orders[key] = tuple(search.order())
    return undecided or Linearizable(orders)


# -- What the operations of one key ask of the register -------------------------------------------

_NOTHING = 0  # the register as number: it holds nothing
_UNSEEN = 1  # it holds one of those values that no operation can tell from each other
_ANY = -1  # needs: no matter what it holds
_NONE = -2  # avoids: no value
_SAME = -3  # leaves: what was there


class _Step(NamedTuple):
    """An operation as the search sees it: it may be placed when the register holds `needs` and not
    `avoids`, then it holds `leaves`. Positions are twice an event's number."""

    operation: Operation
    called: int
    returned: int | None
    """It has its place by then. None: it need not have one."""
    needs: int
    avoids: int
    leaves: int


def _steps(operations: list[Operation]) -> list[_Step]:
    """The operations of one key, without those that prove nothing.

    Two things make unknown outcomes cheap, each of which would double the orders to be tried.
    - Who saw a value proves that it was written by then, if only one operation writes it. So its
      writer was in fact done before the first who saw it had their answer. Values that are written
      twice get no such bound.
    - An unknown write of a value that nobody saw and nobody expects needs no place: in any order,
      what follows it is another write or the end, so that the order is right without it as well.
      This holds for any value, unique or not, but not where a compare and set did not match: then
      the unknown write may be the reason.
    """
    kept = [operation for operation in operations if _matters(operation)]
    writers = Counter(operation.value for operation in kept if operation.value is not None)
    numbers: dict[str | None, int] = {None: _NOTHING}
    seen: dict[str, int] = {}  # value -> position of the first answer that proves it
    mismatch = False
    for operation in kept:
        if operation.kind is Kind.CAS:
            numbers.setdefault(operation.expected, _UNSEEN + len(numbers))
            mismatch = mismatch or operation.result is False
        elif operation.kind is Kind.READ:
            numbers.setdefault(_read(operation), _UNSEEN + len(numbers))
        value, position = _proves(operation), _returned(operation)
        if value is not None and position is not None:
            seen[value] = min(position, seen.get(value, position))
    steps = []
    for operation in kept:
        called, returned = 2 * operation.invoked, _returned(operation)
        if operation.value in seen and writers[operation.value] == 1:
            known = seen[operation.value] - 1
            # A value that was seen before its write began is left to the search, which finds it.
            if known > called:
                returned = known if returned is None else min(known, returned)
        needs, avoids, leaves = _ask(operation, numbers)
        if returned is not None or leaves != _UNSEEN or mismatch:
            steps.append(_Step(operation, called, returned, needs, avoids, leaves))
    return steps


def _matters(operation: Operation) -> bool:
    if operation.kind is Kind.READ:
        return operation.outcome is Outcome.OK
    return operation.outcome is not Outcome.FAIL


def _returned(operation: Operation) -> int | None:
    if operation.outcome is not Outcome.OK or operation.completed is None:
        return None
    return 2 * operation.completed


def _read(operation: Operation) -> str | None:
    assert not isinstance(operation.result, bool), "a read returns a value"
    return operation.result


def _proves(operation: Operation) -> str | None:
    """The value that stood in the register for sure, since this operation saw it there."""
    if operation.outcome is Outcome.OK and operation.kind is Kind.READ:
        return _read(operation)
    if operation.kind is Kind.CAS and operation.result is True:
        return operation.expected
    return None


def _ask(operation: Operation, numbers: Mapping[str | None, int]) -> tuple[int, int, int]:
    """What it needs, avoids and leaves."""
    written = numbers.get(operation.value, _UNSEEN)  # a delete writes None
    if operation.kind is Kind.READ:
        return numbers[_read(operation)], _NONE, _SAME
    if operation.kind is not Kind.CAS:
        return _ANY, _NONE, written
    expected = numbers[operation.expected]
    if operation.result is False:
        return _ANY, expected, _SAME
    # One of unknown outcome that does not match does nothing, and then it needs no place.
    return expected, _NONE, written


# -- The search -----------------------------------------------------------------------------------

_HEAD = 0


class _Search:
    """Depth first over the orders of one key's steps.

    Calls and answers stand in a linked list in the order of their events. Whoever is called before
    the first answer may be next: it is lifted out of the list with its answer. An answer that is
    reached says that its operation had to be placed before: the last one placed is put back.

    Steps that need no place are not in the list. They are tried at a dead end, to help the step
    that comes right behind them: one that does not is not needed there, or does as well later.
    """

    def __init__(self, steps: list[_Step]) -> None:
        self._steps = steps
        required = [n for n, step in enumerate(steps) if step.returned is not None]
        required.sort(key=lambda n: steps[n].returned or 0)
        optional = [n for n, step in enumerate(steps) if step.returned is None]
        self._required = len(required)
        self._rank = [0] * len(steps)  # of those with an answer in its order; of the others by call
        for ranked in (required, optional):
            for rank, n in enumerate(ranked):
                self._rank[n] = rank
        self._link(required)
        # Steps that need no place, by what they need; in each list those that do the same, which
        # can change places: only orders that take them as they began are tried.
        self._optional_by_needs: dict[int, dict[tuple[int, int, int], list[int]]] = {}
        for n in optional:
            alike = self._optional_by_needs.setdefault(steps[n].needs, {})
            alike.setdefault(steps[n][3:], []).append(n)
        # How many that have an answer still need a value that is written only once.
        writers = Counter(step.leaves for step in steps)
        self._wanted = Counter(
            step.needs
            for step in steps
            if step.returned is not None and step.needs > _UNSEEN and writers[step.needs] == 1
        )
        # What is placed: all `_done` first in the order of answers, those that are bits of
        # `_window` behind them, and, bits again, those that need no place. So a configuration is
        # small however long the history is.
        self._done = 0
        self._window = 0
        self._optional = 0
        self._state = _NOTHING
        self._helped = _NONE  # what the register held before a step that is to help the next one
        self._tried: dict[tuple[int, int, int, int], list[int]] = {}
        self._stack: list[tuple[int, int, int, int, int, int]] = []
        self._longest: list[int] = []
        self._longest_required = -1

    def _link(self, required: list[int]) -> None:
        """The list: its head, then a place for each call and each answer."""
        events = [(self._steps[n].called, n) for n in required]
        events += [(self._steps[n].returned or 0, n) for n in required]
        self._step_of = [-1]
        self._call_of = [-1] * len(self._steps)
        self._return_of = [-1] * len(self._steps)
        for place, (position, n) in enumerate(sorted(events), start=1):
            self._step_of.append(n)
            of = self._call_of if position == self._steps[n].called else self._return_of
            of[n] = place
        places = len(self._step_of)
        self._after: list[int] = [*range(1, places), -1]
        self._before: list[int] = [*range(-1, places - 1)]

    def run(self, looks_max: int) -> bool | None:
        """Whether there is an order; None if that took more looks than allowed."""
        place = self._after[_HEAD]
        for _ in range(looks_max):
            if self._done == self._required:
                return True
            n = self._step_of[place]
            if self._call_of[n] == place:
                place = self._after[_HEAD] if self._try(n) else self._after[place]
            elif self._try_optional(n):
                place = self._after[_HEAD]
            else:
                self._keep_longest()
                back = self._take_back()
                if back is None:
                    return False
                place = back
        return True if self._done == self._required else None

    def order(self) -> list[Operation]:
        """The operations that are placed, in that order."""
        return [self._steps[saved[0]].operation for saved in self._stack]

    def longest(self) -> tuple[list[Operation], list[Operation], list[Operation]]:
        """The longest order that was found, who could be next by the clock and is not possible,
        and who comes after those."""
        placed = set(self._longest)
        left = [
            step
            for n, step in enumerate(self._steps)
            if n not in placed and step.returned is not None
        ]
        limit = min(step.returned for step in left if step.returned is not None)
        return (
            [self._steps[n].operation for n in self._longest],
            [step.operation for step in left if step.called < limit],
            [step.operation for step in left if step.called > limit],
        )

    def _try(self, n: int) -> bool:
        """Places this step next, if the register allows it and that is worth trying."""
        step, state = self._steps[n], self._state
        if not _fits(step, state) or (self._helped != _NONE and _fits(step, self._helped)):
            return False
        leaves = state if step.leaves == _SAME else step.leaves
        if leaves != state and self._wanted[state] > (step.needs == state):
            return False  # somebody still has to see what stands there, and it never comes back
        done, window, optional, helped = self._done, self._window, self._optional, _NONE
        if step.returned is None:
            if leaves == state:
                return False
            optional |= 1 << self._rank[n]
            helped = state
        else:
            window |= 1 << (self._rank[n] - done)
            while window & 1:
                window >>= 1
                done += 1
        # Who got here with fewer of those that need no place had all choices that are left now.
        tried = self._tried.setdefault((leaves, done, window, helped), [])
        if any(fewer & ~optional == 0 for fewer in tried):
            return False
        tried.append(optional)
        self._stack.append((n, state, self._done, self._window, self._optional, self._helped))
        self._state, self._helped = leaves, helped
        self._done, self._window, self._optional = done, window, optional
        if step.returned is not None:
            if step.needs in self._wanted:
                self._wanted[step.needs] -= 1
            self._lift(n)
        return True

    def _try_optional(self, first: int) -> bool:
        """Places a step that needs no place and is called before the first answer, that of `first`.
        Those that were tried here before are refused, as they have been tried."""
        limit = self._steps[first].returned or 0
        for needs in (_ANY, self._state):
            for alike in self._optional_by_needs.get(needs, {}).values():
                for n in alike:
                    if not self._optional >> self._rank[n] & 1:
                        if self._steps[n].called < limit and self._try(n):
                            return True
                        break
        return False

    def _take_back(self) -> int | None:
        """Undoes what was placed last; returns where to look on, or None if all has been tried.

        What fits and changes nothing is right where it is, since there it is in nobody's way: if
        that leads nowhere, no other choice in its stead does, so the one before is undone too.
        """
        while self._stack:
            saved = self._stack.pop()
            n, self._state, self._done, self._window, self._optional, self._helped = saved
            if self._steps[n].returned is None:
                return self._after[_HEAD]  # whatever was tried from here will be refused
            self._unlift(n)
            if self._steps[n].needs in self._wanted:
                self._wanted[self._steps[n].needs] += 1
            if self._steps[n].leaves != _SAME:
                return self._after[self._call_of[n]]
        return None

    def _lift(self, n: int) -> None:
        for place in (self._call_of[n], self._return_of[n]):
            before, after = self._before[place], self._after[place]
            self._after[before] = after
            if after >= 0:
                self._before[after] = before

    def _unlift(self, n: int) -> None:
        for place in (self._return_of[n], self._call_of[n]):
            before, after = self._before[place], self._after[place]
            self._after[before] = place
            if after >= 0:
                self._before[after] = place

    def _keep_longest(self) -> None:
        required = self._done + self._window.bit_count()
        if required > self._longest_required:
            self._longest_required = required
            self._longest = [saved[0] for saved in self._stack]


def _fits(step: _Step, state: int) -> bool:
    return step.needs in (_ANY, state) and step.avoids != state


# -- The explanation ------------------------------------------------------------------------------


def _explanation(key: str, operations: list[Operation], search: _Search) -> str:
    order, stuck, later = search.longest()
    held: str | None = None
    for operation in order:
        # A compare and set of unknown outcome has a place only where it matched.
        if operation.kind is not Kind.READ and operation.result is not False:
            held = operation.value
    lines = [f"key {key}: the longest order that fits has {len(order)} operations, at its end:"]
    if len(order) > _LISTED_MAX:
        lines.append("  ...")
    lines += [f"  {operation}" for operation in order[-_LISTED_MAX:]]
    lines.append(f"then it holds {quoted(held)}, and one of these had to be next:")
    lines += [f"  {operation}{_flaw(operation, operations)}" for operation in stuck[:_LISTED_MAX]]
    if len(stuck) > _LISTED_MAX:
        lines.append(f"  and {len(stuck) - _LISTED_MAX} more")
    waiting = [operation for operation in later if held is not None and _proves(operation) == held]
    if waiting:
        lines.append(f"but what it holds is to be seen even later: {waiting[-1]}")
    return "\n".join(lines)


def _flaw(stuck: Operation, operations: list[Operation]) -> str:
    """Why it would never fit, if that is plain to see."""
    value = _proves(stuck)
    if value is None:
        return ""
    outcomes = {operation.outcome for operation in operations if operation.value == value}
    if not outcomes:
        return ": nobody wrote that"
    return ": that write failed" if outcomes == {Outcome.FAIL} else ""
