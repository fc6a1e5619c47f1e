"""Synthesis: images made by climbing a network's own confidence in a class from anywhere, far from any training image.

Santurkar et al. 2019, Image synthesis with a single (robust) classifier (arXiv:1906.09453).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from steelman.engine import forward, guarded, micro_batch
from steelman.errors import UsageError
from steelman.progress import Progress, silent
from steelman.threats import Ball
from steelman.types import Images, Labels


def ascend(
    model: nn.Module,
    start: Images,
    labels: Labels,
    threat: Ball,
    *,
    steps: int = 60,
    step_size: float = 0.1,
    progress: Progress = silent,
) -> Images:
    """The images after `steps` steepest steps towards a higher probability of their labels, within the threat.

    Unlike an attack it does not stop when the class is reached: the class is to be made as plain as it gets. A step is
    `step_size` of the threat's reach.

    Raises:
        UsageError: no step.
    """
    if steps < 1 or not step_size > 0:
        raise UsageError(f"{steps} steps of size {step_size}. Expected one or more, of a size above 0.")
    batch, made = micro_batch(model, start), []
    with guarded(model):
        for number, (clean, y) in enumerate(zip(start.split(batch), labels.split(batch), strict=True)):
            x = clean
            for _ in range(steps):
                x = x.detach().requires_grad_()
                with torch.enable_grad():
                    loss = F.cross_entropy(forward(model, x), y, reduction="sum")
                    (grad,) = torch.autograd.grad(loss, x)
                x = threat.project(threat.ascend(x.detach(), -grad, step_size * threat.reach(clean)), clean)
            made.append(x)
            progress(min(len(start), (number + 1) * batch), len(start), "climbing towards a class")
    return torch.cat(made)


def alone(x_adv: Images, x: Images) -> Images:
    """The perturbation as a picture of its own: what was added, scaled so that its brightest pixel is 1."""
    added = (x_adv - x).clamp_min(0)
    return added / added.flatten(1).amax(1).clamp_min(torch.finfo(x.dtype).eps).view(-1, 1, 1, 1)


def spectrum(x: Images, y: Labels, classes: int) -> Float[Tensor, "h w"]:
    """Information about the class at each spatial frequency: variance between class means over variance within.

    The real and imaginary parts of the discrete Fourier transform count together (Fisher's ratio); the middle of the
    result is frequency 0, rows are vertical frequencies: horizontal lines live in the middle column.
    """
    waves = torch.fft.fftshift(torch.fft.fft2(x.mean(1)), dim=(1, 2))
    means = torch.stack([waves[y == label].mean(0) for label in range(classes) if bool((y == label).any())])
    counts = torch.stack([(y == label).sum() for label in range(classes) if bool((y == label).any())])
    share = (counts / counts.sum()).view(-1, 1, 1)
    between = (share * (means - waves.mean(0)).abs().square()).sum(0)
    total = (waves - waves.mean(0)).abs().square().mean(0)
    return between / (total - between).clamp_min(torch.finfo(x.dtype).tiny)
