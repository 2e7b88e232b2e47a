"""File handlers on a real file system: whole files, at the right times, or an error that helps."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hooks.execution.attempt import Failed, Outcome, Succeeded
from hooks.handlers.rendered import FileRunner
from hooks.limits import HookLimits
from tests.hooks.fake_cluster import FakeCluster, FakePort
from tests.hooks.waiting import until
from tests.hooks.workbench import attempt, definition

HEAD = "# Made by the handler h: changes are overwritten.\n"


class Bench:
    """A file handler with its cluster, its log and its file."""

    def __init__(self, folder: Path, limits: HookLimits | None = None, **keys: Any) -> None:
        self.path = folder / "made"
        self.cluster = FakeCluster()
        self.port = FakePort(self.cluster, "a")
        self.handler = definition(type="file", **{"path": str(self.path), **keys})
        self.runner = FileRunner(self.port, limits=limits or HookLimits())

    def begin(self) -> None:
        """The cluster knows the handler: its place in the log begins."""
        group = self.handler.group_of("a")
        self.cluster.do("group.define", group, self.handler.pattern.text, 1, "latest", 0)

    async def run(self) -> Outcome:
        return await self.runner.execute(attempt(self.handler))

    @property
    def text(self) -> str:
        return self.path.read_text()


def nobody(handler: str, problem: str | None) -> None:
    raise AssertionError(f"{handler}: {problem}")


def error_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.error


async def test_it_is_rendered_at_the_start_and_with_each_change(tmp_path: Path) -> None:
    """From the newest state each time, whatever the event was."""
    bench = Bench(tmp_path)
    bench.begin()
    await bench.runner.start([bench.handler, definition(name="other")], nobody)
    assert bench.text == HEAD + "10.0.0.1\ta\n10.0.0.2\tb\n"
    bench.cluster.members.append(("c", "10.0.0.3:7471"))
    outcome = await bench.run()
    assert isinstance(outcome, Succeeded)
    assert "3 entries" in outcome.output
    assert bench.text.endswith("10.0.0.3\tc\n")
    bench.cluster.members.clear()
    await bench.run()
    assert bench.text == HEAD


async def test_nothing_is_missed_before_a_new_handler_has_its_place(tmp_path: Path) -> None:
    """What changes after the first rendering and before its events begin is rendered then."""
    bench = Bench(tmp_path, source="hosts/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.runner.start, [bench.handler], nobody)
        await until(bench.path.exists)
        bench.cluster.put("hosts/early", b"10.0.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert "early" not in bench.text
        bench.begin()
        await until(lambda: "early" in bench.text)
    # and it is over: from now on its events say what changes


async def test_keys_below_a_prefix_are_its_source(tmp_path: Path) -> None:
    """Their names begin behind the prefix; other keys do not matter."""
    bench = Bench(tmp_path, source="hosts/")
    bench.cluster.put("hosts/web", b"10.1.0.1")
    bench.cluster.put("host", b"10.9.9.9")
    assert isinstance(await bench.run(), Succeeded)
    assert bench.text == HEAD + "10.1.0.1\tweb\n"


async def test_what_does_not_fit_is_left_out_and_named_once(tmp_path: Path) -> None:
    """The attempt succeeds and says what is missing; the log says it once as long as it lasts."""
    bench = Bench(tmp_path, source="hosts/")
    bench.cluster.put("hosts/web", b"10.1.0.1")
    bench.cluster.put("hosts/bad", b"\xff")
    for _ in range(2):
        outcome = await bench.run()
        assert isinstance(outcome, Succeeded)
        assert "left out: bad: its value is not text" in outcome.output
    assert bench.port.log.messages("warning") == ["left out of a rendered file"]
    bench.cluster.put("hosts/bad", b"10.1.0.2")
    await bench.run()
    assert bench.text.count("\n") == 3


async def test_an_unchanged_file_is_not_written(tmp_path: Path) -> None:
    """The file stays the same one; a change made by somebody else, or another mode, is undone."""
    bench = Bench(tmp_path, mode=0o640)
    await bench.run()
    first = bench.path.stat()
    assert first.st_mode & 0o777 == 0o640
    outcome = await bench.run()
    assert isinstance(outcome, Succeeded)
    assert "unchanged" in outcome.output
    assert bench.path.stat().st_ino == first.st_ino
    right = bench.text
    bench.path.write_text(right.replace("a", "x"))
    await bench.run()
    assert bench.text == right
    bench.path.chmod(0o600)
    await bench.run()
    assert bench.path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["made"]


async def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While it is rewritten hundreds of times, each reading is one of the whole contents."""
    bench = Bench(tmp_path, source="hosts/")
    whole: set[bytes] = set()
    readings: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            readings.append(bench.path.read_bytes())

    for number in range(400):
        bench.cluster.put(f"hosts/{number:04}", b"10.0.0.1")
    await bench.run()
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(150):
            bench.cluster.put("hosts/0000", b"10.0.1.%d" % number)
            whole.add(bench.path.read_bytes())
            assert isinstance(await bench.run(), Succeeded)
    finally:
        stop.set()
        await trio.to_thread.run_sync(reader.join)
    whole.add(bench.path.read_bytes())
    torn = [content for content in readings if content not in whole]
    assert torn == []
    assert len(set(readings)) > 1, "the reader saw it change"


async def test_what_a_dead_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    """The file beside it is made anew, also where somebody put a link in its place."""
    bench = Bench(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".made.a.h.new").symlink_to(victim)
    assert isinstance(await bench.run(), Succeeded)
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["made", "victim"]


async def test_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    """Neither is replaced or followed, and the error says what to do."""
    bench = Bench(tmp_path)
    target = tmp_path / "target"
    target.write_text("precious")
    bench.path.symlink_to(target)
    assert "symbolic link: name the file itself" in error_of(await bench.run())
    assert target.read_text() == "precious"
    assert bench.path.is_symlink()
    bench.path.unlink()
    bench.path.mkdir()
    assert "no plain file" in error_of(await bench.run())
    assert sorted(os.listdir(tmp_path)) == ["made", "target"]


@pytest.mark.parametrize("path", ["/no/such/folder/hosts", "/proc/hosts"])
async def test_a_folder_that_takes_no_file_fails_the_attempt(tmp_path: Path, path: str) -> None:
    """With the path and the system's reason."""
    bench = Bench(tmp_path, path=path)
    bench.begin()
    error = error_of(await bench.run())
    assert error.startswith(f"{path} cannot be written: ")


@pytest.mark.parametrize("by_event", [True, False])
async def test_a_start_that_fails_is_a_problem_until_the_file_is_there(
    tmp_path: Path, by_event: bool
) -> None:
    """It is rendered again after a while, or by an event; the log says it once."""
    folder = tmp_path / "later"
    pause_ms = 60_000 if by_event else 20
    limits = HookLimits(backoff_ms_max=pause_ms, backoff_first_ms=1)
    bench = Bench(tmp_path, limits, path=str(folder / "made"))
    noted: list[tuple[str, str | None]] = []

    def note(name: str, problem: str | None) -> None:
        noted.append((name, problem))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runner.start, [bench.handler], note)
            await until(lambda: len(noted) > (not by_event))
            bench.begin()
            folder.mkdir()
            if by_event:
                await bench.run()
            await until(lambda: noted[-1] == ("h", None))
            assert (folder / "made").read_text().startswith(HEAD)
            nursery.cancel_scope.cancel()
    assert noted[0] == (
        "h",
        f"not rendered at the start: {folder}/made cannot be written: No such file or directory",
    )
    assert bench.port.log.messages("error") == ["file not rendered at the start"]


async def test_too_much_keeps_the_file_as_it_was(tmp_path: Path) -> None:
    """More keys or bytes than the limits fail the attempt; half of them would be a wrong file."""
    limits = HookLimits(rendered_keys_max=3, rendered_bytes_max=200)
    bench = Bench(tmp_path, limits, source="hosts/")
    bench.cluster.put("hosts/0", b"10.0.0.1")
    await bench.run()
    before = bench.text
    for number in range(4):
        bench.cluster.put(f"hosts/{number}", b"10.0.0.2")
    assert "more than 3 keys" in error_of(await bench.run())
    assert bench.text == before
