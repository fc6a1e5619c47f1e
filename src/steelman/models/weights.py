"""Reading weights from files that others made: safetensors, or a pickled state_dict of which no code is ever run."""

import errno
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steelman.errors import WeightsError

_NAMED = 3  # keys of each sort that a message spells out
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # where training scripts put the state_dict
_PARALLEL = "module."  # the prefix that DataParallel leaves on every key


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the weights in a .safetensors, .pt or .pth file into the model; on an error the model is left as it was.

    A .pt or .pth file holds a state_dict, alone or under "state_dict", "model_state_dict", "model" or "net".

    Raises:
        WeightsError: missing, truncated or unreadable file, code in a pickle, weights not finite or not fitting.
    """
    path = Path(path)
    weights = read_weights(path)
    if weights and all(key.startswith(_PARALLEL) for key in weights):
        weights = {key.removeprefix(_PARALLEL): value for key, value in weights.items()}
    _check_keys(path, model, weights)
    check_finite(path, model, weights)
    model.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name.

    Raises:
        WeightsError: missing, truncated or unreadable file, another ending, code in a pickle.
    """
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        ".safetensors": _read_safetensors,
        ".pt": _read_pickle,
        ".pth": _read_pickle,
    }
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise WeightsError(f"the weights file {path} {what}. Give the path of a .safetensors, .pt or .pth file.")
    if path.suffix.lower() not in readers:
        raise WeightsError(
            f"{path.name} ends in {path.suffix or 'no suffix'!r}. Possible: .safetensors, .pt, .pth. "
            "Rename it if it is one of these, else save its state_dict as safetensors."
        )
    try:
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(_unreadable(path, error)) from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of (TorchScript) is refused below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise WeightsError(_unreadable(path, error)) from None  # torch looks before the beginning of a short file
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        reason = _code_in(path, error)
        if reason is None:
            raise WeightsError(_unreadable(path, error)) from None
        raise WeightsError(
            f"{path.name} holds code or objects beside tensors ({reason}) and was refused: reading them can run "
            "anything. Where you trust it, load it with torch yourself and save its state_dict as safetensors."
        ) from None
    return _state_dict(path, content)


def _code_in(path: Path, error: Exception) -> str | None:
    """Which code torch refused to run while it read a pickle; None when the file is merely damaged."""
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript program"
    if found := re.search(r"GLOBAL (\S+)", text):
        return _printable(found[1])
    # Any pickle of protocol 2 and up begins so; torch's own weights never use the newer protocols' operands.
    if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:1] == b"\x80":
        return "a plain pickle"
    return None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The state_dict in what a file held."""
    inner: Any = content
    if isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((content[key] for key in _WRAPPERS if key in content), content)
    if not _is_state_dict(inner):
        held = f"the keys {_few(map(str, inner))}" if isinstance(inner, Mapping) else f"a {type(inner).__name__}"
        raise WeightsError(
            f"{path.name} holds {held}. Expected a state_dict (names to tensors), alone or under "
            f"{', '.join(map(repr, _WRAPPERS))}. Save model.state_dict() instead."
        )
    return dict(inner)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _check_keys(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    # torch itself fills in this counter, which old files lack
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f"{key} {tuple(weights[key].shape)} where the model has {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of other shape": reshaped}
    if any(parts.values()):
        listed = "; ".join(f"{what}: {_few(keys)}" for what, keys in parts.items() if keys)
        raise WeightsError(
            f"{path.name} does not fit the model ({listed}). "
            "Choose the architecture, image shape and number of classes that these weights were trained with."
        )


def check_finite(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """See that the weights are numbers.

    Raises:
        WeightsError: NaN, or infinity in a parameter.
    """
    parameters = dict(model.named_parameters())  # a buffer may hold infinities, such as a mask; neither may hold NaN
    broken = [
        key for key, value in weights.items() if bool((~value.isfinite() if key in parameters else value.isnan()).any())
    ]
    if broken:
        raise WeightsError(
            f"{path.name} holds NaN or infinite weights in {_few(broken)}: its training diverged or the file is "
            "damaged. Use an earlier checkpoint."
        )


def _unreadable(path: Path, error: Exception) -> str:
    reason = _printable(str(error).split("\n")[0] or type(error).__name__)
    return f"{path.name} is truncated or is no weights file ({reason}). Download or save it again."


def _few(keys: Iterable[str]) -> str:
    """At most three of the keys, then how many more there are."""
    names = [_printable(key) for key in keys]
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _printable(text: str) -> str:
    """Text from a file as something that may stand in a one-line message."""
    plain = text if text.isprintable() else ascii(text)
    return plain if len(plain) <= 120 else plain[:117] + "..."


@runtime_checkable
class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...


def add_weights(digest: Digest, model: nn.Module) -> None:
    """Let a digest depend on the names and values of all weights and buffers of a model."""
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
