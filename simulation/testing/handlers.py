"""The user's hooks on simulated nodes: modules that each life of a node loads anew, and a record
of every attempt.

In production the handlers of a node live in a process that dies with it. Here all nodes share one
process, so that what a module keeps in its globals would survive every crash and be known on all
nodes. Each life therefore executes the modules again and runs the functions of its own copies.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any, cast

import trio

from hooks.configuration.config import HooksConfig, with_registered
from hooks.configuration.definition import HandlerDefinition
from hooks.execution.attempt import Function
from hooks.handlers.inprocess import is_async
from hooks.registry import HookContext, Registry
from pubsub.topics import closest
from simulation.node.machine import Died, Machine

HookSource = ModuleType | str | Callable[..., Any]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of a handler at an event, on one node. Seconds are virtual."""

    handler: str
    node: str
    revision: int
    key: str | None
    number: int
    began_s: float
    ended_s: float | None = None
    outcome: str = "running"

    @property
    def is_running(self) -> bool:
        return self.ended_s is None

    def __str__(self) -> str:
        return (
            f"{self.began_s:.3f} s: {self.handler}, attempt {self.number} on {self.node}: "
            f"{self.outcome}"
        )


class HookModules:
    """What a test names as its hooks, checked."""

    def __init__(
        self,
        hooks: Sequence[HookSource],
        outside: Mapping[str, object],
        reload: Sequence[ModuleType] = (),
    ) -> None:
        """Modules, names of modules, or single functions; raises what is wrong with them."""
        if isinstance(hooks, ModuleType | str) or not isinstance(hooks, Sequence):
            name = getattr(hooks, "__name__", hooks)
            raise TypeError(f"hooks={name}: a list is expected, as in hooks=[{name}]")
        self._modules: list[ModuleType] = []
        self._functions: list[Function] = []
        for hook in hooks:
            module = importlib.import_module(hook) if isinstance(hook, str) else hook
            if isinstance(module, ModuleType):
                self._modules.append(module)
            else:
                self._functions.append(module)
        self._imported = [module for module in reload if module not in self._modules]
        self._outside = tuple(outside)
        self._check()
        registry = self.load(outside)
        definitions, problems = with_registered(HooksConfig(), registry.found)
        if problems:
            raise ValueError("hooks: " + "; ".join(map(str, problems)))
        self.definitions: list[HandlerDefinition] = [d for d in definitions if d.enabled]

    def _check(self) -> None:
        for module in self._modules:
            if not Registry().collect([module]).found:
                raise ValueError(f"hooks: module {module.__name__} has no function with @hook")
        for module in (*self._imported, *self._modules):
            if module.__spec__ is None or module.__spec__.loader is None:
                raise ValueError(
                    f"module {module.__name__} was not imported from a file, so that no "
                    "node can load a copy of its own"
                )
        for function in self._functions:
            try:
                Registry().add(function)
            except AttributeError:
                name = getattr(function, "__name__", repr(function))
                raise ValueError(f"hooks: {name} is no function with @hook") from None
        if not self._modules and not self._functions:
            raise ValueError("hooks: nothing is in the list")
        modules = [*self._imported, *self._modules]
        names = {name for module in modules for name in vars(module)}
        for name in self._outside:
            if name not in names:
                nearest = closest(name, [known for known in names if not known.startswith("__")])
                meant = f' (did you mean "{nearest}"?)' if nearest else ""
                raise ValueError(f'outside: no module of hooks has the name "{name}"{meant}')

    def load(self, outside: Mapping[str, object]) -> Registry:
        """Copies of the modules for one life, with `outside` in the place of their own names."""
        registry = Registry()
        with _loading([*self._imported, *self._modules]) as copies:
            for module, copy in copies:
                assert module.__spec__ is not None, "checked"
                assert module.__spec__.loader is not None, "checked"
                module.__spec__.loader.exec_module(copy)
                for name, value in outside.items():
                    if hasattr(copy, name):
                        setattr(copy, name, value)
                if module in self._modules:
                    registry.collect([copy])
        for function in self._functions:
            registry.add(function)
        return registry


@contextmanager
def _loading(modules: Sequence[ModuleType]) -> Iterator[Iterator[tuple[ModuleType, ModuleType]]]:
    """Each module with an empty copy, which takes its place among the imported ones meanwhile: a
    module that imports one before it in the list gets the copy."""

    def copies() -> Iterator[tuple[ModuleType, ModuleType]]:
        for module in modules:
            assert module.__spec__ is not None, "checked"
            copy = module_from_spec(module.__spec__)
            _place(module.__name__, copy)
            yield module, copy

    originals = {module.__name__: sys.modules.get(module.__name__) for module in modules}
    try:
        yield copies()
    finally:
        for name, original in originals.items():
            _place(name, original)


def _place(name: str, module: ModuleType | None) -> None:
    """What an import of this name gives, also as an attribute of its package."""
    if module is None:
        sys.modules.pop(name, None)
        return
    sys.modules[name] = module
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], last, module)


class Attempts:
    """Every attempt of a run."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self.all: list[Attempt] = []
        self._note = note

    def watch(self, registry: Registry, machine: Machine) -> Registry:
        """Let the handlers of one life be recorded, and none begin once its node is dead."""
        for handler_id, function in registry.functions.items():
            watch = self._watch_async if is_async(function) else self._watch_sync
            registry.functions[handler_id] = watch(function, machine)
        return registry

    def _watch_async(self, function: Function, machine: Machine) -> Function:
        async def handler(context: HookContext) -> object:
            with self._recorded(context, machine):
                return await cast(Awaitable[object], function(context))

        return handler

    def _watch_sync(self, function: Function, machine: Machine) -> Function:
        def handler(context: HookContext) -> object:
            with self._recorded(context, machine):
                return function(context)

        return cast(Function, handler)

    @contextmanager
    def _recorded(self, context: HookContext, machine: Machine) -> Iterator[None]:
        if not machine.is_connected:
            raise Died
        attempt = Attempt(
            handler=context.handler,
            node=machine.name,
            revision=context.revision,
            key=context.key,
            number=context.attempt,
            began_s=trio.current_time(),
        )
        self.all.append(attempt)
        self._note(machine.name, f"{attempt.revision}: {attempt.handler}")
        try:
            yield
        except BaseException as problem:
            self._end(attempt, machine, _how(problem))
            raise
        self._end(attempt, machine, "returned")

    def _end(self, attempt: Attempt, machine: Machine, outcome: str) -> None:
        attempt.ended_s = trio.current_time()
        attempt.outcome = outcome if machine.is_connected else f"{machine.name} died in it"
        if machine.is_connected:
            self._note(machine.name, f"{attempt.revision}: {outcome}")


def _how(problem: BaseException) -> str:
    if isinstance(problem, trio.Cancelled):
        return "stopped (timeout, or its partition was lost)"
    text = f"{type(problem).__name__}: {problem}"
    return f"raised {text}" if len(text) < 200 else f"raised {text[:200]}..."
