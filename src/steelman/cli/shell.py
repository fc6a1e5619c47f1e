"""`steelman shell`: a classifier, its test images and the attacks at hand in IPython."""

import base64
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from steelman.cli.options import RootOption
from steelman.cli.output import say

if TYPE_CHECKING:
    from steelman.cli.session import Shot

_KITTY_CHUNK = 4096  # the protocol's largest piece


def shell(
    run: Annotated[Path, Parameter(help="The run of a training, or of a study.")],
    /,
    *,
    data_root: RootOption = None,
    split: Annotated[Literal["test", "val", "train"], Parameter(help="Which images.")] = "test",
) -> None:
    """Attack single images by their number in IPython.

    attack(img_id, lr, div, p), minimal_attack(img_id, p, a, b, lr) and nearest(img_id, p) draw what they did: in the
    terminal where it shows pictures (kitty, iTerm2, WezTerm), else into the run's figures.
    """
    from steelman.cli.session import Session
    from steelman.train import load_run

    ipython = _ipython()
    trained = load_run(_training(run))
    data = getattr(trained.training.data.splits(data_root), split)
    session = Session(trained.model, data, lambda shot: _show(shot, run / "figures"))
    architecture = type(trained.training.architecture).__name__
    say(f"{architecture} and {len(data)} images of {data.name}, at hand as model and data.")
    say("attack(0)  minimal_attack(0, p=2)  nearest(0)  wrong()  strike(model, data.first(100), PGD(), Linf(0.1))")
    ipython.start_ipython(argv=["--no-banner"], user_ns={**_library(), **session.names()})


def inline(png: bytes, env: Mapping[str, str]) -> str | None:
    """The characters that show a picture in the terminal that the environment tells of; None where it shows none."""
    text = base64.b64encode(png).decode()
    if env.get("KITTY_WINDOW_ID") or env.get("TERM") == "xterm-kitty":
        pieces = [text[i : i + _KITTY_CHUNK] for i in range(0, len(text), _KITTY_CHUNK)]
        heads = ["a=T,f=100,", *[""] * (len(pieces) - 1)]
        more = [*[1] * (len(pieces) - 1), 0]
        return "".join(
            f"\x1b_G{head}m={rest};{piece}\x1b\\" for head, rest, piece in zip(heads, more, pieces, strict=True)
        )
    if env.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1;size={len(png)}:{text}\a"
    return None


def _show(shot: "Shot", folder: Path) -> None:
    """The figure where the terminal shows pictures, else as a file whose path is said."""
    png = shot.png()
    drawn = inline(png, os.environ) if sys.stdout.isatty() else None
    if drawn is not None:
        sys.stdout.write(drawn + "\n")
        return
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + sum(1 for _ in folder.glob("shell-*.png"))
    path = folder / f"shell-{number:03d}.png"
    path.write_bytes(png)
    say(str(path))


def _ipython() -> Any:
    from steelman.errors import UsageError

    try:
        return importlib.import_module("IPython")
    except ModuleNotFoundError:
        raise UsageError("IPython is not installed. Install it: pip install ipython.") from None


def _training(run: Path) -> Path:
    """The run of a training: the one that is given, or of a study's parts that of its subject, else the first."""
    from steelman.errors import RunError
    from steelman.runs import Run
    from steelman.spec import parse
    from steelman.studies.resistance import Resistance
    from steelman.studies.resistance.plan import name_of

    text = Run.existing(run).spec_text
    if text.startswith("Training("):
        return run
    parts = sorted(path.parent for path in (run / "parts").glob("*/weights.safetensors"))
    if text.startswith("Resistance("):
        asked: Resistance = parse(text, "study")
        parts = [path for path in parts if path.name == name_of(asked.subject)]
    if not parts:
        raise RunError(
            f"{run} holds no trained network. Give the run of a training or of a study that has trained one."
        )
    return parts[0]


def _library() -> dict[str, Any]:
    """The public names of the library."""
    import steelman

    return {name: getattr(steelman, name) for name in steelman.__all__}
