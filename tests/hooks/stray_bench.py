"""A process of its own that adopts strays and runs commands, for test_strays: it prints one line of
JSON with what happened, and ends."""

import json
import os
import sys
from pathlib import Path

import trio

from hooks.handlers.shell import ShellRunner
from hooks.handlers.strays import Strays, adopt
from tests.hooks.waiting import is_alive, until
from tests.hooks.workbench import ListLog, attempt, definition

DAEMON = Path(__file__).parents[1] / "real" / "daemon.py"


async def main(folder: Path) -> None:
    """Two commands: one lets a daemon loose and ends, the other began before and takes longer."""
    log = ListLog()
    strays = Strays(log)
    assert adopt()
    runner = ShellRunner(dict(os.environ), log, spawn=strays.spawn)
    note, go_on = folder / "daemon", folder / "go-on"
    slow = definition(
        name="slow", type="shell", shell=True, timeout_ms=30_000,
        command=f"echo > {folder}/began; while [ ! -e {go_on} ]; do sleep 0.05; done",
    )  # fmt: skip
    quick = definition(name="quick", type="shell", command=[sys.executable, str(DAEMON), str(note)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strays.run)
        async with trio.open_nursery() as commands:
            commands.start_soon(runner.execute, attempt(slow))
            await until((folder / "began").exists)
            outcome = await runner.execute(attempt(quick))
            await until(lambda: note.exists() and note.read_text())
            pid = int(note.read_text())
            await until(lambda: strays.known)
            spared = is_alive(pid)
            go_on.touch()
        await until(lambda: not is_alive(pid))
        await until(lambda: not strays.known)  # buried
        children = [
            pid for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == os.getpid()
        ]
        nursery.cancel_scope.cancel()
    told = [fields for _, message, fields in log.lines if "left behind" in message]
    report = {
        "outcome": type(outcome).__name__,
        "spared": spared,
        "killed": strays.killed,
        "handlers": [fields["handler"] for fields in told],
        "children": children,
    }
    print(json.dumps(report))


def parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
