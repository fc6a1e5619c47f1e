"""A whole training as a value: architecture, data, recipe and seed; and the run that it leaves."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from steelman import spec
from steelman.data import Source, Splits
from steelman.errors import RunError, UsageError, check_seed
from steelman.fitting import OnEpoch, fit, predicted
from steelman.models import Architecture
from steelman.models.cuts import load_blocks
from steelman.models.weights import load_weights
from steelman.progress import Progress, silent
from steelman.recipe import Recipe, default_recipe
from steelman.runs import DISK_SPACE, Run, default_path
from steelman.spec import Spec
from steelman.stats import Share

_COPIES = 22  # of the weights on the disk at most: two checkpoints of six, or with a guard ten, two that are kept


@dataclass(frozen=True, repr=False)
class Training(Spec):
    """What is trained, on what and how.

    Fields:
        recipe: None for the architecture's own.
        start: a run directory whose weights are trained on; None for a fresh draw. One that begins with ".." is
            found from the run that is trained, any other from the current directory.
        num: how many images of train to use, the first ones; None for all.
        blocks: how many leading blocks take the weights of `start`, the rest being a fresh draw; None for all.

    Raises:
        UsageError: a negative seed, no image, or blocks without a start.
    """

    architecture: Architecture
    data: Source
    recipe: Recipe | None = None
    seed: int = 0
    start: str | None = None
    num: int | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if self.num is not None and self.num < 1:
            raise UsageError(f"num is {self.num}. Expected at least one image, or None for all.")
        if self.blocks is not None and self.start is None:
            raise UsageError(f"blocks is {self.blocks} without a start. Say whose blocks: start='runs/a'.")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, in eval mode, and what is needed to use it without its data."""

    model: nn.Module
    training: Training
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    finished: bool = True
    val_seen: bool = False  # trained on val, too, here or in the run that it began from

    def notes(self, split: str) -> list[str]:
        """What a reader of numbers on this split has to know of the training; the network's name comes before it."""
        said = ["was trained on val as well: it has seen these images"] if self.val_seen and split == "val" else []
        return said if self.finished else [*said, "is of a training that was stopped: the weights of so far"]


def train(
    training: Training,
    out: Path | None = None,
    root: Path | None = None,
    progress: Progress = silent,
    *,
    device: str = "cpu",
    command: str = "",
    on_epoch: OnEpoch | None = None,
) -> Run:
    """The finished run of a training: weights, log, `results/{model,history,natural}.json`; computed at most once.

    Args:
        training: what to do.
        out: the run directory; None for `runs/<architecture>-<data>-<hash>`.
        root: where the data are, as for `Source.splits`.
        progress: told in steps.
        device: where to compute.
        command: how it was called, kept in env.json.
        on_epoch: measures the network at each epoch, as for `fit`.

    Raises:
        DataError: missing, truncated, corrupt or wrongly labelled data.
        WeightsError: the weights to start from do not fit.
        RunError: a run directory that is in use, another run's or unwritable; too little disk space.
        UsageError: images too small for the architecture, or fewer than one batch.
        Diverged: the loss is no number; the last good weights are kept.
        Interrupted: by Ctrl-C; the same call goes on.
    """
    splits = training.data.splits(root, progress)
    generator = torch.Generator().manual_seed(training.seed)
    model = training.architecture(splits.train.shape, len(splits.train.classes), generator)
    digest = splits.digest
    seen = _takes_val(training)
    if training.start is not None:
        begun = Run.existing(_start(training.start, out))
        weights, seen = begun.file("weights.safetensors"), seen or _has_seen_val(begun, training)
        if training.blocks is None:
            load_weights(model, weights)
        else:
            load_blocks(model, weights, training.blocks)
        digest = hashlib.sha256((digest + hashlib.sha256(weights.read_bytes()).hexdigest()).encode()).hexdigest()
    slug = f"{type(training.architecture).__name__}-{type(training.data).__name__}"
    path = out or default_path(Path("runs"), slug, repr(training), digest)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    with Run.open(path, repr(training), digest, command=command, need=DISK_SPACE + _COPIES * size) as run:
        if not run.finished:
            model.to(device)
            _compute(run, training, splits, model, generator, progress, val_seen=seen, on_epoch=on_epoch)
    return run


def load_run(path: Path) -> Trained:
    """The network of a run, rebuilt from spec.txt and its weights; the data are not needed.

    Raises:
        RunError: no run of a training, or one that has kept no weights yet.
        SpecError: what the run trained is not known here.
        WeightsError: the weights do not fit the architecture, or the file is damaged.
    """
    run = Run.existing(path)
    if not run.spec_text.startswith("Training("):
        raise RunError(f"{path} is the run of {run.spec_text}. Expected the run of a Training, which has weights.")
    training: Training = spec.parse(run.spec_text, "training")
    about = run.read_json("model")
    try:
        (channels, height, width), classes = about["shape"], tuple(about["classes"])
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{run.file('results/model.json')} is damaged. Train again into another directory.") from None
    blank = training.architecture.blank()
    model = blank((channels, height, width), len(classes), torch.Generator().manual_seed(0))
    load_weights(model, run.file("weights.safetensors"))
    return Trained(model.eval(), training, (channels, height, width), classes, run.finished, _val_seen(run, training))


def _start(start: str, out: Path | None) -> Path:
    """The run to start from."""
    if start.startswith(".."):
        if out is None:
            raise UsageError(f"start is {start!r}, which is found from the run's own directory. Give that directory.")
        return Path(os.path.normpath(out / start))  # out itself may not exist yet
    return Path(start)


def _has_seen_val(begun: Run, training: Training) -> bool:
    """Whether the weights to start from were trained on these data's val."""
    before: Training = spec.parse(begun.spec_text, "training")
    return before.data == training.data and _val_seen(begun, before)


def _val_seen(run: Run, training: Training) -> bool:
    """Whether a run's weights were trained on val, in it or in one that it began from (older runs say the first)."""
    return _takes_val(training) or bool(run.read_json("model").get("val_seen", False))


def _takes_val(training: Training) -> bool:
    return training.recipe is not None and training.recipe.with_val


def _compute(
    run: Run,
    training: Training,
    splits: Splits,
    model: nn.Module,
    generator: torch.Generator,
    progress: Progress,
    *,
    val_seen: bool,
    on_epoch: OnEpoch | None,
) -> None:
    test, splits = splits.test, splits._replace(train=splits.train.first(training.num))
    recipe = training.recipe or default_recipe(training.architecture)
    about = {
        "architecture": repr(training.architecture),
        "shape": test.shape,
        "classes": test.classes,
        "notes": (*test.notes, *(("val was trained on as well",) if val_seen else ())),
        "val_seen": val_seen,
    }
    run.write_json("model", about)
    fit(model, splits, recipe, generator=generator, run=run, progress=progress, on_epoch=on_epoch)
    labels = predicted(model, test)
    run.write_tensors("examples/natural.safetensors", {"predicted": labels, "label": test.labels})
    run.write_json("natural", Share.of(labels == test.labels.cpu()))
    run.finish()
