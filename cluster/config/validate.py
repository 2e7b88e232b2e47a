"""Checking hooks before a node has them: a node's file, a file of handlers, a folder, a module.

What is checked is what a node does at its start, by the same code: files are parsed, Python code is
imported by a handler host of its own, which is given its time and then killed, so that nothing of
the user's code ever runs in the process that asks.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import tomli

from cluster.config.load import ANY_NODE, FILE_BYTES_MAX, NOTHING, load, located
from cluster.config.models import NodeConfig
from cluster.config.problems import ConfigError, Located
from hooks.configuration.assembly import as_problem, assemble
from hooks.configuration.config import CodeSources, HooksConfig, LoadProblem, RegisteredFunction
from hooks.configuration.definition import Problem
from hooks.configuration.discovery import Directory, read_directory, read_handlers_file
from hooks.handlers import frames
from hooks.limits import DEFAULT_LIMITS, HookLimits


class _Code(NamedTuple):
    functions: tuple[RegisteredFunction, ...] = ()
    problems: tuple[LoadProblem, ...] = ()


def validate_path(path: Path, environment: Mapping[str, str]) -> list[Located]:
    """Everything that is wrong with what `path` names; empty when a node would take all of it.

    A folder is taken for the `directory` of [hooks], a *.py file for a module of it, a file with
    [[handlers]] for one of its files. Any other file is one of a node, or its [hooks] alone (as for
    `cluster dev --hooks`); `environment` overrides keys of it as at the start of a node. Blocks as
    long as imports take, at most `host_start_ms_max`.
    """
    if path.is_dir():
        folder = str(path.absolute())
        return _alone(HooksConfig(directory=folder), read_directory(folder), environment)
    if path.suffix == ".py":
        file = str(path.absolute())
        return _alone(HooksConfig(directory=file), Directory(modules=(file,)), environment)
    table = _table(path)
    if "handlers" in table and "node" not in table:
        listing = Directory(tables=(read_handlers_file(path),))
        return _alone(HooksConfig(), listing, environment)
    try:
        config = load(path, environment, NOTHING if "node" in table else ANY_NODE)
    except ConfigError as error:
        return list(error.problems)
    return validate_hooks(path, config, environment)


def validate_hooks(path: Path, config: NodeConfig, environment: Mapping[str, str]) -> list[Located]:
    """What is wrong with what the [hooks] of a node's file name: its directory, its code."""
    hooks, limits = config.hooks, config.limits.hooks
    listing = read_directory(hooks.directory, limits)
    found = _problems(hooks, listing, environment, (str(config.folder),), limits)
    inside = [as_problem(problem) for problem in found if problem.path]
    outside = [_located(problem) for problem in found if not problem.path]
    return [*located(path, inside).problems, *outside]


def _table(path: Path) -> Mapping[str, object]:
    """What stands in a file, to see what kind it is; its problems are told by who reads it then."""
    try:
        with path.open("rb") as file:
            return tomli.loads(file.read(FILE_BYTES_MAX).decode())
    except (OSError, ValueError, RecursionError):
        return {"node": {}}


def _alone(
    config: HooksConfig, listing: Directory, environment: Mapping[str, str]
) -> list[Located]:
    """What the others of a node would bring along is not missing, unless a name is nearly right."""
    found = _problems(config, listing, environment, (), DEFAULT_LIMITS)
    return [_located(problem) for problem in found if problem.suggestion or not problem.elsewhere]


def _problems(
    config: HooksConfig,
    listing: Directory,
    environment: Mapping[str, str],
    paths: Sequence[str],
    limits: HookLimits,
) -> tuple[LoadProblem, ...]:
    sources = CodeSources(config.modules, listing.modules, config.entry_points)
    code = _import(sources, environment, paths, limits) if any(sources) else _Code()
    problems = [*listing.problems, *code.problems]
    return assemble(config, code.functions, listing.tables, problems, limits).problems


def _located(problem: LoadProblem) -> Located:
    """With its place, and with the name of what it is about where the place does not say that."""
    place = problem.place or problem.name
    file, _, line = place.rpartition(":")
    says_all = place == problem.name or (file == problem.name and line.isdigit())
    text = problem.text.replace(f"{problem.name}:", "line ") if says_all else problem.text
    named = Problem(() if says_all else (problem.name,), text, problem.suggestion)
    return Located(place, named)


def _import(
    sources: CodeSources,
    environment: Mapping[str, str],
    paths: Sequence[str],
    limits: HookLimits,
) -> _Code:
    """What a handler host says of these sources before it would begin to serve."""
    settings = {
        "sources": list(sources), "paths": list(paths), "limits": asdict(limits), "client": None,
    }  # fmt: skip
    host = subprocess.Popen(
        [sys.executable, "-P", "-m", "hooks.handlers.host_main"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what modules print is for the log of a node
        start_new_session=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with host:
        try:
            start = frames.pack(frames.START, frames.VERSION, settings)
            output, _ = host.communicate(start, timeout=limits.host_start_ms_max / 1000)
        except subprocess.TimeoutExpired as expired:
            text = f"did not load in {limits.host_start_ms_max} ms"
            return _answer(expired.output or b"", limits, text)
        finally:
            # The group outlives its leader where a module started something.
            try:
                os.killpg(host.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    return _answer(output, limits, "the process in which it was imported ended")


def _answer(output: bytes, limits: HookLimits, otherwise: str) -> _Code:
    """What the host said; `otherwise` is what is wrong with what it was at, if it said no more."""
    try:
        messages = list(frames.FrameReader(limits.host_frame_bytes_max).feed(output))
    except ValueError as error:
        return _broken(f"the handler host sent rubbish: {error}")
    loading = "Python code"
    for message in messages:
        if message[0] == frames.LOADING:
            loading = str(message[1])
        if message[0] == frames.REFUSED:
            return _broken(str(message[1]))
        if message[0] == frames.READY:
            functions = [
                RegisteredFunction(
                    handler_id=each[0], where=each[1], pattern=each[2], options=each[3]
                )
                for each in message[1]
            ]
            problems = [
                LoadProblem(name=name, text=text, suggestion=suggestion)
                for name, text, suggestion in message[2]
            ]
            return _Code(tuple(functions), tuple(problems))
    return _broken(otherwise, loading)


def _broken(text: str, name: str = "Python code") -> _Code:
    return _Code(problems=(LoadProblem(name=name, text=text),))
