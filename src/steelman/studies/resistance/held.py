"""How far each image holds: the course of attack C and the distance of the nearest image of another class.

Images are measured in chunks, each kept when it is done: a stop loses one chunk, and memory is bounded.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from steelman.attacks.fmn import FMN
from steelman.data import Data
from steelman.engine import forward, guarded
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.studies.resistance.course import Course, follow
from steelman.studies.resistance.plan import Plan, reference
from steelman.threats import L2, Linf
from steelman.types import Images, Labels, PerExample

CHUNK = 250  # images whose results are kept together


@dataclass(frozen=True)
class Held:
    """For each image its course under attack C, its distance and the class beyond it (-1 where none was found)."""

    course: Course
    distance: PerExample  # L2, the nearest image of another class that was found; infinite where none was
    beyond: Labels
    linf: PerExample  # the same in L-inf


def holding(
    run: Run, plan: Plan, model: nn.Module, data: Data, predicted: Labels, name: str, progress: Progress = silent
) -> Held:
    """How far the images hold in their predicted class, right or wrong; chunks on disk are not computed again."""
    chunks: list[dict[str, Tensor]] = []
    for start in range(0, len(data), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(data)))
        file = f"parts/held/{name}-{start:06d}.safetensors"
        if not run.has(file):
            run.write_tensors(file, measured(plan, model, data.pixels(rows), predicted[rows]))
        chunks.append(run.read_tensors(file))
        progress(int(rows[-1]) + 1, len(data), "how far each image holds")
    whole = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}
    return read(whole)


def measured(plan: Plan, model: nn.Module, x: Images, y: Labels) -> dict[str, Tensor]:
    """Course and distance of some images, by name."""
    course = follow(model, x, y, plan.course())
    distance, beyond = nearest(model, x, y, plan.scale.nearest)
    linf = nearest_linf(model, x, y, plan.scale.nearest_linf)
    return {**course.tensors(), "distance": distance, "beyond": beyond, "linf": linf}


def nearest(model: nn.Module, x: Images, y: Labels, steps: int) -> tuple[PerExample, Labels]:
    """The L2 distance of the nearest image that is not of class y, and its class; infinity and -1 where none was."""
    found = reference(steps).run(model, x, y, L2(torch.inf), closest=True)
    with guarded(model), torch.no_grad():
        beyond = torch.cat([forward(model, part).argmax(1) for part in found.x_adv.split(CHUNK)])
    never = torch.full_like(y, -1)
    return torch.where(found.success, found.distance, torch.inf), torch.where(found.success, beyond, never)


def nearest_linf(model: nn.Module, x: Images, y: Labels, steps: int) -> PerExample:
    """The L-inf distance of the nearest image that is not of class y; infinity where none was found."""
    found = FMN(steps).run(model, x, y, Linf(torch.inf), closest=True)
    return torch.where(found.success, found.distance, torch.inf)


def read(tensors: dict[str, Tensor]) -> Held:
    """What `measured` gave."""
    course = Course(**{field.name: tensors[field.name] for field in fields(Course)})
    return Held(course, tensors["distance"], tensors["beyond"], tensors["linf"])
