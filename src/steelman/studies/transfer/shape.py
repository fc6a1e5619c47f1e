"""Shape or texture: what A and the networks of B go by (Geirhos et al. 2019, arXiv:1811.12231).

A decides among 16 categories, the one with the largest mean probability over its ImageNet classes. A network of B can
be asked only for the classes that B shares with the 16.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from steelman.data import Data, texture_vs_shape
from steelman.data.texture_vs_shape import Renditions, TextureVsShape, categories
from steelman.engine import guarded, micro_batch, predict
from steelman.models.weights import load_weights
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.transfer.measure import network
from steelman.studies.transfer.plan import Plan, part_name
from steelman.train import Training
from steelman.types import Labels

SIZE, IMAGENET = 224, 1000  # pixels a side and classes that A was made for
SHOWN = 5  # pictures of each kind in the figure
_BATCH = 32  # pictures turned into floats at a time


def shapes(run: Run, plan: Plan, known: Data, root: Path | None, progress: Progress = silent) -> None:
    """Write `results/shape.json`: shape accuracy and bias of A and of the networks of B, or why there are none.

    `known` are images as the networks of B take them, with their classes.
    """
    if run.has("results/shape.json"):
        return
    if absent := texture_vs_shape.missing(root):
        run.write_json("shape", {"left_out": f"{' and '.join(absent)} not in the data root"})
        return
    a = None if isinstance(plan.a, Training) else imagenet_network(plan, run)
    shared = shared_classes(known, root)
    if a is None and not shared:
        run.write_json("shape", {"left_out": "B shares no class with the 16 shapes, and A does not know ImageNet's"})
        return
    found: dict[str, Any] = {
        "left_out": "",
        "shared": shared,
        "of": len(known.classes),
        "a": {},
        "arms": {},
        "paired": None,
    }
    if a is not None:
        found["a"] = _of_a(run, a, plan.scale.num_shape, root, progress)
    if shared:
        found |= _of_b(run, plan, known, shared, root, progress)
    run.write_json("shape", found)


def shared_classes(known: Data, root: Path | None) -> tuple[str, ...]:
    """The classes of B that are among the 16 shapes, where its networks take square pictures in colour."""
    channels, height, width = known.shape
    shapes = TextureVsShape("edges", 8).whole(root, num=1).classes
    return tuple(name for name in known.classes if name in shapes) if channels == 3 and height == width else ()


def imagenet_network(plan: Plan, run: Run) -> nn.Module | None:
    """A with its own 1,000 classes; None when its weights came without a head for them."""
    drawn, model = (plan.network((3, SIZE, SIZE), IMAGENET, Generator().manual_seed(0)) for _ in range(2))
    load_weights(model, run.path / "parts" / "A" / "weights.safetensors")
    heads = [[value for value in one.parameters() if value.ndim == 2][-1] for one in (drawn, model)]
    return None if torch.equal(*heads) else model.eval()


def sixteen(model: nn.Module, pictures: Renditions, weights: Tensor, progress: Progress) -> Labels:
    """The category of the largest mean probability for each picture (the decision of Geirhos et al. 2019)."""
    found: list[Tensor] = []
    with guarded(model):
        batch = micro_batch(model, pictures.pixels(slice(0, 1)))
        for start in range(0, len(pictures), _BATCH):
            part = pictures.pixels(slice(start, start + _BATCH))
            found.append((predict(model, part, batch).softmax(1) @ weights.T).argmax(1))
            progress(start + len(part), len(pictures), f"A on {pictures.name}")
    return torch.cat(found)


def judged(pictures: Renditions, guess: Labels) -> dict[str, Any]:
    """Shares of right shapes, on all pictures and where texture and shape differ, and the shape bias.

    The bias is the share of shape among decisions that are either the shape or the texture; pictures whose two classes
    agree say nothing of it and are left out.
    """
    shape, differ = guess == pictures.labels, pictures.textures != pictures.labels
    texture = guess == pictures.textures
    either = differ & (shape | texture)
    return {
        "all": Share.of(shape).to_json(),
        "differ": Share.of(shape[differ]).to_json(),
        "texture": Share.of(texture[differ]).to_json() if (pictures.textures >= 0).any() else None,
        "bias": Share.of(shape[either]).to_json() if (pictures.textures >= 0).any() else None,
    }


def _of_a(run: Run, a: nn.Module, num: int | None, root: Path | None, progress: Progress) -> dict[str, Any]:
    """By kind what `judged` gives, with words for the pictures that are left in `examples/shape.safetensors`."""
    found: dict[str, Any] = {}
    shown: list[Tensor] = []
    for kind in texture_vs_shape.KINDS:
        pictures = TextureVsShape(kind, SIZE).whole(root, progress, num=num)
        guess = sixteen(a, pictures, categories(pictures.classes, root), progress)
        found[kind] = {**judged(pictures, guess), "words": _captions(pictures, guess)}
        shown.append(nn.functional.avg_pool2d(pictures.pixels(slice(0, SHOWN)), 4))
    run.write_tensors("examples/shape.safetensors", {"x": torch.cat(shown)})
    return found


def _of_b(
    run: Run, plan: Plan, known: Data, shared: tuple[str, ...], root: Path | None, progress: Progress
) -> dict[str, Any]:
    """Of every network of B: how many of the shared shapes it names, in its own classes, where texture does not."""
    kinds = {kind: _known(TextureVsShape(kind, known.shape[1]), known, shared, root) for kind in texture_vs_shape.KINDS}
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    seed, right = plan.seeds[0], dict[str, Tensor]()
    for index, arm in enumerate(plan.arms, start=1):
        model, masks = network(run, arm, seed), list[Tensor]()
        with guarded(model):
            for kind, pictures in kinds.items():
                masks.append(predict(model, pictures.pixels()).argmax(1) == pictures.labels)
                found[kind][arm.name] = Share.of(masks[-1]).to_json()
        right[arm.name] = torch.cat(masks)
        progress(index, len(plan.arms), f"{arm.name} on shapes")
    run.write_tensors("examples/shape-images.safetensors", {part_name(arm, seed): right[arm.name] for arm in plan.arms})
    return {"arms": found, "paired": _paired(plan, right)}


def _known(source: TextureVsShape, known: Data, shared: tuple[str, ...], root: Path | None) -> Renditions:
    """The pictures of the shared shapes whose texture is none or another's, labelled as B numbers its classes."""
    pictures = source.whole(root)
    number = torch.tensor([known.classes.index(name) if name in shared else -1 for name in pictures.classes])
    rows = (number[pictures.labels] >= 0) & (pictures.textures != pictures.labels)
    part = pictures.take(rows.nonzero().squeeze(1))
    return Renditions(part.images, number[part.labels], known.classes, part.name, textures=part.textures)


def _paired(plan: Plan, right: dict[str, Tensor]) -> dict[str, Any] | None:
    """The deepest frozen copy of A against base B, on the pictures of all kinds."""
    if plan.reference not in right:
        return None
    both = (plan.reference, "base")
    shares = {name: Share.of(right[name]).to_json() for name in both}
    return {"shares": shares, "p": mcnemar(*(right[name] for name in both)).p}


def _captions(pictures: Renditions, guess: Labels) -> list[str]:
    words: list[str] = []
    for row in range(min(SHOWN, len(pictures))):
        shape, texture = int(pictures.labels[row]), int(pictures.textures[row])
        skin = "" if texture < 0 else f", texture {pictures.classes[texture]}"
        words.append(f"{pictures.classes[shape]}{skin}; A: {pictures.classes[int(guess[row])]}")
    return words
