"""Models by text: an architecture's spec or the user's own `package.module:factory`; and whether one fits the data."""

import importlib
import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.errors import PixelError, UsageError, choices
from steelman.models import seeded
from steelman.spec import parse

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_COMMON_SHAPES = tuple((channels, side, side) for side in (28, 32, 64, 224) for channels in (1, 3))


def build_model(spec: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
    """The model, in eval mode, that an architecture's spec or `package.module:factory` names.

    The factory is imported with the current directory on the path, and called with those of `shape` (channels, height,
    width) and `classes` that its signature names. Weights come from `generator`; the global one is left as it was.

    Raises:
        SpecError: no such architecture or field.
        UsageError: no such module or factory, one that fails or returns no module, or images too small for the layers.
    """
    plain = spec.removesuffix("()")
    if plain.lower().endswith((".pt", ".pth", ".safetensors")):
        raise UsageError(
            f"{spec} holds weights. Give them with --weights, and as --model an architecture or package.module:factory."
        )
    if _DOTTED.fullmatch(plain):
        module, _, name = plain.rpartition(".")
        raise UsageError(
            f"{spec} is no architecture. A function of your own is written package.module:factory, such as "
            f"{module}:{'make_net' if name == 'py' else name}."
        )
    if ":" not in spec.split("(")[0]:
        return parse(spec, "architecture")(shape, classes, generator)
    with _current_directory_on_path():
        with seeded(generator):  # by itself: a module draws on its first import only
            factory = _attribute(spec)
        with seeded(generator):
            made = _make(spec, factory, {"shape": shape, "classes": classes})
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} gave a {type(made).__name__}. Expected a torch.nn.Module: return the model itself.")
    return made.eval()


def check_fit(model: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Nothing, when the model maps one image of this shape to one float logit a class.

    One forward pass in eval mode; modes and the global CPU generator are left as they were.

    Raises:
        PixelError: it takes images of another number of channels or size, which is named.
        UsageError: it takes none at all, or returns something else than (1, classes) floats.
    """
    with _as_in_evaluation(model):
        logits, problem = _try(model, shape)
        fitting = [] if problem is None else [other for other in _COMMON_SHAPES if _try(model, other)[1] is None]
    if problem is not None and fitting:
        raise PixelError(
            f"the images are {_words(shape)}, which the model does not take ({problem}). It takes "
            f"{' or '.join(map(_words, fitting))}: convert the images or choose another model."
        )
    if problem is not None:
        raise UsageError(
            f"the model does not take images of {_words(shape)} ({problem}). "
            "Expected a module from pixels (n, channels, height, width) to logits (n, classes)."
        )
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"the model returns a {type(logits).__name__}. Expected one tensor of logits (n, {classes}): "
            "wrap the model so that it returns the logits only."
        )
    if logits.shape != (1, classes):
        raise UsageError(
            f"the model gives {tuple(logits.shape)} for one image, the data have {classes} classes: "
            f"expected (1, {classes}). Build the model with {classes} outputs or choose the data it was trained on."
        )
    if not logits.is_floating_point():
        raise UsageError(f"the model's logits are {logits.dtype}. Expected float32: return scores, not decisions.")


def _attribute(spec: str) -> Any:
    """What `package.module:name` names."""
    if not _FACTORY.fullmatch(spec):
        raise UsageError(
            f"{spec!r} is no package.module:factory. Write the module's dotted name without .py, a colon and the "
            "function's name, such as my_models:make_net."
        )
    module_name, _, path = spec.partition(":")
    found: Any = _module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(choices(f"name in {module_name}", name, _public(found)))
        found = getattr(found, name)
    return found


def _module(name: str) -> types.ModuleType:
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"importing {name} failed: {error}. Install what it needs.") from error
        here = ", ".join(sorted(path.stem for path in Path.cwd().glob("*.py"))) or "none"
        raise UsageError(
            f"no module {error.name!r} is installed or in {Path.cwd()}. Modules there: {here}. "
            "Write the dotted name without .py and start in the folder that holds it."
        ) from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"importing {name} failed: {_reason(error)}. Correct the module first.") from error


def _make(spec: str, factory: Any, offered: dict[str, Any]) -> Any:
    """What the factory returns when it is given those of the offered values that it asks for by name."""
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UsageError(f"{spec} is a {type(factory).__name__}. Expected a function that returns a torch.nn.Module.")
    parameters = _parameters(factory)
    strange = [name for name, parameter in parameters.items() if name not in offered and _is_required(parameter)]
    if strange:
        raise UsageError(
            f"{spec} needs {', '.join(strange)}. Possible: shape, classes or nothing. "
            "Give the others defaults or write a small function around it."
        )
    try:
        return factory(**{name: value for name, value in offered.items() if name in parameters})
    except (Exception, SystemExit) as error:
        raise UsageError(f"{spec} failed: {_reason(error)}. Correct it first.") from error


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except ValueError:  # a builtin without a signature
        return {}


def _is_required(parameter: inspect.Parameter) -> bool:
    collects = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return not collects and parameter.default is inspect.Parameter.empty


def _public(thing: Any) -> list[str]:
    """The names in a module or class that could be factories."""
    return [name for name, value in inspect.getmembers(thing) if not name.startswith("_") and callable(value)]


def _try(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Any, str | None]:
    """What the model returns for one black image, and why it fails if it does."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
    try:
        with torch.no_grad():
            return model(torch.zeros(1, *shape, device=tensor.device)), None
    except Exception as error:  # whatever a stranger's forward raises
        return None, _reason(error)


@contextmanager
def _as_in_evaluation(model: nn.Module) -> Generator[None, None, None]:
    """Eval mode inside the block; every submodule's mode and the global generator as before after it."""
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=[]):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextmanager
def _current_directory_on_path() -> Generator[None, None, None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height}x{width} pixels with {channels} channel{'s' if channels != 1 else ''}"


def _reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
