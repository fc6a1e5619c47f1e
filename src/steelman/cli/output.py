"""What is printed: plain lines without control characters, one JSON object, tables that fit where they are read."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any


def say(*lines: str) -> None:
    """Lines on stdout."""
    sys.stdout.write("".join(f"{clean(line)}\n" for line in lines))


def complain(words: str) -> None:
    """One line on stderr, whatever line breaks the words hold."""
    sys.stderr.write(f"steelman: {clean(' '.join(words.split()))}\n")
    sys.stderr.flush()


def warn(words: str) -> None:
    """One line on stderr about something that is allowed and likely a mistake."""
    complain(f"warning: {words}")


def say_json(value: Any) -> None:
    """One JSON value on stdout, strict: numbers that are not finite are null."""
    from steelman.strict_json import json_text

    sys.stdout.write(json_text(value, indent=1) + "\n")


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: drawn and wrapped on a terminal, else plain columns two spaces apart, one line a row."""
    if not sys.stdout.isatty():
        say(*plain_table(columns, rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    Console().print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, columns padded to their widest cell."""
    cells = [list(columns), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def clean(text: str) -> str:
    """The text with every control character (from a file's name, say) written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def rerun(words: Sequence[str], **options: object) -> str:
    """The command that does it again: the words, and each option that has a value; a flag is there or not."""
    asked = list(words)
    for name, value in options.items():
        if value is not None and value is not False:
            asked += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return command_line(asked)


def command_line(words: Sequence[str]) -> str:
    """The words as a shell takes them: a text with single quotes in double ones, where nothing in it would change."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    plain = "'" in word and not set(word) & set('"$`\\!')
    return f'"{word}"' if plain else shlex.quote(word)
