"""The verbs as cyclopts knows them; their modules are imported when they are asked for, torch only when they run."""

import importlib.metadata

from cyclopts import App, CycloptsError, UnknownOptionError
from cyclopts.completion.detect import ShellDetectionError

from steelman.cli import ABOUT, FLAGS, VERBS
from steelman.cli.output import say
from steelman.errors import UsageError

app = App(
    name="steelman",
    help=ABOUT,
    version=lambda: importlib.metadata.version("steelman"),
    help_format="plaintext",
    help_formatter="plain",
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
for _position, (_verb, _words) in enumerate(VERBS.items()):
    _home = "listing" if _verb == "list" else _verb.replace("-", "_")  # a function named list would hide Python's
    app.command(f"steelman.cli.{_home}:{_home}", name=_verb, help=_words, sort_key=_position)


@app.command(name="--install-completion", help=FLAGS["--install-completion"], sort_key=len(VERBS))
def install_completion() -> None:
    """Write the script that completes commands and options, and have the shell read it."""
    try:
        say(f"{app.install_completion()}", "Start a new shell, and press Tab.")
    except ShellDetectionError:
        raise UsageError("your shell is none of bash, zsh and fish. Start one of them and try again.") from None


def explain(error: CycloptsError) -> str:
    """Cyclopts' own message about words that it cannot take, and where to look."""
    chain = " ".join(error.command_chain or ())
    words = str(error)
    if isinstance(error, UnknownOptionError):
        names = {name for argument in error.argument_collection for name in argument.names if name.startswith("--")}
        words += f" Possible: {', '.join(sorted(names))}."
    return f"{words} See steelman{f' {chain}' if chain else ''} --help."
