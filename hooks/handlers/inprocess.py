"""Calling a Python handler: the timeout of an async one, and what becomes of what it returns.

`InlineRunner` calls handlers in the caller's own loop, for the simulator and for programs that
embed a node and ask for it. A node runs `call` in its handler host (`host_main`), because a sync
handler blocks the loop that it is called in.
"""

import inspect
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import trio

from hooks import effects
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import Log
from hooks.registry import HookContext, Registry

# What a handler may raise without taking its process along. KeyboardInterrupt is for the process.
_CAUGHT: Final = (Exception, SystemExit, GeneratorExit, BaseExceptionGroup)
_FRAMES_SHOWN: Final = 3


class InlineRunner:
    """Calls the handlers of a registry right here; a sync one blocks until it returns."""

    def __init__(self, registry: Registry, log: Log, limits: HookLimits = DEFAULT_LIMITS) -> None:
        self._functions = registry.functions
        self._log = log
        self._limits = limits

    async def execute(self, attempt: Attempt) -> Outcome:
        function = self._functions.get(str(attempt.handler.handler_id))
        if function is None:
            return Failed(FailureKind.ERROR, f'no function "{attempt.handler.handler_id}"')
        context = HookContext(
            delivery=attempt.delivery,
            handler=attempt.handler.name,
            attempt=attempt.number,
            fencing_token=attempt.token,
            cluster_id=attempt.cluster_id,
            log=self._log,
        )
        if is_async(function):
            return await call_async(function, context, attempt.handler.timeout_ms, self._limits)
        outcome = call_sync(function, context, self._limits)
        await trio.lowlevel.cancel_shielded_checkpoint()  # what was done is not to be forgotten
        return outcome


def is_async(function: object) -> bool:
    """Whether calling the function gives something to await: also for objects with __call__."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


async def call_async(
    function: Callable[..., Any], context: HookContext, timeout_ms: int, limits: HookLimits
) -> Outcome:
    """Await an async handler; at its timeout it is cancelled."""
    with trio.move_on_after(timeout_ms / 1000) as scope:
        try:
            returned = await cast(Awaitable[object], function(context))
        except _CAUGHT as error:
            if not scope.cancel_called:
                return failed(error, limits)
        else:
            return _checked(returned, limits)
    return Failed(FailureKind.TIMEOUT, f"cancelled at its timeout of {timeout_ms} ms")


def call_sync(function: Callable[..., Any], context: HookContext, limits: HookLimits) -> Outcome:
    """Call a sync handler in this thread."""
    try:
        returned = function(context)
    except _CAUGHT as error:
        return failed(error, limits)
    return _checked(returned, limits)


def failed(error: BaseException, limits: HookLimits) -> Failed:
    """The failure of a handler that raised: the error, and where."""
    stack = traceback.extract_tb(error.__traceback__)[1:][-_FRAMES_SHOWN:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack[::-1])
    text = "".join(traceback.format_exception_only(error)).strip()
    return Failed(FailureKind.ERROR, bounded(f"{text} [{where}]", limits.error_bytes_max))


def _checked(returned: object, limits: HookLimits) -> Outcome:
    try:
        return Succeeded(effects.check(returned, limits))
    except (TypeError, ValueError) as error:
        return Failed(FailureKind.ERROR, bounded(str(error), limits.error_bytes_max))
