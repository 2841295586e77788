"""How the commands speak: plain lines, bars on a terminal only."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False)
_errors = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Prints a line, unbroken, so that what is piped on keeps its shape."""
    console.print(escape(text), soft_wrap=True)


def command(*words: object) -> str:
    """A segfast command for the user's shell: names with spaces are quoted."""
    return shlex.join(["segfast", *map(str, words)])


def say_error(text: str) -> None:
    """Prints a sentence in red to stderr."""
    _errors.print(f"[red]error:[/] {escape(text)}", soft_wrap=True)


def say_files(folder: Path, files: dict[str, str]) -> None:
    """Names files and what they show."""
    width = max(map(len, files))
    for name, what in files.items():
        say(f"  {folder / name}{' ' * (width - len(name))}  {what}")


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal only; call what it yields with (done, of all)."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what)
        yield lambda done, total: progress.update(task, completed=done, total=total)
