"""What networks for ImageNet share: its normalisation as the first layer, and where pretrained weights come from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.errors import UsageError, WeightsError
from steelman.models.weights import check_finite, read_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HINT = "Give pretrained='torchvision' (a download), 'timm' (where it is installed) or a file."


class ImageNetNormalize(nn.Module):
    """Pixels in [0, 1] to (x - mean) / std of ImageNet's colours; grey images become three equal channels.

    Its constants are no weights: files of others, which lack them, fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.std


def check_channels(name: str, channels: int) -> None:
    """See that images of so many channels can be shown.

    Raises:
        UsageError: neither one nor three.
    """
    if channels not in (1, 3):
        raise UsageError(f"{name} takes images of 3 channels, or grey ones of 1, not {channels}. Convert the images.")


def load_pretrained(model: nn.Module, weights: str, head: str, origins: Mapping[str, str]) -> None:
    """Load weights into a fresh network; its head stays as drawn where the file's has another number of classes.

    Args:
        model: the network.
        weights: "torchvision", "timm", or a file, also one inside $STEELMAN_DATA.
        head: the prefix of the head's keys.
        origins: what the network is called in torchvision and in timm, where they have its weights.

    Raises:
        WeightsError: no such file, no such origin, a failed download, or weights that do not fit.
    """
    source, found = _read(weights, origins, list(model.state_dict()))
    own = model.state_dict()
    for key, value in own.items():
        if key.startswith(head) and (key not in found or found[key].shape != value.shape):
            found[key] = value
    found = {key: value for key, value in found.items() if key in own or not key.startswith(head)}
    wrong = [key for key in own if key in found and found[key].shape != own[key].shape]
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in own]
    if bad := wrong + missing + unexpected:
        raise WeightsError(
            f"{source} holds the weights of another network or width: {', '.join(bad[:3])}"
            f"{f' and {len(bad) - 3} more' if len(bad) > 3 else ''} do not fit.{_widths(found, own)} {_HINT}"
        )
    check_finite(Path(source), model, found)
    model.load_state_dict(found)


def _read(weights: str, origins: Mapping[str, str], keys: list[str]) -> tuple[str, dict[str, Tensor]]:
    if weights not in ("torchvision", "timm"):
        path = _located(weights)
        return path.name, read_weights(path)
    if weights not in origins:
        raise WeightsError(f"{weights} has no weights for this network and width. Give a file, or the usual width.")
    if weights == "torchvision":
        from steelman.vision import pretrained  # torchvision takes seconds to import

        return "torchvision's file", pretrained(origins[weights])
    return "timm's file", _in_order(_from_timm(origins[weights]), keys)


def _located(weights: str) -> Path:
    plain = Path(weights).expanduser()
    inside = Path(os.environ.get("STEELMAN_DATA", ".")).expanduser() / plain
    found = next((path for path in (plain, inside) if path.is_file()), None)
    if found is None:
        raise WeightsError(f"the weights file {weights} does not exist, here or in $STEELMAN_DATA. {_HINT}")
    return found


def _from_timm(name: str) -> dict[str, Tensor]:
    from steelman import vision

    vision.load()  # timm imports torchvision, which needs help to be imported

    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError("pretrained='timm' needs timm. Install it: pip install timm.") from None
    create: Any = timm.create_model
    try:
        return dict(create(name, pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"timm could not get {name} ({reason}). Connect to the network, or give a file.") from None


def _in_order(theirs: dict[str, Tensor], keys: list[str]) -> dict[str, Tensor]:
    """Timm registers the same layers in the same order, under names of its own."""
    return dict(zip(keys, theirs.values(), strict=True)) if len(keys) == len(theirs) else theirs


def _widths(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """A sentence about widths, where the first convolution shows that they differ."""
    first = next((key for key, value in own.items() if value.ndim == 4), None)
    if first is None or first not in found or found[first].shape == own[first].shape:
        return ""
    return (
        f" Its first convolution has {len(found[first])} channels, this network's {len(own[first])}: "
        "choose the width that the weights were trained with, such as width=1.0."
    )
