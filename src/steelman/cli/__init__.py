"""The command line: a few verbs, one module each. Here is what must be fast, and how a program ends.

Exit codes: 0 done, 1 failed, 2 wrong use (one line: what was given, what is possible, what to do), 130 stopped by
Ctrl-C, 141 the reader of the output has gone.
"""

import io
import os
import sys
from collections.abc import Sequence

ABOUT = "Break, harden and understand image classifiers."

VERBS = {  # in the order of a first session
    "train": "Train a classifier and keep it in a run directory.",
    "attack": "Attack one classifier, print what holds, save the adversarial images.",
    "evaluate": "Measure classifiers under one attack on the same images, and compare them.",
    "compare": "Compare attacks, ours and other libraries', on one classifier and the same images.",
    "transfer-matrix": "Make adversarial images on each classifier, and judge them on every other.",
    "certify": "Prove how many images no allowed change can break.",
    "harden": "Train a classifier on until it holds, and say what that cost.",
    "study": "Run a whole study and write its report.",
    "report": "Write the HTML report of a run again.",
    "shell": "Attack single images by their number in IPython.",
    "list": "Show what there is: attacks, threats, models, data, studies, recipes and more.",
}
KEEPING = ("train", "harden", "study")  # in a run directory, also without --out
RESUMING = ("evaluate", "compare", "transfer-matrix", "certify")  # with --out
FLAGS = {
    "--install-completion": "Teach your shell (bash, zsh or fish) to complete commands and options.",
    "--help, -h": "Display this message and exit.",  # these two in cyclopts' own words
    "--version": "Display application version.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say (without any: those of the command line); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as by >&-
            setattr(sys, name, io.StringIO())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only still gets its numbers
    try:
        _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        verb = next(iter(words), "")
        kept = verb in KEEPING or any(word.partition("=")[0] == "--out" for word in words)
        rest = "Run the same command again to go on: what was finished is kept." if kept else "Nothing was kept."
        hint = " With --out what is finished is." if not kept and verb in RESUMING else ""
        return _fail(f"stopped by Ctrl-C. {rest}{hint}", 130)
    except Exception as error:
        code = _explained(error)
        if code is None:
            from steelman.errors import raised_by_strangers

            said = raised_by_strangers(error)
            if said is None:  # a bug: its traceback is what helps
                raise
            return _fail(f"{said}. It must work on any batch of images, also with gradients.", 1)
        return code
    return 0


def help_text() -> str:
    """What `steelman --help` says: the very text that cyclopts would make, without waiting for its import."""
    commands = "\n".join(f"  {name}: {words}" for name, words in (VERBS | FLAGS).items())
    return f"Usage: steelman COMMAND\n\n{ABOUT}\n\nCommands:\n{commands}\n\n"


def _dispatch(words: list[str]) -> None:
    if words in ([], ["--help"], ["-h"]):
        sys.stdout.write(help_text())
        return
    from steelman.cli.app import app

    app(words)


def _explained(error: Exception) -> int | None:
    """Says what went wrong in one line and returns the exit code; None for what nobody foresaw."""
    from cyclopts import CycloptsError

    from steelman.errors import Interrupted, SteelmanError, UsageError

    match error:
        case Interrupted():
            return _fail(str(error), 130)
        case UsageError():
            return _fail(str(error), 2)
        case SteelmanError():
            return _fail(str(error), 1)
        case CycloptsError():
            from steelman.cli.app import explain

            return _fail(explain(error), 2)
        case BrokenPipeError():
            _abandon_stdout()
            return 141
        case OSError():
            _abandon_stdout()
            where = f": {error.filename}" if error.filename else ""
            return _fail(f"{error.strerror or error}{where}. Make room or choose another path, then run it again.", 1)
        case _:
            return None


def _abandon_stdout() -> None:
    """Python flushes stdout once more when it exits; where that failed it must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(words: str, code: int) -> int:
    from steelman.cli.output import complain

    complain(words)
    return code
