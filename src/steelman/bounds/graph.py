"""A network as a list of steps: what linear bounds and bounds for training walk through, layer by layer.

Torch's own tracer (torch.fx) runs the model's `forward` once on symbols, so any module will do, residual sums included,
as long as what it calls is known here; the rest is named in the error.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from steelman.bounds.box import Unknown
from steelman.engine import computes_as_its_class

SUPPORTED = (
    "convolutions and linear layers, batch normalisation, ReLU, clamp and hardtanh, max and average pooling, "
    "padding with zeros, flatten and reshape, dropout, sums of two branches, sums and products with constants"
)


@dataclass(frozen=True)
class Product:
    """A convolution or a linear layer; folded into it are flattening before it and batch normalisation after it."""

    module: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    flat: bool = False

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with other weights; those of a flattened x may have its shape, which saves reordering x."""
        if isinstance(self.module, nn.Linear):
            if self.flat and weight.ndim == 4:  # one order for both: that of channels-last memory
                x, weight = x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
            return F.linear(x.flatten(1) if self.flat else x, weight.flatten(1), bias)
        stride, padding = self.module.stride, self.module.padding
        return F.conv2d(x, weight, bias, stride, padding, self.module.dilation, self.module.groups)


@dataclass(frozen=True)
class Norm:
    """Batch normalisation."""

    module: nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class Scale:
    """scale * x + shift; the constants are read when asked for, as they may be learned."""

    constants: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Clamp:
    """Values moved into an interval: ReLU is the one from 0 to infinity."""

    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        """The values, moved."""
        return F.relu(x) if (self.low, self.high) == (0.0, torch.inf) else x.clamp(self.low, self.high)


RELU = Clamp(0.0, torch.inf)


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window."""

    options: Mapping[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        """The pooled values."""
        return F.max_pool2d(x, **self.options)


@dataclass(frozen=True)
class Mean:
    """A linear function whose weights are not negative: means; other shapes or no change, which do not round."""

    function: Callable[[Tensor], Tensor]
    rounds: bool = False


@dataclass(frozen=True)
class Dropout:
    """Values that are dropped at random in training."""

    module: nn.Module


@dataclass(frozen=True)
class Sum:
    """The sum of two branches, or their difference."""

    sign: float


_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div"}
_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_LAYERS = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Hardtanh, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.ZeroPad2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d),
)
_WEIGHT_SETTERS = "torch.nn.utils."  # weight and spectral normalisation, pruning
_FACTS = ("shape", "ndim", "dtype", "device")  # attributes that are no values

Kind: TypeAlias = Product | Norm | Scale | Clamp | MaxPool | Mean | Dropout | Sum


@dataclass(frozen=True)
class Step:
    """One function of the network: the steps that it takes values from (0 is the image) and where it stands."""

    kind: Kind
    inputs: tuple[int, ...]
    node: fx.Node


@dataclass(frozen=True)
class Graph:
    """Steps 1, 2, ... in the order of computing; the last one gives the logits."""

    module: fx.GraphModule
    steps: tuple[Step, ...]

    @property
    def image(self) -> fx.Node:
        """The node that stands for step 0."""
        return next(node for node in self.module.graph.nodes if node.op == "placeholder")


def trace(model: nn.Module) -> Graph:
    """The model's steps, in the mode in which it is.

    Raises:
        Unknown: the model calls something else, or takes a way that depends on values; says what and where.
    """
    tracer, root = _Tracer(), nn.Sequential(model)
    try:
        module = fx.GraphModule(root, tracer.trace(root))
    except Unknown:
        raise
    except Exception as error:  # whatever a forward does to symbols; the network itself has not been run
        raise Unknown(f"a forward that depends on the values or is beyond torch.fx ({_first_line(error)})") from None
    places: dict[fx.Node, int] = {}
    constants: dict[fx.Node, Callable[[], Tensor]] = {}
    steps: list[Step] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if places:
                raise Unknown("a forward with a second argument")
            places[node] = 0
        elif node.op == "get_attr":
            constants[node] = _attribute(module, node.target)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node) or places.get(node.args[0]) != len(steps):
                raise Unknown("an output that is not the last layer's tensor")
        elif not _is_size(node, places):
            _check_in_place(node, module)
            inputs = tuple(places[one] for one in node.all_input_nodes if one in places)
            if not inputs:
                raise Unknown(f"{_place(node, _name(node))}, on what does not come from the image")
            steps.append(Step(_kind(node, module, constants), inputs, node))
            places[node] = len(steps)
    return Graph(module, tuple(steps))


def after(graph: Graph, place: int) -> nn.Module | None:
    """The network from the output of a step on, 0 being the image; None where it asks for more, such as a size."""
    start, rest = graph.steps[place - 1].node if place else graph.image, fx.Graph()
    copies = {start: rest.placeholder("value")}
    reached = False
    try:
        for node in graph.module.graph.nodes:
            if node.op == "get_attr" or reached:
                copies[node] = rest.node_copy(node, copies.__getitem__)
            reached |= node is start
    except KeyError:
        return None
    return fx.GraphModule(graph.module, rest)


class _Tracer(fx.Tracer):
    """Torch's tracer, which gives symbols to functions that may be checked for tensors: ours are called unchecked."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if type(m).__module__.startswith("steelman."):
            if m._forward_hooks or m._forward_pre_hooks or not computes_as_its_class(m):
                raise Unknown(f"a layer ({type(m).__name__}, with hooks or a forward of its own)")
            forward = functools.partial(inspect.unwrap(type(m).forward), m)
        return super().call_module(m, forward, args, kwargs)


def _kind(node: fx.Node, module: fx.GraphModule, constants: Mapping[fx.Node, Callable[[], Tensor]]) -> Kind:
    if node.op == "call_module":
        return _of_module(node, module.get_submodule(str(node.target)))
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    name = _name(node)
    if name in ("add", "sub", "mul", "div", "neg"):
        return _arithmetic(name, node, constants)
    rest = list(node.args[1:])
    if name in ("view", "reshape") and rest and isinstance(rest[0], fx.Node):  # the number of images, spelled out
        sizes: list[Any] = rest[1:]
        if not any(isinstance(one, fx.Node) for one in sizes):
            return Mean(lambda x: x.reshape(len(x), *sizes))
    if not isinstance(node.args[0], fx.Node) or any(isinstance(one, fx.Node) for one in (*rest, *options.values())):
        raise Unknown(_place(node, name))
    match name:
        case "relu":
            return RELU
        case "clamp" | "hardtanh":
            return _clamp(node, *rest, **options)
        case "flatten" if rest == [1] and not options:
            return Mean(nn.Flatten())
        case "flatten" | "view" | "reshape" | "contiguous" | "expand":
            return Mean(_bound(node.target, rest, options))
        case "pad" if _pads_with_zeros(*rest, **options):
            return Mean(_bound(node.target, rest, options))
        case "mean" | "avg_pool2d" | "adaptive_avg_pool2d":
            return Mean(_bound(node.target, rest, options), rounds=True)
        case "max_pool2d":
            return MaxPool(dict(zip(_POOLING, rest, strict=False)) | options)
        case "dropout" if not (options.get("training", True) if len(rest) < 2 else rest[1]):
            return Mean(lambda x: x)
        case _:
            raise Unknown(_place(node, name))


def _pads_with_zeros(pad: Any, mode: Any = "constant", value: Any = None) -> bool:  # noqa: ARG001
    return mode == "constant" and not value


def _of_module(node: fx.Node, module: nn.Module) -> Kind:
    where = f"layer {str(node.target).partition('.')[2] or 'model'} ({type(module).__name__}"
    if _altered(module):
        raise Unknown(f"{where}, with hooks or a forward of its own)")
    match module:
        case nn.Conv2d() if module.padding_mode == "zeros":
            return Product(module)
        case nn.Linear():
            return Product(module)
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.track_running_stats and module.affine:
            return Norm(module)
        case nn.ReLU():
            return RELU
        case nn.Hardtanh():
            return Clamp(module.min_val, module.max_val)
        case nn.MaxPool2d() if not module.return_indices:
            return MaxPool({name: getattr(module, name) for name in _POOLING})
        case nn.Flatten() | nn.Identity() | nn.ZeroPad2d():
            return Mean(module)
        case nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            return Mean(module, rounds=True)
        case nn.Dropout() | nn.Dropout2d():
            return Dropout(module)
        case _:
            raise Unknown(f"{where})")


def _altered(module: nn.Module) -> bool:
    """Whether a layer computes something else than its weights say; hooks by which torch itself sets them are none."""
    before = [one for one in module._forward_pre_hooks.values() if not type(one).__module__.startswith(_WEIGHT_SETTERS)]
    kind = next((one for one in _LAYERS if isinstance(module, one)), type(module))
    methods = all(
        getattr(type(module), name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward")
    )
    return bool(before or module._forward_hooks) or not methods or not computes_as_its_class(module)


def _arithmetic(name: str, node: fx.Node, constants: Mapping[fx.Node, Callable[[], Tensor]]) -> Kind:
    parts = [constants.get(one, one) if isinstance(one, fx.Node) else one for one in node.args]
    branches = [isinstance(part, fx.Node) for part in parts]
    if node.kwargs or (name in ("mul", "div") and all(branches) and len(parts) > 1) or (name == "div" and branches[-1]):
        raise Unknown(_place(node, name))
    if all(branches) and name in ("add", "sub"):
        return Sum(1.0 if name == "add" else -1.0)

    def read() -> tuple[Tensor, Tensor]:
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if name == "neg":
            return -one, zero
        values = [part() if callable(part) else part for part in parts if not isinstance(part, fx.Node)]
        value = values[0] if isinstance(values[0], Tensor) else torch.tensor(values[0], dtype=torch.float64)
        if name == "mul":
            return value, zero
        if name == "div":
            return 1 / value, zero
        sign = -1.0 if name == "sub" else 1.0
        return (one, sign * value) if branches[0] else (sign * one, value)

    return Scale(read)


def _clamp(node: fx.Node, *ends: Any, **named: Any) -> Kind:
    low = ends[0] if ends else named.get("min", named.get("min_val"))
    high = ends[1] if len(ends) > 1 else named.get("max", named.get("max_val"))
    low, high = (-torch.inf if low is None else low), (torch.inf if high is None else high)
    if "hardtanh" in str(node.target) and not ends and not named:
        low, high = -1.0, 1.0
    return Clamp(float(low), float(high))


def _is_size(node: fx.Node, places: Mapping[fx.Node, int]) -> bool:
    """Whether a step asks for a tensor's size or a part of it, and not for values."""
    match _name(node), node.args:
        case (("size" | "dim"), _):
            return True
        case "getattr", (_, attribute, *_):
            return attribute in _FACTS
        case "getitem", (fx.Node() as whole, *_):
            return whole not in places and whole.op != "get_attr"
        case _:
            return False


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _bound(target: Any, rest: list[Any], options: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    function = getattr(Tensor, {"view": "reshape"}.get(target, target)) if isinstance(target, str) else target
    return lambda x: function(x, *rest, **options)


def _attribute(module: nn.Module, target: Any) -> Callable[[], Tensor]:
    def read() -> Tensor:
        value: Any = module
        for part in str(target).split("."):
            value = getattr(value, part)
        return value

    return read


def _check_in_place(node: fx.Node, module: fx.GraphModule) -> None:
    """A value that is written over must be nobody else's, under any of its views."""
    if node.op == "call_module":
        written = bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    else:
        own = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        by_name = own in _IN_PLACE or (own.endswith("_") and not own.startswith("_"))
        written = by_name or bool(node.kwargs.get("inplace")) or (own == "relu" and True in node.args[1:])
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    while written and source is not None:
        if len(source.users) > 1 or source.op == "placeholder":
            raise Unknown(f"{_place(node, _name(node))} in place, on a value that is used again")
        shared = source.op != "get_attr" and _shares(source, module)
        source = source.all_input_nodes[0] if shared else None


def _shares(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether the values may be those of another tensor, under another shape."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Flatten | nn.Identity | nn.Dropout | nn.Dropout2d)
    return _name(node) in ("flatten", "view", "reshape", "contiguous", "expand", "dropout")


def _name(node: fx.Node) -> str:
    """What a function or method does, whatever its form."""
    own = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    own = _IN_PLACE.get(own, own) if node.op != "call_module" else own
    return {"truediv": "div"}.get(own.strip("_"), own.strip("_"))


def _place(node: fx.Node, name: str) -> str:
    """The function and the module that calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    where = [str(path).partition(".")[2] for path in stack]
    return f"{name} in {where[-1]}" if where and where[-1] else name
