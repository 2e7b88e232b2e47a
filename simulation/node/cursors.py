"""What consumer groups may do: a cursor goes back only by a seek, tokens (generations) only rise,
and a member that was fenced moves nothing. Competing groups have rules of their own as well
(`simulation.node.competing`).

Follows the one log: whoever applies an index first shows the state that it led to. The fence is
judged from the tables before and after, not from what production answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apsw

from cluster import operations
from cluster.raft.log import Entry
from pubsub.rejection import Rejection
from simulation.node.competing import Answer, Competing, judge_competing, read_competing
from simulation.violation import Violation

_OPERATIONS = (b"group.", b"lease.expire")
_ROWS = """
SELECT g.id, g.name, g.token, completed, dead, partition, p.token, owner, floor,
    (SELECT count(*) FROM group_completions AS c
     WHERE c.group_id = g.id AND c.partition = p.partition)
FROM consumer_groups AS g JOIN group_partitions AS p ON p.group_id = g.id ORDER BY g.id, partition
"""


class Partition(NamedTuple):
    """A partition's rows, as far as they are judged."""

    token: int
    owner: str | None
    floor: int
    completions: int  # above the floor


class Group(NamedTuple):
    """A group's rows, as far as they are judged."""

    name: str
    token: int
    counts: tuple[int, int]  # completed, dead
    partitions: dict[int, Partition]
    competing: Competing | None = None


class Claim(NamedTuple):
    """What a checkpoint says about one partition."""

    group: str
    member: str
    partition: int
    token: int
    floor: int


class Step(NamedTuple):
    """What some entries want of groups."""

    moves: frozenset[str]  # groups that are sought or removed
    claims: list[Claim]
    answers: list[tuple[str, Answer]]
    skips: list[tuple[str, int]]


class Cursors:
    """The groups of the cluster at the newest index that was shown."""

    def __init__(self) -> None:
        self.index = 1
        self.groups: dict[int, Group] = {}  # by id: no id is used twice
        self._newest_id = 0

    def advance(self, index: int, entries: Sequence[Entry], connection: apsw.Connection) -> None:
        """`connection` shows the state at `index`, to which `entries` led from the last one."""
        is_whole = len(entries) == index - self.index
        self.index = index
        if not is_whole:  # a snapshot that came from nobody who was seen
            self.groups = read_groups(connection)
        elif any(map(_is_of_groups, entries)):
            self.judge(step_of(entries), read_groups(connection))

    def judge(self, step: Step, after: dict[int, Group]) -> None:
        """Hold what a step did against what it was allowed to do."""
        for identity, group in self.groups.items():
            if identity in after:
                _judge_group(group, after[identity], step)
            elif group.name not in step.moves:
                raise Violation(f"group {group.name} is gone, and nobody removed it")
        for identity in after:
            if identity not in self.groups and identity <= self._newest_id:
                raise Violation(f"the group id {identity} is used again")
        self._newest_id = max(self._newest_id, *after, 0)
        self.groups = after


def read_groups(connection: apsw.Connection) -> dict[int, Group]:
    """All groups of a state."""
    groups: dict[int, Group] = {}
    for identity, name, last, completed, dead, number, *partition in connection.execute(_ROWS):
        group = groups.get(identity)
        if group is None:
            group = groups[identity] = Group(name, last, (completed, dead), {})
        group.partitions[number] = Partition(*partition)
    for identity, competing in read_competing(connection).items():
        groups[identity] = groups[identity]._replace(competing=competing)
    return groups


def step_of(entries: Iterable[Entry]) -> Step:
    """What the operations in `entries` want of groups."""
    moves: list[str] = []
    claims: list[Claim] = []
    answers: list[tuple[str, Answer]] = []
    skips: list[tuple[str, int]] = []
    for name, args in _operations(entries):
        if name in ("group.seek", "group.remove"):
            moves.append(args[0])
        elif name == "group.checkpoint":
            claims += [Claim(args[0], args[1], *item[:3]) for item in args[2]]
        elif name == "group.settle":
            answers += [(args[0], Answer(*item[:2])) for item in args[2]]
        elif name == "group.skip":
            skips.append((args[0], args[1]))
    return Step(frozenset(moves), claims, answers, skips)


def _is_of_groups(entry: Entry) -> bool:
    return any(operation in entry.command for operation in _OPERATIONS)


def _operations(entries: Iterable[Entry]) -> Iterator[tuple[str, list]]:  # type: ignore[type-arg]
    for entry in entries:
        if entry.command[:1] == b"\x00" and _is_of_groups(entry):
            for payload in (operations.unseal(entry.command[1:]) or [0, 0, 0, []])[3]:
                operation = operations.unpack(payload)
                if not isinstance(operation, Rejection):
                    yield operation[2], operation[3]


def _judge_group(before: Group, after: Group, step: Step) -> None:
    name = before.name
    tokens = [partition.token for partition in after.partitions.values() if partition.token]
    if len(set(tokens)) != len(tokens) or max(tokens, default=0) > after.token:
        raise Violation(f"group {name} handed out a token twice: {tokens}, last {after.token}")
    if after.token < before.token:
        raise Violation(f"the last token of group {name} went from {before.token} back")
    if list(after.partitions) != list(before.partitions):
        raise Violation(f"group {name} has other partitions than it was defined with")
    moved = name in step.moves
    if before.competing is not None:
        _judge_competing(before, after, step, moved=moved)
        return
    claims = [claim for claim in step.claims if claim.group == name]
    honoured = skipped = any(group == name for group, _ in step.skips)
    for number, partition in after.partitions.items():
        mine = [claim for claim in claims if claim.partition == number]
        valid = [claim for claim in mine if _is_valid(claim, before.partitions[number])]
        honoured = honoured or bool(valid)
        if not moved:
            where = f"{name}/{number}"
            _judge_partition(where, before.partitions[number], partition, valid, skipped=skipped)
    if not moved and not honoured and after.counts != before.counts:
        raise Violation(f"group {name} counts {after.counts}, all checkpoints were fenced")


def _judge_competing(before: Group, after: Group, step: Step, *, moved: bool) -> None:
    name, now = before.name, after.competing
    if now is None or before.competing is None:
        raise Violation(f"group {name} has no cursor any more")
    (partition,) = after.partitions.values()
    floor = min([now.cursor + 1, *now.tokens]) - 1
    if partition.owner is not None or partition.floor != floor:
        raise Violation(f"the low watermark of {name} is {floor}, and its row is {partition}")
    if not moved:
        answers = [answer for group, answer in step.answers if group == name]
        skips = {revision: None for group, revision in step.skips if group == name}
        judge_competing(name, before.token, before.competing, now, answers, skips)
        was = before.partitions[0].floor
        if partition.floor < was:
            raise Violation(f"the floor of {name} went from {was} back to {partition.floor}")


def _is_valid(claim: Claim, before: Partition) -> bool:
    """Whether the claim can be the owner's: a later token may have come within the same step."""
    if claim.token == before.token:
        return claim.member == before.owner
    return claim.token > before.token


def _judge_partition(
    where: str, before: Partition, after: Partition, valid: list[Claim], *, skipped: bool
) -> None:
    if after.token < before.token:
        raise Violation(f"the token of {where} went from {before.token} back to {after.token}")
    if after.token == before.token and after.owner not in (before.owner, None):
        raise Violation(f"{where} went to {after.owner} under the token of {before.owner}")
    if after.floor < before.floor:
        raise Violation(f"the cursor of {where} went from {before.floor} back to {after.floor}")
    if after.floor > max([before.floor, *(claim.floor for claim in valid)]):
        raise Violation(f"the cursor of {where} is at {after.floor}, which no owner told")
    if not valid and not skipped and after.completions != before.completions:
        raise Violation(f"{where} has other completions, all checkpoints were fenced")
