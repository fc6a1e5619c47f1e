"""VOneNet: Dapello, Marques, Schrimpf, Geiger, Cox & DiCarlo 2020, Simulating a primary visual cortex at the front of
CNNs improves robustness to image perturbations (NeurIPS 2020).

Written from the paper and from those it names; the study `finetune` asks how much of the robustness is there.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Generator as Yields
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from steelman.errors import UsageError, check_seed
from steelman.models import Architecture, _gabor
from steelman.models._cells import GAIN, DerivativeName, Noise, NoiseName, complex_cells
from steelman.models._filter_bank import FilterBank
from steelman.models.basic_cnn import BasicCNN
from steelman.models.layers import positive

FilterName = Literal["gabor", "learned", "random"]

_PART = 8  # images at a time: their maps stay in the cache


@dataclass(frozen=True, repr=False)
class VOne(Architecture):
    """Gabor filters, simple and complex cells, noise, a 1x1 bottleneck, and any architecture behind it.

    With image_size=224 the filters are those of the published front end whatever the size of the images, as the study
    `finetune` used them; by default a picture spans `visual_degrees`, and filters too fine for its pixels are left out.

    Fields:
        backend: what reads the bottleneck's channels.
        simple, complex: how many cells of each kind.
        ksize: of the filters, pixels, odd.
        sf_max: the highest spatial frequency, cycles per degree.
        visual_degrees: that the picture spans.
        image_size: pixels across the picture that `visual_degrees` are meant for; None for the image's own width.
        noise: "neuronal", "gaussian" or None; drawn in training and after it.
        noise_scale, noise_level: of the noise.
        bottleneck: channels.
        derivative: of the complex cells, "smooth" or "published", which is NaN on black ground.
        filters: "gabor" drawn once, "learned" from there in training, or "random" with the same energies and cost.
        seed: of filters and noise.

    Raises:
        UsageError: a number out of its range.
    """

    backend: Architecture = BasicCNN()  # noqa: RUF009 (frozen)
    simple: int = 256
    complex: int = 256
    ksize: int = 25
    stride: int = 1
    sf_max: float = 6.0
    visual_degrees: float = 8.0
    image_size: int | None = None
    noise: NoiseName | None = "neuronal"
    noise_scale: float = 0.35
    noise_level: float = 0.07
    bottleneck: int = 32
    derivative: DerivativeName = "smooth"
    filters: FilterName = "gabor"
    seed: int = 0

    paper: ClassVar[str] = "Dapello et al. 2020, NeurIPS"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("simple", "complex", "stride", "bottleneck"):
            positive(field, getattr(self, field))
        if self.ksize < 1 or self.ksize % 2 == 0:
            raise UsageError(f"ksize is {self.ksize}. Expected an odd number of pixels, such as 25.")
        if self.image_size is not None:
            positive("image_size", self.image_size)
        if not self.visual_degrees > 0:
            raise UsageError(f"visual_degrees is {self.visual_degrees:g}. Expected more than 0, such as 8.")
        if not self.noise_scale > 0 or not self.noise_level >= 0:
            raise UsageError(
                f"noise_scale is {self.noise_scale:g}, noise_level {self.noise_level:g}. "
                "Expected a scale above 0 and a level of 0 or more, such as 0.35 and 0.07."
            )
        check_seed(self.seed)

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The front end, its filters drawn from `seed`, and the back end, its weights as torch draws them.

        Raises:
            UsageError: no filter fits the image's pixels, or the back end finds the images too small.
        """
        front = FrontEnd(self, shape)
        rows, columns = (-(-side // self.stride) for side in shape[1:])
        behind = self.backend.build((self.bottleneck, rows, columns), classes)
        return nn.Sequential(OrderedDict(front=front, backend=behind))


class FrontEnd(nn.Module):
    """From images to the bottleneck's channels. `derivative` may be changed after building: the values stay."""

    def __init__(self, spec: VOne, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.derivative: DerivativeName = spec.derivative
        self.filters = Filters(spec, shape)
        self.cells = Cells()
        self.noise = Noise(spec.noise, spec.noise_scale, spec.noise_level, spec.seed)
        self.bottleneck = Mix(spec.simple + spec.complex, spec.bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        """(b, bottleneck, rows, columns)."""
        # the published derivative is NaN where a complex cell is exactly 0, which only a plain convolution leaves it
        plain = self.derivative == "published" and torch.is_grad_enabled() and x.requires_grad
        filtered = self.filters.convolution(x) if plain else self.filters.bank(x)
        derivative = self.derivative if plain else "smooth"  # towards the filters' own parameters
        parts = (self.noise(self.cells(*filtered(part), derivative)) for part in x.split(_PART))
        return torch.cat([self.bottleneck(part) for part in parts])


@contextlib.contextmanager
def differentiated(model: nn.Module, derivative: DerivativeName) -> Yields[None]:
    """Inside, the front ends of a network have this derivative, whichever they were built with; values are the same."""
    fronts = [module for module in model.modules() if isinstance(module, FrontEnd)]
    before: list[DerivativeName] = [front.derivative for front in fronts]
    try:
        for front in fronts:
            front.derivative = derivative
        yield
    finally:
        for front, own in zip(fronts, before, strict=True):
            front.derivative = own


class Filters(nn.Module):
    """The filters, drawn once or to be learned, and two ways to apply them that differ by rounding."""

    def __init__(self, spec: VOne, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.kind, self.simple, self.ksize, self.stride = spec.filters, spec.simple, spec.ksize, spec.stride
        number = spec.simple + spec.complex
        self.shape, generator = shape, torch.Generator().manual_seed(spec.seed)
        self.channels = torch.randint(shape[0], (number,), generator=generator)
        density = (spec.image_size or shape[2]) / spec.visual_degrees
        gabors = _gabor.draw(number, pixels_per_degree=density, sf_max=spec.sf_max, seed=spec.seed)
        self.drawn = self._kernels(gabors)
        if spec.filters == "random":
            self.drawn = tuple(_like(kernel, turn, generator) for kernel, turn in zip(self.drawn, _TURNS, strict=True))
        elif spec.filters == "learned":
            for name, values in vars(gabors).items():
                start = values if name in _ANGLES else values.log()
                self.register_parameter(name, nn.Parameter(start.float()))
        self.banks: dict[tuple[torch.device, torch.dtype], FilterBank] = {}

    def kernels(self) -> tuple[Tensor, ...]:
        """Those of simple cells (simple, k, k), and the even and the odd ones of complex cells."""
        if self.kind != "learned":
            return self.drawn
        values = {name: value if name in _ANGLES else value.exp() for name, value in self.named_parameters()}
        return self._kernels(_gabor.Gabors(**values))

    def bank(self, x: Tensor) -> FilterBank:
        """The fast way, for images like x."""
        if self.kind == "learned":
            return self._bank(x)
        kept = (x.device, x.dtype)
        if kept not in self.banks:
            self.banks[kept] = self._bank(x)
        return self.banks[kept]

    def convolution(self, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        """The plain way, for images like x: exactly 0 where all that a filter sees is 0."""
        kernels = [kernel.to(x.device, x.dtype) for kernel in self.kernels()]
        reads = F.one_hot(self.channels, self.shape[0]).to(x.device, x.dtype)[:, :, None, None]
        single, pairs = reads[: self.simple], reads[self.simple :]
        weight = torch.cat([kernels[0][:, None] * single, *(kernel[:, None] * pairs for kernel in kernels[1:])])
        sizes = [len(kernel) for kernel in kernels]

        def apply(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            maps = F.conv2d(x, weight, stride=self.stride, padding=self.ksize // 2).transpose(0, 1)
            single, even, odd = maps.split(sizes)
            return single, even, odd

        return apply

    def _bank(self, x: Tensor) -> FilterBank:
        single, even, odd = (kernel.to(x.device) for kernel in self.kernels())
        options = {"width": self.shape[2], "stride": self.stride}
        return FilterBank(single, even, odd, self.channels, **options, dtype=x.dtype)

    def _kernels(self, gabors: _gabor.Gabors) -> tuple[Tensor, ...]:
        even, odd = _gabor.waves(gabors, self.ksize)
        phase = gabors.phase[: self.simple].view(-1, 1, 1)
        single = phase.cos() * even[: self.simple] - phase.sin() * odd[: self.simple]
        return single, even[self.simple :], odd[self.simple :]


class Cells(nn.Module):
    """Simple cells rectify one filter; complex cells take the length of a pair, whatever its phase."""

    def forward(self, single: Tensor, even: Tensor, odd: Tensor, derivative: DerivativeName) -> Tensor:
        """Responses (cells, b, rows, columns), simple cells first."""
        return torch.cat((single.relu(), complex_cells(even, odd, derivative))).mul_(GAIN)


class Mix(nn.Conv2d):
    """A 1x1 convolution without bias of maps that come cell by cell, as one matrix product."""

    def __init__(self, cells: int, channels: int) -> None:
        super().__init__(cells, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        """From (cells, b, rows, columns) to (b, channels, rows, columns)."""
        mixed = self.weight.flatten(1) @ input.flatten(1)
        return mixed.view(-1, *input.shape[1:]).transpose(0, 1)


def _like(kernels: Tensor, turn: int, generator: Generator) -> Tensor:
    """White noise, each filter of the same energy; turned by 180 degrees it stays (1), changes sign (-1) or either."""
    noise = torch.randn(kernels.shape, dtype=kernels.dtype, generator=generator)
    noise = noise + turn * noise.flip(1, 2)
    energy = kernels.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    return noise * energy.view(-1, 1, 1)


_TURNS = (0, 1, -1)
_ANGLES = ("angle", "phase")
