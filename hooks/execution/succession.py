"""A new service in the place of an old one on the same node, so that nothing runs twice.

The new one joins each group as the successor of the old one, which is a member like any other: it
finishes what it has begun, partition by partition, writes that down and releases the partition;
only then the new one has it, and begins behind what is done. What the old one has not begun it
leaves alone. A handler that is slow holds up its own partition and no other.
"""

from hooks.execution.service import HookService


async def take_over(new: HookService, old: HookService) -> None:
    """Let `new`, which runs, take the place of `old`, and end that one; cancelled, both run on.

    `old` must have been told to `retire` before `new` was started: only one speaks for the node.
    """
    while not _is_settled(new):
        await new.changed.wait()
    await old.stop()  # what is released meanwhile moves meanwhile
    new.history.forget_all_but({handler.name for handler in new.handlers})


def _is_settled(service: HookService) -> bool:
    return service.registering.is_settled and all(lane.is_settled for lane in service.lanes)
