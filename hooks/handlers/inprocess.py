"""Calling a Python handler: the timeout of an async one, and what becomes of what it returns.

`InlineRunner` calls handlers in the caller's own loop, for the simulator and for programs that
embed a node and ask for it. A node runs the same calls in its handler host (`host_main`), because a
sync handler blocks the loop that it is called in.
"""

import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, cast

import trio

from hooks import effects
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import Clients, Log
from hooks.registry import GiveUp, HookContext, Registry

# What a handler may raise without taking its process along. KeyboardInterrupt is for the process.
_CAUGHT: Final = (Exception, SystemExit, GeneratorExit, BaseExceptionGroup)
_FRAMES_SHOWN: Final = 3
_ERRORS_SHOWN: Final = 5  # of a group


class InlineRunner:
    """Calls the handlers of a registry right here; a sync one blocks until it returns."""

    def __init__(
        self,
        registry: Registry,
        log: Log,
        limits: HookLimits = DEFAULT_LIMITS,
        clients: Clients | None = None,
    ) -> None:
        self._functions = registry.functions
        self._log = log
        self._limits = limits
        self._clients = clients

    async def execute(self, attempt: Attempt) -> Outcome:
        function = self._functions.get(str(attempt.handler.handler_id))
        if function is None:
            return no_function(str(attempt.handler.handler_id))
        awaited = is_async(function)
        timeout_ms = attempt.handler.timeout_ms
        context = HookContext(
            deliveries=attempt.deliveries,
            handler=attempt.handler.name,
            attempt=attempt.number,
            fencing_token=attempt.token,
            cluster_id=attempt.cluster_id,
            log=self._log,
            coalesced=attempt.coalesced,
            scope=trio.CancelScope() if awaited else None,
            clients=self._clients,
        )
        if awaited:
            # the scope that the handler is given is its own to move; this one is not
            with trio.move_on_after(timeout_ms / 1000):
                return await call_async(function, context, timeout_ms, self._limits)
            return timed_out(timeout_ms)
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
    """Await an async handler in its scope; at its timeout it is cancelled. HOT."""
    scope = context.cancel_scope
    due = trio.current_time() + timeout_ms / 1000
    scope.deadline = due
    with scope:
        try:
            returned = await cast(Awaitable[object], function(context))
        except _CAUGHT as error:
            if not scope.cancel_called or trio.current_time() < due:
                return failed(error, limits)
        else:
            return _checked(returned, limits)
    if trio.current_time() < due:
        return Failed(FailureKind.ERROR, "cancelled by its own cancel scope before its timeout")
    return timed_out(timeout_ms)


def call_sync(function: Callable[..., Any], context: HookContext, limits: HookLimits) -> Outcome:
    """Call a sync handler in this thread. HOT."""
    try:
        returned = function(context)
    except _CAUGHT as error:
        return failed(error, limits)
    return _checked(returned, limits)


def timed_out(timeout_ms: int) -> Failed:
    """The failure of an async handler that was cancelled."""
    return Failed(FailureKind.TIMEOUT, f"cancelled at its timeout of {timeout_ms} ms")


def no_function(handler_id: str) -> Failed:
    """The failure when the modules changed on disk since the node read them."""
    error = f'no function "{handler_id}" in the modules as they are now'
    return Failed(FailureKind.ERROR, error)


def failed(error: BaseException, limits: HookLimits) -> Failed:
    """The failure of a handler that raised: the error, and where; of a group each error in it. It
    is final if the handler gave up and nothing else went wrong."""
    errors = list(_leaves(error))
    text = "; ".join(_described(each) for each in errors[:_ERRORS_SHOWN])
    final = all(isinstance(each, GiveUp) for each in errors)
    return Failed(FailureKind.ERROR, bounded(text, limits.error_bytes_max), final=final)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a nursery of the handler may have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _described(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    shown = frames[-_FRAMES_SHOWN:][::-1]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in shown)
    return f"{''.join(traceback.format_exception_only(error)).strip()} [{where}]"


def _checked(returned: object, limits: HookLimits) -> Outcome:
    try:
        return Succeeded(effects.check(returned, limits))
    except (TypeError, ValueError) as error:
        return Failed(FailureKind.ERROR, bounded(str(error), limits.error_bytes_max))
