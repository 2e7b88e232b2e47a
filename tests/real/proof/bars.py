"""Progress of the proof's phases: bars on a terminal, one line per finished phase elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """One phase of known length; `done` may be set as often as one likes."""

    def __init__(self, bars: Bars, name: str, total: float) -> None:
        self.name = name
        self._bars = bars
        self._total = total
        self._began = trio.current_time()
        self._task = bars.progress.add_task(name, total=total) if bars.progress else None

    def show(self, done: float) -> None:
        if self._bars.progress and self._task is not None:
            self._bars.progress.update(self._task, completed=min(done, self._total))

    def finish(self) -> None:
        self.show(self._total)
        if self._bars.progress is None:
            seconds = trio.current_time() - self._began
            self._bars.console.print(f"{self.name}: done in {seconds:.1f} s", highlight=False)


class Bars:
    """Where the phases are shown."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self.console = console
        self.progress = progress

    @contextmanager
    def phase(self, name: str, total: float = 1.0) -> Iterator[Bar]:
        """A phase; it counts as finished when the block is left without an error."""
        bar = Bar(self, name, total)
        yield bar
        bar.finish()

    def say(self, text: str) -> None:
        """A line above the bars: something happened."""
        self.console.print(text, highlight=False)


@contextmanager
def open_bars(console: Console) -> Iterator[Bars]:
    """Bars as far as the console can show them."""
    if not console.is_terminal:
        yield Bars(console, None)
        return
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress.console, progress)
