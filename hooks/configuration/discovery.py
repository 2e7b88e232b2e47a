"""Finding handlers: modules, the files of the directory, installed entry points.

`load_code` imports Python code, so it runs where that may do no harm: in the handler host, in a
program that embeds a node, or in the process that validates. `read_directory` only reads files and
runs in the node. Neither raises for what is wrong with what it finds: each finding becomes a
`LoadProblem`, and the rest is loaded.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple, cast

import tomli

from hooks.configuration.assembly import HandlersFile, handlers_file
from hooks.configuration.locate import key_lines, line_of
from hooks.configuration.sections import (
    ENTRY_POINT,
    ENTRY_POINTS_GROUP,
    CodeSources,
    LoadProblem,
)
from hooks.execution.attempt import Function, bounded
from hooks.limits import DEFAULT_LIMITS, PROBLEM_BYTES_MAX, HookLimits
from hooks.registry import Registry, is_marked, marked
from pubsub.topics import closest

FILE_BYTES_MAX: Final = 1 << 20  # as of a node's file: a megabyte of handlers is some other file
_FILES_PACKAGE: Final = (
    "tremula_hooks_directory"  # no file can take the place of an installed module
)
_TEXT_BYTES_MAX: Final = PROBLEM_BYTES_MAX // 2  # its name and its path come before it
_FRAMES_SHOWN: Final = 2
_FILES_MAX: Final = 1_000  # that are watched
_INSTALLED: Final = (sys.prefix, sys.base_prefix)


class FoundCode(NamedTuple):
    """What `load_code` found."""

    registry: Registry
    problems: list[LoadProblem]
    files: list[str]  # whose change may change what is found, also those that do not load


class Directory(NamedTuple):
    """What is in the directory, in the order of the names."""

    modules: tuple[str, ...] = ()  # paths of *.py
    tables: tuple[HandlersFile, ...] = ()  # what stands in the *.toml
    problems: tuple[LoadProblem, ...] = ()


def load_code(
    sources: CodeSources,
    registry: Registry | None = None,
    on_load: Callable[[str], None] = lambda name: None,
) -> FoundCode:
    """Import everything that `sources` names, in their order, and collect its @hook functions;
    `on_load` is told the name of each before its code runs, for the case that it never ends."""
    found = FoundCode(Registry() if registry is None else registry, [], [])
    known = set(sys.modules)
    points = _entry_points(found, sources.entry_points)
    for name in sources.modules:
        on_load(name)
        _attempt(found, name, partial(importlib.import_module, name))
    for path in sources.files:
        on_load(path)
        _attempt(found, path, partial(_import_file, Path(path)))
    for point in points:
        on_load(ENTRY_POINT + point.name)
        _attempt(found, ENTRY_POINT + point.name, point.load)
    named = [*sources.modules, *(point.module for point in points)]
    files = [file for name in named if (file := _file_of(name)) is not None]
    files += [*sources.files, *_files_of(set(sys.modules) - known)]
    found.files.extend(list(dict.fromkeys(files))[:_FILES_MAX])
    return found


def read_directory(directory: str | None, limits: HookLimits = DEFAULT_LIMITS) -> Directory:
    """The files of `[hooks] directory`. Those that begin with "_" or "." are left alone: modules
    may import them."""
    if directory is None:
        return Directory()
    try:
        paths = sorted(path for path in Path(directory).iterdir() if path.name[0] not in "._")
    except OSError as error:
        text = f"the directory cannot be read: {error.strerror}"
        return Directory(problems=(LoadProblem(name=directory, text=text),))
    modules = [path for path in paths if path.suffix == ".py"]
    tables = [path for path in paths if path.suffix == ".toml"]
    problems: list[LoadProblem] = []
    if len(modules) + len(tables) > limits.directory_files_max:
        text = f"{len(modules) + len(tables)} files; at most {limits.directory_files_max}"
        problems.append(LoadProblem(name=directory, text=text))
        modules, tables = [], []
    return Directory(
        tuple(map(str, modules)),
        tuple(read_handlers_file(path, limits) for path in tables),
        tuple(problems),
    )


def read_handlers_file(path: Path, limits: HookLimits = DEFAULT_LIMITS) -> HandlersFile:
    """One *.toml file with [[handlers]] (or [[hooks.handlers]], as in a node's file)."""
    if path.exists() and not path.is_file():
        return _unreadable(path, "is no plain file")  # to open a pipe would wait for its writer
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            return _unreadable(path, f"is larger than {FILE_BYTES_MAX} bytes")
        text = data.decode()
        table = tomli.loads(text)
    except OSError as error:
        return _unreadable(path, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return _unreadable(path, f"is not UTF-8 text (byte {error.start})")
    except tomli.TOMLDecodeError as error:
        return _unreadable(path, f"is not TOML: {error.msg}", f"{path}:{error.lineno}")
    except RecursionError:
        return _unreadable(path, "is nested too deeply")
    lines = key_lines(text)

    def place(where: tuple[str | int, ...]) -> str:
        line = line_of(lines, where)
        return f"{path}:{line}" if line else str(path)

    return handlers_file(str(path), table, place, limits)


def _unreadable(path: Path, text: str, place: str = "") -> HandlersFile:
    return HandlersFile(str(path), (), (LoadProblem(name=str(path), text=text, place=place),))


def _import_file(path: Path) -> ModuleType:
    """A file of the directory as a module of its own package, whatever else has its name."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for the files beside it that begin with "_"
    if _FILES_PACKAGE not in sys.modules:
        sys.modules[_FILES_PACKAGE] = ModuleType(_FILES_PACKAGE)
    name = f"{_FILES_PACKAGE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _entry_points(found: FoundCode, wanted: bool | tuple[str, ...]) -> list[EntryPoint]:
    if wanted is False:
        return []
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS_GROUP)}
    if wanted is True:
        return [installed[name] for name in sorted(installed)]
    for name in wanted:
        if name not in installed:
            text = f'nothing that is installed has it in the group "{ENTRY_POINTS_GROUP}"'
            found.problems.append(
                LoadProblem(name=ENTRY_POINT + name, text=text, suggestion=closest(name, installed))
            )
    return [installed[name] for name in wanted if name in installed]


def _attempt(found: FoundCode, name: str, load: Callable[[], object]) -> None:
    """Import one thing; whatever it raises is its problem, also an attempt to leave."""
    try:
        loaded = load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        found.problems.append(LoadProblem(name=name, text=_reason(error)))
        return
    if isinstance(loaded, ModuleType):
        of = Path(name).name if loaded.__name__.startswith(_FILES_PACKAGE) else loaded.__name__
        functions = [(f"{of}:{each}", value) for each, value in marked(loaded)]
        text = "has no function with @hook"
    else:
        functions = [(name, cast(Function, loaded))] if is_marked(loaded) else []
        text = "is neither a module nor a function with @hook"
    if not functions:
        found.problems.append(LoadProblem(name=name, text=text))
    for where, function in functions:
        try:
            found.registry.add(function, where)
        except ValueError as error:
            found.problems.append(LoadProblem(name=name, text=str(error)))


def _reason(error: BaseException) -> str:
    """What was raised, and where in the code of the user."""
    if isinstance(error, SyntaxError):
        return bounded(f"{type(error).__name__}: {error}", _TEXT_BYTES_MAX)  # on one line
    stack = traceback.extract_tb(error.__traceback__)
    frames = [f for f in stack if "importlib" not in f.filename and f.filename != __file__]
    where = " < ".join(
        f"{f.filename}:{f.lineno} {f.name}" for f in frames[: -_FRAMES_SHOWN - 1 : -1]
    )
    text = "".join(traceback.format_exception_only(error)).strip()
    return bounded(f"{text} [{where}]" if where else text, _TEXT_BYTES_MAX)


def _file_of(name: str) -> str | None:
    """The file of a module that did not load, as far as one can know without loading it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _files_of(names: Iterable[str]) -> Iterator[str]:
    """The files of imported modules that are the user's own: not the interpreter's, not ours."""
    for name in sorted(names):
        path = getattr(sys.modules.get(name), "__file__", None)
        if (
            isinstance(path, str)
            and not path.startswith(_INSTALLED)
            and "site-packages" not in path
        ):
            yield path
