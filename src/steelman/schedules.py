"""Learning rates as closed forms of the step: nothing to save, nothing to restore.

Steps at half and three quarters: He et al. 2016 (arXiv:1512.03385, section 4.2). One cycle: Smith & Topin 2018
(arXiv:1708.07120), in the form and with the constants of `torch.optim.lr_scheduler.OneCycleLR`; momentum stays.
Cosine: Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
"""

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "step", "one-cycle", "cosine"]

_WARM_UP = 0.3  # one cycle: the share of steps on which the rate rises
_START_DIVISOR = 25.0  # one cycle starts at peak / 25
_END_DIVISOR = 1e4  # and ends at that / 10,000


def learning_rate(schedule: Schedule, peak: float, step: int, total: int) -> float:
    """The learning rate of step `step` (0 .. total - 1) of `total`; never above `peak`."""
    assert 0 <= step < total
    match schedule:
        case "constant":
            return peak
        case "step":
            return peak * 0.1 ** sum(step >= round(total * share) for share in (0.5, 0.75))
        case "cosine":
            return peak * (1 + math.cos(math.pi * step / total)) / 2
        case "one-cycle":
            return _one_cycle(peak, step, total)


def _one_cycle(peak: float, step: int, total: int) -> float:
    start, turn = peak / _START_DIVISOR, _WARM_UP * total - 1
    if turn > 0 and step <= turn:
        return _between(start, peak, step / turn)
    return _between(peak, start / _END_DIVISOR, (step - turn) / (total - 1 - turn))


def _between(first: float, last: float, share: float) -> float:
    """Half a cosine wave from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
