"""Certifiers: proofs that no allowed change of an image alters what the classifier says."""

import hashlib
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, nn

from steelman.data import Data
from steelman.engine import generator_for
from steelman.models.weights import add_weights
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.spec import Spec
from steelman.threats import Ball
from steelman.types import Images, Labels, Mask


@dataclass(frozen=True, repr=False)
class Certifier(Spec):
    """A way to prove images robust; the fields are its constants."""

    smooths: ClassVar[bool] = False  # whether what is certified is the model under noise, not the model itself
    paper: ClassVar[str] = ""

    @property
    def quick(self) -> "Certifier":
        """What proves a part of the same in less time than an attack takes; this one itself where it is so fast."""
        return self

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Mask:
        """Whether an image is proven to be classified as `y` everywhere in the threat; False proves nothing.

        Args:
            model: from pixels in [0, 1] to logits; run in eval mode and given back as it was.
            x: pixels in [0, 1].
            y: class indices; an image that the model gets wrong is never certified.
            threat: around each image.
            generator: the source of every random choice; None for seed 0.
            progress: told in images.

        Raises:
            UsageError: a layer or a threat that this certifier does not know.
        """
        raise NotImplementedError


def certify(
    model: nn.Module,
    data: Data,
    certifier: Certifier,
    threat: Ball,
    *,
    run: Run | None = None,
    name: str = "certified",
    seed: int = 0,
    progress: Progress = silent,
) -> Mask:
    """Which images of a data set are proven, on the CPU; a part at a time, with little memory.

    With a run, what is proven so far is kept in `examples/<name>.safetensors`; the same call goes on from there and,
    once done, only reads it. Certificates of other weights, data, threats or certifiers are computed anew.

    Args:
        model: from pixels in [0, 1] to logits; given back as it was.
        data: images and labels.
        certifier: the proof.
        threat: around each image.
        run: where to keep the results.
        name: of the file.
        seed: of the random choices of each part of 500 images, 20 of a slow certifier, so that they do not depend on
            where a kill came.
        progress: told in images.

    Raises:
        UsageError: a layer or a threat that the certifier does not know.
        RunError: the run cannot be written.
    """
    digest = hashlib.sha256()
    add_weights(digest, model)
    identity = f"{certifier!r}, {threat!r}, data {data.digest}, weights {digest.hexdigest()}, seed {seed}"
    path, saved = f"examples/{name}.safetensors", time.monotonic()
    state = torch.full((len(data),), -1, dtype=torch.int8)
    if run is not None and run.has(path) and run.read_metadata(path).get("identity") == identity:
        state = run.read_tensors(path)["certified"]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    part = _PART if certifier.quick == certifier else _FEW
    for start in range(0, len(data), part):
        rows = slice(start, start + part)
        if (state[rows] >= 0).all():
            continue
        x, y = data.pixels(rows).to(device), data.targets(rows).to(device)

        def tell(done: int, total: int, words: str, start: int = start) -> None:  # noqa: ARG001
            progress(start + done, len(data), words)

        generator = generator_for(x, seed + start)
        state[rows] = certifier(model, x, y, threat, generator=generator, progress=tell).cpu().to(torch.int8)
        last = start + part >= len(data)
        if run is not None and (last or time.monotonic() - saved > _SECONDS):
            run.write_tensors(path, {"certified": state}, metadata={"identity": identity})
            saved = time.monotonic()
    return state == 1


_PART = 500  # images
_FEW = 20  # of a slow certifier
_SECONDS = 10.0  # between two writes
