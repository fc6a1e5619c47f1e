"""JPEG compression as a defence: Dziugaite et al. 2016 (arXiv:1608.00853), Guo et al. 2018 (arXiv:1711.00117)."""

import io
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from steelman.defences._filter import Filter
from steelman.errors import UsageError
from steelman.types import Images

Levels: TypeAlias = NDArray[np.uint8]  # (height, width, channels)


@dataclass(frozen=True, repr=False)
class JPEG(Filter):
    """The image after a round trip through the codec: 8 bits, compressed, decoded; attacked straight through.

    Pillow's encoder with its own choices: chroma at half the resolution, standard Huffman tables.

    Raises:
        UsageError: a quality outside 1 to 95; at the call, images that have neither one channel nor three.
    """

    quality: int = 75

    paper: ClassVar[str] = "Guo et al. 2018, arXiv:1711.00117; attacked as in Athalye et al. 2018, arXiv:1802.00420"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("quality", "1 to 95", holds=1 <= self.quality <= 95)

    def exact(self, x: Images) -> Images:  # noqa: D102
        if x.shape[1] not in (1, 3):
            raise UsageError(f"JPEG knows images of 1 or 3 channels, these have {x.shape[1]}. Choose another shield.")
        levels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        decoded = np.stack([self._round_trip(image) for image in levels]) if len(x) else levels
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x) / 255

    def _round_trip(self, image: Levels) -> Levels:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=self.quality)
        with Image.open(file) as decoded:
            return np.asarray(decoded).reshape(image.shape)
