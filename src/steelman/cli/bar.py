"""Progress: a bar with the time left on a terminal, now and then a plain line when the output is piped."""

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from steelman.cli.output import clean
from steelman.progress import Progress

PATIENCE = 2.0  # seconds of work that need no words
EVERY = 5.0  # seconds between two plain lines


@contextmanager
def reporting() -> Generator[Progress, None, None]:
    """A progress for the time of a block, shown on stderr from its third second on."""
    shown: Shown = Bar(Console(stderr=True)) if sys.stderr.isatty() else Lines(_to_stderr)
    over = threading.Event()

    def watch() -> None:  # what is told may be told once a minute; a person wants to see that something happens
        wait = PATIENCE
        while not over.wait(wait):
            shown.show()
            wait = EVERY

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield shown
    finally:
        over.set()
        watcher.join()
        shown.close()


class Shown(Protocol):
    """A progress that can be made visible, any number of times, from any thread."""

    def __call__(self, done: int, total: int, words: str) -> None:
        """Remember how far the work is."""
        ...

    def show(self) -> None:
        """Make it visible."""
        ...

    def close(self) -> None:
        """Leave nothing of it on the screen."""
        ...


class Lines:
    """Says where the work is, in a line, whenever it is asked to."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._state = (0, 0, "")
        self._began = (0.0, 0)  # when this piece of work began, and how much of it was done then

    def __call__(self, done: int, total: int, words: str) -> None:
        """Remember how far the work is."""
        before, of, _ = self._state
        if total != of or done < before:
            self._began = (time.monotonic(), done)
        self._state = (done, total, words)

    def show(self) -> None:
        """One line, unless there is nothing to wait for."""
        (done, total, words), (began, first) = self._state, self._began
        if done >= total:
            return
        if total == 1:  # one piece, of unknown length
            self._write(clean(words))
            return
        left = ""
        if done > first:
            seconds = (time.monotonic() - began) / (done - first) * (total - done)
            left = f", {_duration(seconds)} left"
        self._write(f"{clean(words)}: {100 * done // total} %{left}")

    def close(self) -> None:
        """Nothing is left on the screen."""


class Bar:
    """A bar that goes away when the work is done."""

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._state = (0, 0)

    def __call__(self, done: int, total: int, words: str) -> None:
        """Remember how far the work is; the bar draws itself ten times a second."""
        before, of = self._state
        if total != of or done < before:
            self._bar.reset(self._task, total=total)
        self._state = (done, total)
        length = total if total > 1 else None  # one piece, of unknown length
        self._bar.update(self._task, completed=done, total=length, description=clean(words))

    def show(self) -> None:
        """Draw it from now on."""
        self._bar.start()

    def close(self) -> None:
        """Take it from the screen."""
        self._bar.stop()


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
