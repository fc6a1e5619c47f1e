"""Options that several verbs share, with the same words everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token


def whole(help: str) -> Parameter:
    """An option that takes a whole number: cyclopts by itself would round 1.5."""
    return Parameter(help=help, converter=_whole)


def _whole(_: object, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number.") from None


DataOption = Annotated[
    str | None,
    Parameter(name="--data", help="A data set's name, or a folder, .zip, .npz or .safetensors."),
]
RootOption = Annotated[
    Path | None, Parameter(name="--data-root", help="Where data lie; else $STEELMAN_DATA, or the cache.")
]
SkipOption = Annotated[
    bool, Parameter(name="--skip-bad", negative="", show_default=False, help="Leave corrupt pictures out, and count.")
]
DeviceOption = Annotated[str, Parameter(name="--device", help="cpu or cuda.")]
JsonOption = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object and nothing else.")
]
SplitOption = Annotated[
    Literal["test", "val", "train"] | None, Parameter(name="--split", help="Which images; else test.")
]
SeedOption = Annotated[int | None, whole("Of the attack's random choices; else 0.")]
TargetOption = Annotated[
    str | None,
    Parameter(name="--target", help="What images shall be taken for: a class's number, random, least-likely or next."),
]
ThreatOption = Annotated[str | None, Parameter(name="--threat", help="What an attacker may do, such as Linf(0.3).")]


@Parameter(name="*")
@dataclass(frozen=True)
class Subject:
    """Which model besides runs, on which images, on what machine."""

    model: Annotated[str | None, Parameter(help="An architecture, or package.module:factory, instead of a run.")] = None
    weights: Annotated[Path | None, Parameter(help="Its weights: .safetensors, .pt or .pth.")] = None
    data: DataOption = None
    data_root: RootOption = None
    split: SplitOption = None
    num: Annotated[int | None, whole("Only the first so many images.")] = None
    skip_bad: SkipOption = False
    seed: SeedOption = None
    device: DeviceOption = "cpu"

    def place(self) -> dict[str, object]:
        """Where it is computed, which no spec says: options of a command that does it again."""
        return {"data_root": self.data_root, **elsewhere(self.device)}


def elsewhere(device: str) -> dict[str, object]:
    """The option for another device than the processor."""
    return {} if device == "cpu" else {"device": device}
