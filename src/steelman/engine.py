"""How a model is run: guarded, in micro-batches that stay in the cache, with an allocator that keeps memory.

Large batches are slow on a processor because glibc gives their big blocks back to the system after every step and
faults them in again; small ones are slow because of the cost of each call. Both are handled here, once. So is the
precision of a pass of which only a direction is wanted: bfloat16, where the processor multiplies it.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import itertools
import sys
from collections.abc import Generator as Yields
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.errors import UsageError
from steelman.types import Images, Logits

ACTIVATION_FLOATS = 16_000_000  # saved floats of one micro-batch: SmallCNN fastest from 110 images on, docs/log.md
LARGEST_BATCH = 256
ROWS = 8  # batches are filled up to a multiple of it, see `fill`
CHUNK_FLOATS = 2**22  # pixels of the images that one search works on: bounds memory, whatever the number of images
LARGEST_CHUNK = 512

COARSE_PRODUCTS = 1_000_000  # an image's multiplications from which on bfloat16 pays, and those
COARSE_SHARE = 30  # to each number put out: nets with fewer are bound by memory and by the cost of calls
_OWN_LAYERS = ("steelman.models", "steelman.models.layers")  # modules whose layers bear it as torch's own do

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIBIBYTE = 2**30
_GLIBC_LARGEST = 32 * 2**20  # where glibc's own growing threshold ends on 64-bit systems
_depth = 0  # how many contexts are open: only the outermost sets the process's limits
_precise = 0  # how many contexts ask for float32 throughout


@dataclass(frozen=True)
class _Work:
    """What one image makes a model do: numbers that its innermost modules put out, products of its layers."""

    floats: int
    products: int


_work: WeakKeyDictionary[nn.Module, dict[torch.Size, _Work]] = WeakKeyDictionary()  # of models under guard


@contextlib.contextmanager
def guarded(model: nn.Module) -> Yields[None]:
    """Inside: eval mode, parameters without gradient, torch's own convolutions channels-last. Afterwards all as it was.

    Inside, what an image makes the model do is measured once for each shape of images.
    """
    outermost = model not in _work
    training = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.data) for parameter in model.parameters()]
    stems = [module for module in model.modules() if _is_stem(module)]
    weights = {id(module.weight) for module in model.modules() if type(module) is nn.Conv2d}
    try:
        _work.setdefault(model, {})
        model.eval()
        for parameter, _, data in parameters:
            parameter.requires_grad_(False)
            if id(parameter) in weights:
                parameter.data = _channels_last(data)
        for stem in stems:
            stem.__dict__["forward"] = functools.partial(_stem_forward, stem)
        with steady_allocator():
            yield
    finally:
        if outermost:
            _work.pop(model, None)
        for stem in stems:
            stem.__dict__.pop("forward", None)
        for module, mode in training:
            module.training = mode
        for parameter, required, data in parameters:
            parameter.data = data
            parameter.requires_grad_(required)


@contextlib.contextmanager
def steady_allocator() -> Yields[None]:
    """Inside, freed blocks of any size up to 1 GiB are kept for the next step; afterwards glibc's usual limits hold."""
    global _depth
    set_option = _mallopt()
    if set_option and not _depth:
        set_option(_M_MMAP_THRESHOLD, _GIBIBYTE)
        set_option(_M_TRIM_THRESHOLD, _GIBIBYTE)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if set_option and not _depth:
            set_option(_M_MMAP_THRESHOLD, _GLIBC_LARGEST)
            set_option(_M_TRIM_THRESHOLD, 2 * _GLIBC_LARGEST)


def micro_batch(model: nn.Module, x: Tensor) -> int:
    """How many images of x's shape to run at a time: as many as keep the saved activations in the cache.

    A multiple of what `forward` fills up to. It depends on the model and the shape only, never on the number of images
    or on timing: same inputs, same bits.
    """
    if x.is_cuda:
        return 1024
    fit = min(LARGEST_BATCH, ACTIVATION_FLOATS // max(1, _work_of(model, x).floats))
    return max(ROWS, fit - fit % ROWS)


@contextlib.contextmanager
def precise() -> Yields[None]:
    """Inside, directions are computed in float32 too."""
    global _precise
    _precise += 1
    try:
        yield
    finally:
        _precise -= 1


def coarse_pays(model: nn.Module, x: Tensor) -> bool:
    """Whether directions for images of x's shape are computed in bfloat16: where that is the faster way.

    The processor must multiply bfloat16, the model be float32 throughout, made of torch's own layers, and have enough
    to multiply: other layers may compute what bfloat16 is too coarse for.
    """
    if _precise or x.is_cuda or x.dtype != torch.float32 or not multiplies_bfloat16() or not len(x):
        return False
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return False
    leaves = {type(module).__module__ for module in model.modules() if not list(module.children())}
    if not all(leaf.startswith("torch.nn.modules.") or leaf in _OWN_LAYERS for leaf in leaves):
        return False
    work = _work_of(model, x)
    return work.products >= max(COARSE_PRODUCTS, COARSE_SHARE * work.floats)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; others imitate it, slowly."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def _work_of(model: nn.Module, x: Tensor) -> _Work:
    known = _work.get(model, {})
    if x[0].shape not in known:
        known[x[0].shape] = _measured(model, fill(x[:1]))
    return known[x[0].shape]


def _measured(model: nn.Module, copies: Images) -> _Work:
    """The work of one image, the image itself counted among what is put out.

    Of several copies: a model may take one image for none, as `squeeze` does.
    """
    floats, products = copies.numel(), 0

    def count(module: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001
        nonlocal floats, products
        if isinstance(output, Tensor) and not list(module.children()):
            floats += output.numel()
            if isinstance(module, nn.Conv2d | nn.Linear):
                products += output.numel() * module.weight[0].numel()

    known = (module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule))
    hooks = [module.register_forward_hook(count) for module in known]  # a script takes none
    try:
        with torch.no_grad():
            model(copies)
    finally:
        for hook in hooks:
            hook.remove()
    return _Work(floats // len(copies), products // len(copies))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself where it draws on this device; else one that does, seeded by a draw from it."""
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))


def generator_for(x: Tensor, seed: int = 0) -> torch.Generator:
    """A fresh generator on the device of x: what is drawn from where a caller gives none."""
    return torch.Generator(device=x.device).manual_seed(seed)


def chunk_size(x: Tensor) -> int:
    """How many images one search holds at a time."""
    return max(1, min(LARGEST_CHUNK, CHUNK_FLOATS // x[0].numel()))


def fill(x: Tensor) -> Tensor:
    """The rows of x, and copies of the first up to a multiple of `ROWS`.

    With fewer (seen: than 4) matrix products sum in another order, and an image alone would get other last bits, after
    many steps another adversarial image, than in a batch. And each new number of rows costs the convolutions' library
    some megabytes, which it keeps.
    """
    missing = -len(x) % ROWS
    return torch.cat((x, x[:1].detach().expand(missing, *x.shape[1:]))) if missing else x


def forward(model: nn.Module, x: Images, *, coarse: bool = False) -> Logits:
    """The model's logits for x, all at once, in float32 whatever the model computes in.

    Images are filled up with copies, see `fill`.

    With `coarse` convolutions and linear layers multiply in bfloat16, forward and backward: about three digits, good
    for a direction and for nothing to be judged by.

    Raises:
        UsageError: the output is not (images, classes) with two classes or more, or the model changes its input.
    """
    filled = fill(x)
    version = None if filled.is_inference() else filled._version
    with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
        logits = model(filled)
    if version is not None and filled._version != version:
        raise UsageError(
            "the model writes over the images that it is given, as Normalize(inplace=True) does. Expected a model that "
            "leaves them as they are: take inplace=False there, or begin with x = x.clone()."
        )
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != len(filled):
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UsageError(
            f"the model returned {given} for {len(filled)} images. Expected a tensor of logits of shape "
            "(images, classes), two classes or more."
        )
    return logits[: len(x)].float()


def slope(value: Tensor, candidate: Images, *, keep: bool = False) -> Images:
    """The gradient, 0 where the model has none to give: it computes under torch.no_grad, or detaches the image."""
    if not value.requires_grad:
        return torch.zeros_like(candidate)
    return torch.autograd.grad(value, candidate, retain_graph=keep, allow_unused=True, materialize_grads=True)[0]


def predict(model: nn.Module, x: Images, batch: int | None = None) -> Logits:
    """Logits of all images, in micro-batches, without gradient. The caller guards the model.

    Raises:
        UsageError: the output is not (images, classes) with two classes or more.
    """
    batch = batch or micro_batch(model, x)
    with torch.no_grad():
        return torch.cat([forward(model, part) for part in x.split(batch)])


class _StemConvolution(torch.autograd.Function):
    """A convolution of few input channels whose input gradient is one matrix product and a few shifted sums.

    The library's own routine spends most of its time on padding the few channels to a vector's width.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        images, channels, height, width = ctx.shape
        filters, rows, columns = grad.shape[1:]
        (down, right), (top, left) = ctx.stride, ctx.padding
        kernels = weight.flatten(1).t().to(grad.dtype)  # what the convolution was computed in
        spread = torch.mm(kernels, grad.permute(0, 2, 3, 1).reshape(-1, filters).t())
        spread = spread.view(channels, *weight.shape[2:], images, rows, columns)
        total = weight.new_zeros(images, channels, height + 2 * top, width + 2 * left)
        for channel, i, j in itertools.product(range(channels), *map(range, weight.shape[2:])):
            total[:, channel, i : i + down * rows : down, j : j + right * columns : right] += spread[channel, i, j]
        return total[:, :, top : top + height, left : left + width], None, None, None, None


def _is_stem(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and "forward" not in module.__dict__  # someone else's, or ours in an outer guard
        and module.in_channels <= 4
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module.weight.is_cuda
    )


def computes_as_its_class(module: nn.Module) -> bool:
    """Whether a module's forward is that of its class: nobody, or `guarded` alone, gave it another."""
    forward = module.__dict__.get("forward")
    return forward is None or getattr(forward, "func", None) is _stem_forward


def _stem_forward(stem: nn.Conv2d, x: Tensor) -> Tensor:
    return _StemConvolution.apply(x, stem.weight, stem.bias, stem.stride, stem.padding)  # type: ignore[no-any-return]


def _channels_last(weight: Tensor) -> Tensor:
    """The same values with channels innermost, strides spelled out: torch takes them for plain with one channel."""
    channels, height, width = weight.shape[1:]
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device).copy_(weight)


@functools.cache
def _mallopt() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, musl for one, has no mallopt
        return None
