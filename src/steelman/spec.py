"""Values with a name: frozen dataclasses whose `repr` is their constructor call, and the way back from text to value.

`parse(repr(value)) == value`. Text is read with `ast` and never evaluated: names, calls, tuples, numbers, strings,
`8/255`, `inf`, `None`, `True`, `False`. A bare name is a call without arguments, names ignore case.
"""

import ast
import dataclasses
import functools
import importlib
import math
import pkgutil
import types
import typing
from typing import Any, TypeVar

from steelman.errors import SpecError, choices

# kind -> (module that holds the kind's base class and the things of that kind, name of the base class)
KINDS = {
    "threat": ("steelman.threats", "Threat"),
    "perturbation": ("steelman.threats.perturbations", "Perturbation"),
    "attack": ("steelman.attacks", "Attack"),
    "objective": ("steelman.defences", "Objective"),
    "shield": ("steelman.defences", "Shield"),
    "certifier": ("steelman.certify", "Certifier"),
    "inversion": ("steelman.features", "Inversion"),
    "architecture": ("steelman.models", "Architecture"),
    "data": ("steelman.data", "Source"),
    "recipe": ("steelman.recipe", "Recipe"),
    "training": ("steelman.train", "Training"),
    "measurement": ("steelman.measurement", "Measurement"),
    "certification": ("steelman.certification", "Certification"),
    "comparison": ("steelman.comparison", "Comparison"),
    "crossing": ("steelman.crossing", "Crossing"),
    "study": ("steelman.studies", "Study"),
}


_EXAMPLES = {
    "threat": "Linf(0.3)",
    "objective": "Adversarial(PGD(steps=7), Linf(0.3))",
    "shield": "JPEG(quality=50)",
    "certifier": "CROWN()",
    "architecture": "FastCNN(filters=32)",
    "data": "MNIST()",
    "recipe": "Recipe(epochs=5)",
    "study": "Finetune(seed=1)",
}  # of the other kinds: an attack


@dataclasses.dataclass(frozen=True, repr=False)
class Spec:
    """Base of everything with a name. Fields without a default are printed by position, others only when changed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # 1 given for a float means 1.0, so that equal values print equally
            value = getattr(self, field.name)
            if type(value) is int and _takes_float(_hints(type(self))[field.name]):
                object.__setattr__(self, field.name, float(value))

    def __repr__(self) -> str:
        parts = []
        for field in sorted(dataclasses.fields(self), key=lambda field: field.kw_only is True):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                parts.append(_text(value))
            elif value != (default := _default(field)) or type(value) is not type(default):
                parts.append(f"{field.name}={_text(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    __str__ = __repr__


S = TypeVar("S", bound=Spec)


def catalogue(kind: str) -> dict[str, type[Spec]]:
    """All final classes of a kind (see KINDS) by name, sorted.

    Raises:
        SpecError: two classes of the kind share a name.
    """
    module_name, base_name = KINDS[kind]
    module = importlib.import_module(module_name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"{module_name}.{info.name}")
    found: dict[str, type[Spec]] = {}
    for cls in _finals(getattr(module, base_name)):
        twin = found.setdefault(cls.__name__.lower(), cls)
        if twin is not cls:
            raise SpecError(
                f"two of kind {kind} are named {cls.__name__}: in {twin.__module__} and {cls.__module__}. Rename one."
            )
    return {cls.__name__: cls for _, cls in sorted(found.items())}


def parse(text: str, kind: str | None = None) -> Any:
    """The value that a spec string names, of one kind or, without `kind`, of any.

    Raises:
        SpecError: no such name or field, a value of the wrong type, or text that is more than a literal.
    """
    example = _EXAMPLES.get(kind or "", "PGD(steps=40)")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpecError(
            f"cannot read {text!r} as a spec. Expected a name or a call such as {example}; quote it for the shell."
        ) from None
    if not isinstance(tree, ast.Name | ast.Call):
        raise SpecError(f"{text!r} names nothing. Expected a name or a call such as {example}.")
    try:
        return _component(tree, [kind] if kind else list(KINDS), kind or "name")
    except (OverflowError, RecursionError):
        raise SpecError(
            f"cannot read {text!r} as a spec: a number too large for a float, or nested too deeply. "
            f"Expected a call such as {example}."
        ) from None


def _component(tree: ast.Name | ast.Call, kinds: list[str], what: str) -> Spec:
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    if not isinstance(call.func, ast.Name):
        raise SpecError(f"{ast.unparse(tree)!r} is not a plain name. Expected a call such as PGD(steps=40).")
    known = {name.lower(): cls for kind in kinds for name, cls in catalogue(kind).items()}
    cls = known.get(call.func.id.lower())
    if cls is None:
        raise SpecError(choices(what, call.func.id, (cls.__name__ for cls in known.values())))
    fields = [field for field in dataclasses.fields(cls) if field.init]
    given: dict[str, ast.expr] = {}
    by_place = [field for field in fields if not field.kw_only]
    if len(call.args) > len(by_place):
        raise SpecError(f"{cls.__name__} takes at most {len(by_place)} values, {len(call.args)} were given.")
    for field, value in zip(by_place, call.args, strict=False):
        given[field.name] = value
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg not in {field.name for field in fields}:
            raise SpecError(choices(f"field of {cls.__name__}", keyword.arg or "**", (f.name for f in fields)))
        if keyword.arg in given:
            raise SpecError(f"{cls.__name__} was given {keyword.arg} twice.")
        given[keyword.arg] = keyword.value
    for field in fields:
        if field.name not in given and _default(field) is dataclasses.MISSING:
            raise SpecError(f"{cls.__name__} needs {field.name}: write {cls.__name__}({field.name}=...).")
    hints = _hints(cls)
    return cls(**{name: literal(tree, hints[name], f"{cls.__name__}.{name}") for name, tree in given.items()})


def literal(tree: ast.expr, hint: Any, where: str) -> Any:
    """The Python value of one argument, checked against the field's annotation."""
    value = _literal(tree, hint, where)
    if type(value) is int and _takes_float(hint):
        value = float(value)
    if not _fits(value, hint):
        raise SpecError(f"{where} is {ast.unparse(tree)}. Expected {_expected(hint)}.")
    return value


def _literal(tree: ast.expr, hint: Any, where: str) -> Any:
    match tree:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, hint, where)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _number(right, hint, where)
            if divisor == 0:
                raise SpecError(f"{where} is {ast.unparse(tree)}: a division by zero. Expected a number such as 8/255.")
            return _number(left, hint, where) / divisor
        case ast.Tuple(elts=items) | ast.List(elts=items):
            inner = _item_hint(hint)
            return tuple(literal(item, inner, where) for item in items)
        case ast.Name() | ast.Call():
            kinds = _kinds_of(hint)
            if not kinds:
                raise SpecError(f"{where} is {ast.unparse(tree)}. Expected {_expected(hint)}.")
            return _component(tree, kinds, " or ".join(kinds))
        case _:
            raise SpecError(
                f"{where} is {ast.unparse(tree)!r}, which is more than a literal. Expected {_expected(hint)}."
            )


def _number(tree: ast.expr, hint: Any, where: str) -> int | float:
    value = _literal(tree, hint, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{where} is {ast.unparse(tree)}. Expected {_expected(hint)}.")
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _takes_float(hint: Any) -> bool:
    return float in _options(hint) and int not in _options(hint)


def _item_hint(hint: Any) -> Any:
    for option in _options(hint):
        if typing.get_origin(option) is tuple:
            return typing.get_args(option)[0]
    return Any


def _kinds_of(hint: Any) -> list[str]:
    """The kinds whose base class an annotation admits."""
    classes = [option for option in _options(hint) if isinstance(option, type) and issubclass(option, Spec)]
    found = []
    for kind, (module, base) in KINDS.items():
        if any(cls.__name__ == base and cls.__module__ == module for cls in classes):
            found.append(kind)
    return found


def _fits(value: Any, hint: Any) -> bool:
    for option in _options(hint):
        origin = typing.get_origin(option)
        if option is Any:
            return True
        if origin is typing.Literal:
            if value in typing.get_args(option):
                return True
        elif origin is tuple:
            if isinstance(value, tuple):
                return True
        elif option is float:
            if isinstance(value, float):
                return True
        elif option is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif isinstance(option, type) and isinstance(value, option):
            return True
    return False


def _expected(hint: Any) -> str:
    words = []
    for option in _options(hint):
        origin = typing.get_origin(option)
        if origin is typing.Literal:
            words.append("one of " + ", ".join(repr(arg) for arg in typing.get_args(option)))
        elif origin is tuple:
            words.append(f"a tuple such as ({_expected(_item_hint(option))}, ...)")
        elif kinds := _kinds_of(option):
            words.append(f"one of {', '.join(name for kind in kinds for name in catalogue(kind))}")
        else:
            words.append(_WORDS.get(option, getattr(option, "__name__", str(option))))
    return " or ".join(words)


_WORDS: dict[Any, str] = {
    float: "a number such as 0.3 or 8/255",
    int: "a whole number",
    bool: "True or False",
    str: "a quoted text",
    type(None): "None",
}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _finals(base: type) -> list[type[Spec]]:
    subclasses = base.__subclasses__()
    if not subclasses:
        return [base]
    return [final for cls in subclasses for final in _finals(cls)]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, tuple):
        return f"({', '.join(_text(item) for item in value)}{',' if len(value) == 1 else ''})"
    return repr(value)


def _float_text(value: float) -> str:
    """`8/255` where that is the very same float and shorter, else Python's own text."""
    plain = repr(value)
    if abs(value) < 1e6:
        numerator = round(value * 255)
        if numerator / 255 == value and len(f"{numerator}/255") < len(plain):
            return f"{numerator}/255"
    return plain
