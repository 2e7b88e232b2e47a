"""Reading the node's file again, and running what its [hooks] say in the place of what runs.

On SIGHUP, and when a file that the hooks are made from has changed: the node's own, those of the
hooks directory, the modules. What cannot be loaded changes nothing; what stands the same does
nothing; of the other sections it is only said that they need a restart. Each attempt is told by the
log and by an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from cluster.config import ConfigError, NodeConfig, load, located
from hooks.configuration.definition import HandlerDefinition
from hooks.execution import watched
from hooks.execution.runtime import HookRuntime, HooksRefused
from hooks.execution.watched import Stamp
from hooks.handlers.host import HostNotStarted

if TYPE_CHECKING:
    from cluster.node import Node

SECTIONS: Final = ("node", "cluster", "listen", "tls", "raft", "limits", "log")
"""Those of a node's file that count only from its next start on."""


class _Files(NamedTuple):
    """What the files were like when they were looked at."""

    stamps: Mapping[str, Stamp]
    contents: Mapping[str, bytes | None]


class HookReload:
    """Reloads the hooks of one node; one reload at a time."""

    def __init__(self, node: Node, runtime: HookRuntime) -> None:
        self._node = node
        self._runtime = runtime
        self._asked = trio.Event()
        self._known = _Files({}, {})
        self._began_ns = node.wall_ms() * 1_000_000

    def ask(self) -> None:
        """Read the files again now, as far as they have changed."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        if self._node.config.file is None or self._runtime.is_inline:
            return  # what runs came from no file
        self._known = await self._loaded()
        while True:
            await self._wait()
            stamps = await self._look()
            contents = await self._read(stamps)
            if contents == self._known.contents:
                self._known = _Files(stamps, contents)
                self._node.log.info("reload: nothing has changed")
                continue
            before = _Files(stamps, contents)
            await self._reload(_changed_files(self._known.contents, contents))
            # other files may count now; what changes from here on is seen against these
            after = await self._look()
            read = await self._read([path for path in after if path not in before.contents])
            self._known = _Files(
                {path: before.stamps.get(path, stamp) for path, stamp in after.items()},
                {path: before.contents.get(path, read.get(path)) for path in after},
            )

    async def _loaded(self) -> _Files:
        """What the node has started with. A file that was written meanwhile may have been read
        before that: it counts as changed."""
        stamps = await self._look()
        settled = [path for path, stamp in stamps.items() if stamp.changed_ns < self._began_ns]
        return _Files({path: stamps[path] for path in settled}, await self._read(settled))

    async def _wait(self) -> None:
        """Until somebody asks, or files have changed and are the same at two looks in a row: who
        writes several files, or one in pieces, is not caught in the middle."""
        pause_s = self._node.config.limits.hooks.watch_poll_ms / 1000
        last: Mapping[str, Stamp] = self._known.stamps
        while True:
            timeout = pause_s if self._runtime.config.watch_files else float("inf")
            with trio.move_on_after(timeout):
                await self._asked.wait()
            if self._asked.is_set():
                self._asked = trio.Event()
                return
            stamps = await self._look()
            if stamps == last and stamps != self._known.stamps:
                return
            last = stamps

    async def _look(self) -> Mapping[str, Stamp]:
        runtime = self._runtime
        files = [str(self._node.config.file), *(runtime.host.files if runtime.host else ())]
        directory = runtime.config.directory if runtime.config.enabled else None
        return await self._node.blocking(watched.stamps, files, directory)

    async def _read(self, paths: Mapping[str, Stamp] | list[str]) -> Mapping[str, bytes | None]:
        return await self._node.blocking(watched.contents, list(paths))

    async def _reload(self, files: list[str]) -> None:
        """Run what the files say now, or say why not."""
        log, runtime = self._node.log, self._runtime
        log.info("reloading", files=files)
        path = self._node.config.file
        assert path is not None, "there is nothing to reload otherwise"
        before = _definitions(runtime)
        is_loaded = False
        try:
            config = load(path, self._node.environment)
            await runtime.reload(config.hooks)
            is_loaded = True
            if self._node.reporting is not None:
                self._node.reporting.seed_capture(config.hooks.capture)
            problems = self._need_restart(config)
        except ConfigError as error:
            problems = [str(each) for each in error.problems]
        except HooksRefused as error:
            problems = [str(each) for each in located(path, error.problems).problems]
        except HostNotStarted as error:
            problems = [str(error)]
        changes = _changed_handlers(before, _definitions(runtime)) if is_loaded else []
        for problem in problems:
            log.error("not reloaded", reason=problem)
        if is_loaded:
            log.info("reloaded", changes=changes or ["code"])
        else:
            log.error("reload refused: everything goes on as before")
        if self._node.reporting is not None:
            self._node.reporting.config_reloaded(is_loaded, changes or files, problems)

    def _need_restart(self, config: NodeConfig) -> list[str]:
        started = self._node.config
        return [
            f"[{section}] has changed and needs a restart"
            for section in SECTIONS
            if getattr(config, section) != getattr(started, section)
        ]


def _definitions(runtime: HookRuntime) -> dict[str, HandlerDefinition]:
    service = runtime.service
    return {} if service is None else {each.name: each for each in service.handlers}


def _changed_handlers(
    before: Mapping[str, HandlerDefinition], after: Mapping[str, HandlerDefinition]
) -> list[str]:
    """What a reload did to the handlers, one text each."""
    names = sorted({*before, *after})
    return [
        f"handler {name} {_change(before.get(name), after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _change(before: HandlerDefinition | None, after: HandlerDefinition | None) -> str:
    if before is None:
        return "added"
    return "removed" if after is None else "changed"


def _changed_files(
    before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]
) -> list[str]:
    return [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
