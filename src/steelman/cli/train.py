"""`steelman train`: an architecture, or a whole Training(...), becomes a run directory."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from steelman.cli.options import DataOption, DeviceOption, JsonOption, RootOption, SkipOption, elsewhere, whole
from steelman.cli.output import rerun, say, say_json
from steelman.schedules import Schedule


@Parameter(name="*")
@dataclass(frozen=True)
class Changes:
    """Fields of the recipe; what is not given stays as the architecture has it."""

    recipe: Annotated[
        str | None, Parameter(help="A name (steelman list recipes) or a Recipe(...); else the architecture's own.")
    ] = None
    objective: Annotated[str | None, Parameter(help="Such as Adversarial(PGD(steps=10), Linf(0.3)).")] = None
    epochs: Annotated[int | None, whole("Passes over the training images.")] = None
    lr: Annotated[float | None, Parameter(help="The highest learning rate.")] = None
    batch_size: Annotated[int | None, whole("Images a step.")] = None
    optimizer: Annotated[Literal["adam", "adamw", "sgd", "rmsprop"] | None, Parameter(help="Of the weights.")] = None
    schedule: Annotated[Schedule | None, Parameter(help="Of the learning rate.")] = None
    precision: Annotated[
        Literal["float32", "bfloat16", "auto"] | None,
        Parameter(help="Of products in training; auto takes bfloat16 where the processor multiplies it."),
    ] = None
    patience: Annotated[int | None, whole("Stop after so many epochs without a better one on val.")] = None


def train(
    model: Annotated[str, Parameter(help="An architecture, or the text of a run's spec.txt.")],
    /,
    *,
    changes: Changes = Changes(),  # noqa: B008 (frozen)
    data: DataOption = None,
    data_root: RootOption = None,
    skip_bad: SkipOption = False,
    seed: Annotated[int | None, whole("Of weights and order; 0 without it.")] = None,
    start: Annotated[Path | None, Parameter(help="A run whose weights are trained on.")] = None,
    out: Annotated[Path | None, Parameter(help="The run directory; else runs/<name>-<hash>.")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train a classifier and keep it in a run directory.

    The architecture brings its own recipe. A run that is finished is not trained again, one that was stopped goes on.
    """
    from steelman.cli import inputs, pages
    from steelman.cli.bar import reporting
    from steelman.spec import parse
    from steelman.train import train as train_run

    named = inputs.named_recipe(changes.recipe)
    text = repr(named.recipe) if named else changes.recipe
    given = {
        **asdict(changes),
        "recipe": None if text is None else parse(text, "recipe"),
        "objective": None if changes.objective is None else parse(changes.objective, "objective"),
    }
    wanted = data or (named.data if named else None)
    source = None if wanted is None else inputs.source(wanted, data_root)
    training = inputs.training(model, source, start, seed, given, skip_bad=skip_bad)
    if named:
        inputs.check_named(named, training)
    place = inputs.device(device)
    inputs.warn_of_training(training, data_root)
    command = rerun(["steelman", "train", repr(training)], data_root=data_root, **elsewhere(device), out=out)
    with reporting() as progress:
        run = train_run(training, out, data_root, progress, device=place, command=command)
    facts = pages.keep_training_page(run)
    if as_json:
        say_json(facts)
    else:
        say(*pages.training_lines(facts))
