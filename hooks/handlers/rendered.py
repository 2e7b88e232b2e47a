"""File handlers: a file of this node, rendered from the state that this node has applied.

It is written to another file beside it, synced, and renamed into its place: whoever reads it finds
the old or the new content, whole, also after a power failure. Content that did not change is not
written. It is rendered when the node starts and for each of the handler's events; the event only
says that something changed, the content is that of the newest state.

A path that is a symbolic link, or anything else than a plain file, is refused: replacing a link
would leave what it points to as it was, and following it would let somebody else choose the file.
"""

import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Any, Final

import trio

from hooks.configuration.definition import HandlerDefinition, HandlerType
from hooks.execution.attempt import Attempt, Failed, FailureKind, Outcome, Succeeded, bounded
from hooks.handlers.renderers import MEMBERS, Entry, render
from hooks.limits import DEFAULT_LIMITS, HookLimits
from hooks.ports import ClusterPort
from pubsub import groups

Aside = Callable[..., Awaitable[Any]]  # runs function(*arguments) where it may wait for a disk

Note = Callable[[str, str | None], None]  # a handler, and why it does not work here; None: it does

_LEFT_OUT_SHOWN: Final = 10


class TooMuch(Exception):
    """There is more than a file may be rendered from."""


class FileRunner:
    """Makes the attempts of file handlers; a `Runner`."""

    def __init__(
        self,
        port: ClusterPort,
        *,
        limits: HookLimits = DEFAULT_LIMITS,
        aside: Aside = trio.to_thread.run_sync,
    ) -> None:
        self._port = port
        self._limits = limits
        self._aside = aside
        self._turns: dict[str, trio.Lock] = {}  # by path: one writer at a time
        self._failing: dict[str, None] = {}  # handlers whose rendering at the start failed
        self._note: Note = lambda handler, problem: None
        self._told: dict[str, tuple[tuple[str, str], ...]] = {}  # by handler: what was left out

    async def start(self, handlers: Iterable[HandlerDefinition], note: Note) -> None:
        """Render the files of those handlers that are of this type: now, and of a handler that the
        cluster does not know yet once more when its place in the log begins. What changed before
        that is no event of it, what changes after is one.

        What fails has no event that would be tried again: it is a problem of its handler, and is
        rendered again after a while, until that or an event's attempt succeeds."""
        self._note = note
        files = [handler for handler in handlers if handler.type is HandlerType.FILE]
        new = [handler for handler in files if not self._has_place(handler)]
        for handler in files:
            await self._render_first(handler)
        applied = trio.Event()
        unwatch = self._port.watch_applied(lambda: applied.set())
        pause_s = self._limits.backoff_ms_max / 1000
        again_at = trio.current_time() + pause_s
        try:
            while new or self._failing:
                due = [handler for handler in new if self._has_place(handler)]
                new = [handler for handler in new if handler not in due]
                if trio.current_time() >= again_at:
                    again_at = trio.current_time() + pause_s
                    due += [h for h in files if h.name in self._failing and h not in due]
                for handler in due:
                    await self._render_first(handler)
                if not due:
                    with trio.move_on_at(again_at if self._failing else inf):
                        await applied.wait()
                    applied = trio.Event()
        finally:
            unwatch()

    def _has_place(self, handler: HandlerDefinition) -> bool:
        group = handler.group_of(self._port.node)
        return groups.describe(self._port.connection, group) is not None

    async def _render_first(self, handler: HandlerDefinition) -> None:
        outcome = await self.render(handler)
        if isinstance(outcome, Failed):
            if handler.name not in self._failing:
                self._port.log.error(
                    "file not rendered at the start", handler=handler.name, error=outcome.error
                )
            self._failing[handler.name] = None
            self._note(handler.name, f"not rendered at the start: {outcome.error}")

    async def execute(self, attempt: Attempt) -> Outcome:
        return await self.render(attempt.handler)

    async def render(self, handler: HandlerDefinition) -> Outcome:
        """Bring the file up to date."""
        path = str(handler.path)
        async with self._turns.setdefault(path, trio.Lock()):
            try:
                with trio.fail_after(handler.timeout_ms / 1000):
                    entries = await self._entries(handler)
            except TooMuch as problem:
                return self._failed(f"{path}: {problem}")
            except trio.TooSlowError:
                text = f"the state was not read within {handler.timeout_ms} ms"
                return Failed(FailureKind.TIMEOUT, text)
            rendering = render(handler, entries)
            content = rendering.content
            if len(content) > self._limits.rendered_bytes_max:
                most = self._limits.rendered_bytes_max
                return self._failed(f"{path}: {len(content)} bytes; at most {most}")
            arguments = (path, content, handler.mode, f"{self._port.node}.{handler.name}")
            try:
                written = await self._aside(replace_file, *arguments)
            except OSError as error:
                return self._failed(f"{path} cannot be written: {_reason(error)}")
        if handler.name in self._failing:
            del self._failing[handler.name]
            self._note(handler.name, None)
        self._tell(handler, rendering.left_out)
        done = f"{len(content)} bytes written" if written else "unchanged"
        said = [f"{done}, {rendering.entries} entries"]
        said += [f"left out: {name}: {reason}" for name, reason in rendering.left_out]
        return Succeeded(output=bounded("\n".join(said), self._limits.output_shown_bytes_max))

    async def _entries(self, handler: HandlerDefinition) -> Sequence[Entry]:
        if handler.source == MEMBERS:
            return [Entry(name, address.encode()) for name, address in self._port.members()]
        keys_max = self._limits.rendered_keys_max
        bytes_max = self._limits.rendered_bytes_max
        found = await self._port.read_prefix(handler.source, keys_max, bytes_max)
        if found is None:
            raise TooMuch(
                f'more than {keys_max} keys or {bytes_max} bytes below "{handler.source}"'
            )
        skipped = len(handler.source)
        return [Entry(key[skipped:], value) for key, value in found]

    def _tell(self, handler: HandlerDefinition, left_out: tuple[tuple[str, str], ...]) -> None:
        """Name what does not fit, once as long as it stays the same."""
        if left_out and self._told.get(handler.name) != left_out:
            shown = [f"{name}: {reason}" for name, reason in left_out[:_LEFT_OUT_SHOWN]]
            self._port.log.warning(
                "left out of a rendered file",
                handler=handler.name,
                count=len(left_out),
                entries="; ".join(shown),
            )
        self._told[handler.name] = left_out

    def _failed(self, text: str) -> Failed:
        return Failed(FailureKind.ERROR, bounded(text, self._limits.error_bytes_max))


def replace_file(path: str, content: bytes, mode: int, writer: str) -> bool:
    """Make `path` a file with this content and mode; returns False when it was one already.

    `writer` tells apart those who may write to one folder at a time. Raises OSError.
    """
    if _is_there(path, content, mode):
        return False
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.{writer.replace('/', '_')}.new")
    try:
        os.unlink(beside)  # of a writer that died
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    _sync_folder(folder or ".")
    return True


def _is_there(path: str, content: bytes, mode: int) -> bool:
    """Whether nothing is to be written; raises OSError for what must not be replaced."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(found.st_mode):
        raise OSError("it is a symbolic link: name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is there, and is no plain file")
    if found.st_size != len(content) or stat.S_IMODE(found.st_mode) != mode:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False  # not ours to read: replace it


def _sync_folder(folder: str) -> None:
    """Let the renaming itself survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
