"""Models that draw random numbers: how they are told from others, and how their noise is held still.

A module that draws keeps its own `torch.Generator` as an attribute, never the global one. Models of other libraries
that draw from global generators, of torch, numpy or Python, are known as random and held still as well.
"""

import contextlib
import random
from collections.abc import Generator as Yields
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from steelman.types import Images

FEW = 8  # images that are asked twice


def generators_of(model: nn.Module) -> list[Generator]:
    """The generators that the modules of a model hold as attributes, each once."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Generator)]
    return list({id(one): one for one in held}.values())


def _numpys(model: nn.Module) -> list[np.random.BitGenerator]:
    """Those of numpy, each once."""
    held = [value for module in model.modules() for value in vars(module).values()]
    own = [one.bit_generator for one in held if isinstance(one, np.random.Generator)]
    return list({id(one): one for one in own}.values())


def states(model: nn.Module, device: torch.device) -> tuple[object, ...]:
    """Where the generators stand from which a model on that device may draw: torch's, numpy's and its own.

    Python's is not among them: whoever checks types at run time draws from it, model or not.
    """
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    ours = (torch.get_rng_state(), *cuda, *(one.get_state() for one in generators_of(model)))
    _, keys, place, *_ = np.random.get_state()
    theirs = (np.asarray(keys).tobytes(), place, *(str(one.state) for one in _numpys(model)))
    return (*(one.cpu().numpy().tobytes() for one in ours), *theirs)


def is_random(model: nn.Module, x: Images) -> bool:
    """Whether the same few images get different outputs twice, or could: a vote of noisy copies may agree by chance.

    Costs two small passes; the caller guards the model. The states of its own generators and of the global one are put
    back: the model draws afterwards what it would have.
    """
    passes = list[tuple[Tensor, tuple[object, ...]]]()
    with torch.no_grad(), torch.random.fork_rng(cuda_alone(x.device)), put_back(model):
        for _ in range(2):
            passes.append((model(x[:FEW]).nan_to_num(), states(model, x.device)))
    (first, before), (again, after) = passes
    return before != after or not torch.equal(first, again)


@contextlib.contextmanager
def fixed_noise(model: nn.Module, seed: int = 0) -> Yields[None]:
    """Inside, every pass draws the same random numbers, so that the model is deterministic; for tests above all.

    Before each pass the model's own generators are set to `seed`, and the global one for the length of the pass. The
    noise of an image then depends on nothing but its place in a batch. Afterwards all draw on where they stood.
    """
    own, stack = generators_of(model), list[tuple[Tensor, list[Tensor]]]()

    def before(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001
        stack.append((torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []))
        torch.random.manual_seed(seed)
        for one in own:
            one.manual_seed(seed)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        state, cuda = stack.pop()
        torch.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    states = [one.get_state() for one in own]
    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for one, state in zip(own, states, strict=True):
            one.set_state(state)


@contextlib.contextmanager
def drawing_from(model: nn.Module, seed: int) -> Yields[None]:
    """Inside, whatever a model draws follows from this seed; afterwards its generators and the global one go on.

    The stream is none that a generator of that seed gives: what is searched for and what is then asked of the model
    must not meet the same noise.
    """
    devices = sorted({one.device for one in model.parameters() if one.is_cuda}, key=str)
    with put_back(model), torch.random.fork_rng(devices):
        torch.random.manual_seed((seed + _APART) % 2**63)
        np.random.seed((seed + _APART) % 2**32)
        random.seed(seed + _APART)
        for place, own in enumerate(generators_of(model), 1):
            own.manual_seed((seed + _APART + place) % 2**63)
        for place, bits in enumerate(_numpys(model), 1):
            bits.state = type(bits)((seed + _APART + place) % 2**63).state
        yield


_APART = 0x9E3779B9  # added to a seed for noise of its own


@contextlib.contextmanager
def put_back(model: nn.Module) -> Yields[None]:
    """Inside, the model may draw from its own generators and numpy's; afterwards they stand where they stood."""
    held = [(own, own.get_state()) for own in generators_of(model)]
    theirs, numpys, plain = [(bits, bits.state) for bits in _numpys(model)], np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        for own, state in held:
            own.set_state(state)
        for bits, known in theirs:
            bits.state = known
        np.random.set_state(numpys)
        random.setstate(plain)


@contextlib.contextmanager
def own_randomness(generator: Generator, device: torch.device) -> Yields[None]:
    """Inside, torch's global generators are seeded from `generator`; afterwards they are as they were."""
    with torch.random.fork_rng(devices=cuda_alone(device)):
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":  # pragma: no cover
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def cuda_alone(device: torch.device) -> list[torch.device]:
    """The device, where its global generator is not the processor's: what torch.random.fork_rng has to hold."""
    return [device] if device.type == "cuda" else []
