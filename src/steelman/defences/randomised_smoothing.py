"""Randomised smoothing at inference: Cohen, Rosenfeld & Kolter 2019 (arXiv:1902.02918)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.attacks.found import predicts
from steelman.defences import Shield
from steelman.errors import UsageError
from steelman.surrogates import straight_through


@dataclass(frozen=True, repr=False)
class RandomisedSmoothing(Shield):
    """The class that most of `votes` noisy copies of the image are taken for.

    The outputs are the logarithms of the vote counts, each with half a vote added; ties fall to the lower class. A
    vote has no derivative: attacks take that of the logarithm of the mean probability over the same copies (Salman et
    al. 2019, arXiv:1906.04584, section 2.2). Noise is drawn anew for each pass, from a generator of the module's own
    that starts at `seed`.

    Raises:
        UsageError: a sigma that is not above 0, no vote, or a negative seed.
    """

    sigma: float = 0.25
    votes: int = 16
    seed: int = 0

    samples: ClassVar[int] = 4
    paper: ClassVar[str] = "Cohen et al. 2019, arXiv:1902.02918; attacked as in Salman et al. 2019, arXiv:1906.04584"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma < math.inf or self.votes < 1 or self.seed < 0:
            raise UsageError(f"{self!r}: expected a sigma above 0, at least one vote, and a seed of 0 or more.")

    def __call__(self, model: nn.Module) -> nn.Module:  # noqa: D102
        return _Voting(model, self)


class _Voting(nn.Module):
    """The vote of noisy copies, with the derivative of their mean probability."""

    def __init__(self, model: nn.Module, shield: RandomisedSmoothing) -> None:
        super().__init__()
        self.model, self.shield = model, shield
        self.generator = Generator().manual_seed(shield.seed)  # on the processor: the same noise on every device

    def forward(self, x: Tensor) -> Tensor:
        votes = self.shield.votes
        noise = torch.randn((votes, *x.shape), generator=self.generator, dtype=x.dtype).to(x.device)
        logits = self.model((x + self.shield.sigma * noise).flatten(0, 1)).unflatten(0, (votes, len(x)))
        says = predicts(logits.detach())[..., None]  # without any vote there is no answer
        counts = (F.one_hot(logits.detach().argmax(2), logits.shape[2]) * says).sum(0)
        voted = (counts + 0.5).log().to(logits.dtype).where(says.any(0), math.nan)
        if not logits.requires_grad:
            return voted
        return straight_through(voted, logits.log_softmax(2).logsumexp(0))
