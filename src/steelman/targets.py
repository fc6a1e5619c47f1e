"""Which class a targeted attack aims at: one of the others, chosen image by image.

The least likely class is that of Kurakin et al. 2017, Adversarial examples in the physical world (arXiv:1607.02533); a
random one is the usual choice of comparisons (Carlini & Wagner 2017, arXiv:1608.04644, section III.D).
"""

from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Generator

from steelman.errors import UsageError, choices
from steelman.types import Labels, Logits

TargetKind: TypeAlias = Literal["random", "least-likely", "next"]


def choose_targets(kind: str, logits: Logits, y: Labels, generator: Generator) -> Labels:
    """A class other than the label for each image.

    Args:
        kind: `random`: each of the others equally often; `least-likely`: that of the lowest logit above -inf; `next`:
            the label plus one, after the last class the first.
        logits: what the model says of the originals.
        y: the labels.
        generator: where random targets are drawn from; they depend on nothing else but y and the number of classes.

    Raises:
        UsageError: no such kind.
    """
    check_kind(kind)
    y, classes = y.long(), logits.shape[1]
    if kind == "random":
        drawn = torch.randint(classes - 1, y.shape, generator=generator, device=y.device)
        return drawn + (drawn >= y)
    if kind == "least-likely":
        ruled_out = torch.finfo(logits.dtype).max  # -inf: no attack could get there
        possible = torch.where(logits.isneginf(), ruled_out, logits.nan_to_num())
        return possible.scatter(1, y[:, None], torch.inf).argmin(1)
    return (y + 1) % classes


def check_kind(kind: str) -> TargetKind:
    """The kind of target that a text names.

    Raises:
        UsageError: none.
    """
    if kind not in get_args(TargetKind):
        raise UsageError(f"{choices('target', kind, get_args(TargetKind))} Or the number of a class.")
    return cast("TargetKind", kind)


def described(target: int | str) -> str:
    """The words for what an attack aims at."""
    words = {"random": "a random other class", "least-likely": "the least likely class", "next": "the next class"}
    return words[target] if isinstance(target, str) else f"class {target}"
