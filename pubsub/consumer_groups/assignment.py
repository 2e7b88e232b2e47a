"""Which member of a group owns which partition: pure functions, no state.

Sticky: a member keeps what it has as long as it lives and has no more than its share. What is free
goes to the member with the highest rendezvous hash that still has room, so that two calculations on
any two nodes agree without talking to each other.

    owner    next_owner   the partition
    nobody   -            waits for a member
    A        -            belongs to A
    A        B            A drains it and gives it up with a checkpoint; then it belongs to B
"""

import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of a group, as it is stored."""

    number: int
    owner: str | None
    token: int  # fencing token: rises whenever the owner, or what the owner may assume, changes
    next_owner: str | None
    floor: int  # every event of this partition up to here is completed


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key (of a topic, for events without one), fixed for ever.

    CRC-32 because every language has it and it never changes; `partitions` is a power of two.
    """
    return zlib.crc32(key.encode()) & (partitions - 1)


def assign(
    group: str,
    partitions: Sequence[Partition],
    members: Sequence[str],
    token: int,
    *,
    leaving: Sequence[str] = (),
    may_move: bool = True,
) -> tuple[list[Partition], int]:
    """The partitions as they should be now that `members` live, and the last token handed out.

    Those of them that are `leaving` keep a partition until they have released it, and get none.

    A partition moves at once from a member that is gone, in two steps between two that live. Every
    member ends with its share, rounded up or down, and nothing moves that need not move for that.
    Without `may_move` the living keep even what is too much, and only what is free is given out.
    """
    alive = dict.fromkeys(sorted(members))
    staying = dict.fromkeys(member for member in alive if member not in leaving)
    # Without anybody who stays there is nobody to release anything to.
    holders = _holders(group, partitions, staying or alive, may_move)
    result: list[Partition] = []
    for partition, holder in zip(partitions, holders, strict=True):
        owner = partition.owner if partition.owner in alive else None
        if owner is None and holder is not None:
            token += 1
            moved = partition._replace(owner=holder, token=token, next_owner=None)
        else:
            next_owner = None if holder == owner else holder
            moved = partition._replace(owner=owner, next_owner=next_owner)
        result.append(moved)
    return result, token


def rendezvous(group: str, partition: int, member: str) -> int:
    """The weight of a member for a partition; the highest wins. Fixed for ever."""
    # Names hold no control characters, so the separator makes the text unambiguous.
    text = f"{group}\0{partition}\0{member}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _holders(
    group: str, partitions: Sequence[Partition], alive: dict[str, None], may_move: bool
) -> list[str | None]:
    """For each partition the member that is to own it in the end."""
    if not alive:
        return [None] * len(partitions)
    holders = [_holder(partition, alive) for partition in partitions]
    held: dict[str, list[Partition]] = {member: [] for member in alive}
    for partition, holder in zip(partitions, holders, strict=True):
        if holder is not None:
            held[holder].append(partition)

    room: dict[str, int] = {}
    share, more = divmod(len(partitions), len(alive))
    # Those who hold most get the larger shares, so that the least has to move.
    for rank, member in enumerate(sorted(alive, key=lambda name: (-len(held[name]), name))):
        room[member] = share + (rank < more) - len(held[member])
        surplus = -room[member] if may_move else 0
        for partition in _surplus(group, member, held[member], surplus):
            holders[partition.number] = None
            room[member] += 1

    for partition in partitions:
        if holders[partition.number] is None:
            owner = partition.owner
            if owner is None or room.get(owner, 0) <= 0:  # else: the move is called off
                owner = _heaviest(group, partition.number, room)
            holders[partition.number] = owner
            room[owner] -= 1
    return holders


def _holder(partition: Partition, alive: dict[str, None]) -> str | None:
    """Where the partition is, or is already on its way to."""
    if partition.next_owner in alive:
        return partition.next_owner
    return partition.owner if partition.owner in alive else None


def _surplus(group: str, member: str, held: list[Partition], count: int) -> list[Partition]:
    """What a member with too many gives up: first what has not arrived, then the lightest."""
    if count <= 0:
        return []

    def cost(partition: Partition) -> tuple[bool, int, int]:
        arrived = partition.owner == member
        return arrived, rendezvous(group, partition.number, member), partition.number

    return sorted(held, key=cost)[:count]


def _heaviest(group: str, partition: int, room: dict[str, int]) -> str:
    candidates = [member for member, count in room.items() if count > 0]
    return max(candidates, key=lambda member: (rendezvous(group, partition, member), member))
