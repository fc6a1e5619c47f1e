"""The zoo: every network is trained once, and its logits are kept for all that follows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.data import Data, Source, Splits
from steelman.engine import guarded, predict
from steelman.losses import margin
from steelman.models import Architecture
from steelman.progress import Progress
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.resistance.plan import Plan, name_of
from steelman.train import Training, load_run, train
from steelman.types import Labels, Logits, Mask, PerExample

_SLICE = 2048  # images turned into floats at a time


@dataclass(frozen=True)
class Network:
    """A trained network of the zoo and what it says of the studied images."""

    name: str
    model: nn.Module
    shares: dict[str, dict[str, Any]]  # accuracy on train, val and test
    logits: dict[str, Logits]  # of val and test

    def predicted(self, split: str) -> Labels:
        """The classes it gives the images of val or test."""
        return self.logits[split].argmax(1)


def trained(
    run: Run, plan: Plan, architecture: Architecture, source: Source, splits: Splits, root: Path | None, told: Progress
) -> Network:
    """One network of the zoo; its training and its logits are computed at most once."""
    name = name_of(architecture)
    part = run.path / "parts" / name
    training = Training(architecture, source, plan.recipe(architecture), seed=plan.seed, num=plan.scale.num_train)
    train(training, part, root, told)
    model = load_run(part).model
    file = f"examples/logits-{name}.safetensors"
    if not run.has(f"results/zoo-{name}.json"):
        kept: dict[str, Tensor] = {}
        shares: dict[str, dict[str, Any]] = {}
        for split, data in zip(("train", "val", "test"), splits, strict=True):
            some = data.first(plan.scale.num_train) if split == "train" else data
            logits = all_logits(model, some)
            shares[split] = Share.of(logits.argmax(1) == some.labels).to_json()
            kept |= {} if split == "train" else {split: logits}
        run.write_tensors(file, kept)
        run.write_json(f"zoo-{name}", shares)
    return Network(name, model, run.read_json(f"zoo-{name}"), run.read_tensors(file))


def all_logits(model: nn.Module, data: Data) -> Logits:
    """The logits of all images, in the order of the data."""
    with guarded(model):
        rows = torch.arange(len(data)).split(_SLICE)
        return torch.cat([predict(model, data.pixels(some)) for some in rows])


def baselines(subject: Network, zoo: list[Network], split: str, num: int) -> dict[str, Tensor]:
    """How sure the subject is of its prediction, told without any attack; the higher, the surer.

    Confidence as published is a float32 softmax, exactly 1.0 for many images; from the logits none are equal.
    """
    logits, label = subject.logits[split][:num], subject.predicted(split)[:num]
    exact = logits.double()
    log_probability = exact.log_softmax(1)
    together = torch.stack([network.logits[split][:num].double().softmax(1) for network in zoo]).mean(0)
    return {
        "confidence, float32": logits.softmax(1).amax(1).double(),
        "confidence, from logits": -_log_odds_against(exact, label),
        "margin": -margin(exact, label),
        "entropy": (log_probability.exp() * log_probability).sum(1),
        "ensemble": together.gather(1, label[:, None]).squeeze(1),
    }


def runner_up(logits: Logits) -> Labels:
    """The class of the second largest logit: the second guess that costs nothing."""
    return logits.topk(2, dim=1).indices[:, 1]


def is_right(network: Network, split: str, data: Data) -> Mask:
    """Which images of val or test (the first ones, as many as the data hold) it gets right."""
    return network.predicted(split)[: len(data)] == data.labels


def _log_odds_against(logits: Logits, label: Labels) -> PerExample:
    """log((1 - p) / p) of the label's probability p, exact also where p is 1 in float32."""
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    return others - logits.gather(1, label[:, None]).squeeze(1)
