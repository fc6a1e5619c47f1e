"""Images changed at random while training, batches at a time."""

import torch
import torch.nn.functional as F
from torch import Generator

from steelman.types import Images


def shifted(x: Images, most: int, generator: Generator) -> Images:
    """Each image moved by up to `most` pixels down or up, right or left, by whole pixels, black where it came from.

    All (2 most + 1)^2 moves are equally likely. With 0 nothing is drawn.
    """
    if not most:
        return x
    images, channels, height, width = x.shape
    top, left = (
        torch.randint(2 * most + 1, (images, 1), generator=generator, device=generator.device).to(x.device)
        for _ in range(2)
    )
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image, channel = torch.arange(images, device=x.device), torch.arange(channels, device=x.device)
    padded = F.pad(x, (most, most, most, most))
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]
