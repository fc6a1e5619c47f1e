"""Cut points: a network as its first n blocks and the rest, for transfer of layers (Yosinski et al. 2014, 1411.1792).

A network names its own cut points (the attribute `cuts`, blocks -> leading stages); any other chain of layers can be
cut behind each convolution or linear layer but the last one, with what follows it up to the next.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from steelman.errors import UsageError, WeightsError
from steelman.models.weights import check_finite, read_weights


class Cuttable(nn.Sequential):
    """A chain of layers that knows where it can be cut: `cuts` maps a number of blocks to one of leading stages."""

    cuts: dict[int, int]


def stages(model: nn.Module) -> list[nn.Module]:
    """The layers of a chain in order, nested chains unfolded; none when the model is no chain."""
    if not isinstance(model, nn.Sequential):
        return []
    return [stage for child in model for stage in (stages(child) if type(child) is nn.Sequential else [child])]


def cut_points(model: nn.Module) -> dict[int, int]:
    """Where the model can be cut: from the number of blocks in front to the number of stages in front."""
    chain = stages(model)
    if isinstance(model, Cuttable):
        return model.cuts
    weighted = [index for index, stage in enumerate(chain) if _has_weights(stage)]
    return dict(enumerate(weighted[1:], start=1))


def divided(model: nn.Module, blocks: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The first blocks, with what follows them without weights or chance, and the rest; both share its parameters.

    Raises:
        UsageError: the model cannot be cut there; says where it can.
    """
    chain, points = stages(model), cut_points(model)
    if blocks not in points:
        possible = ", ".join(map(str, points)) or "none: the model is no chain of layers"
        raise UsageError(f"there is no cut behind {blocks} blocks. Possible: {possible}.")
    cut = points[blocks]
    while cut > 1 and isinstance(chain[cut - 1], _DropoutNd):
        cut -= 1
    while not _has_weights(chain[cut]) and not isinstance(chain[cut], _DropoutNd):
        cut += 1
    return nn.Sequential(*chain[:cut]), nn.Sequential(*chain[cut:])


def load_blocks(model: nn.Module, path: Path, blocks: int) -> None:
    """Copy the weights of the first blocks from a file; the rest of the model stays as it is.

    Raises:
        UsageError: the model cannot be cut there.
        WeightsError: the file cannot be read, or does not hold these blocks' weights.
    """
    weights = read_weights(path)
    inside = {id(value) for value in _tensors(divided(model, blocks)[0])}
    own = {key: value for key, value in model.state_dict(keep_vars=True).items() if id(value) in inside}
    wrong = [key for key, value in own.items() if key not in weights or weights[key].shape != value.shape]
    if wrong:
        raise WeightsError(
            f"{path.name} lacks the weights of the first {blocks} blocks, or has them in other shapes: "
            f"{', '.join(wrong[:3])}{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. "
            "Start from a network of the same architecture."
        )
    check_finite(path, model, weights)
    for key, value in own.items():
        value.data.copy_(weights[key])


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _has_weights(stage: nn.Module) -> bool:
    """Whether the stage holds more than the scale and shift of a normalisation."""
    return any(parameter.ndim > 1 for parameter in stage.parameters())
