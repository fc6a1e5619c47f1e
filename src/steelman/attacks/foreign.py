"""Foreign: any attack of torchattacks, foolbox, ART, adv-lib or pyautoattack, judged like our own.

Each peer's paper is named in its adapter (steelman.attacks._peers). What a peer returns is a candidate like any other:
it counts only where the threat allows it and the model gets it wrong in float32.
"""

import ast
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steelman.attacks import Attack, Problem
from steelman.attacks._peers import LIBRARIES, Library, Peer, Task, Watched, norm_of, quarantine
from steelman.errors import SteelmanError, UsageError, choices
from steelman.progress import counted
from steelman.spec import literal
from steelman.threats import Ball

_LITERAL = bool | int | float | str | tuple[Any, ...] | None


@dataclass(frozen=True, repr=False)
class Foreign(Attack):
    """One attack of another library, such as Foreign('torchattacks.PGD(eps=0.3, steps=40)').

    `call` is library.Name(keyword=literal, ...), read and never evaluated. The threat's radius and norm, the number of
    classes and a seed are passed on unless the call gives its own; all else stays at the peer's defaults. The peer gets
    `batch` images at a time, the unfinished ones. Its forward and backward rows are counted and shared out evenly among
    them, as a peer does not say which image a row belongs to; the look that judges its result is one forward more.

    Raises:
        UsageError: a call that is none, an unknown library or attack, an argument that is no literal, no image a batch.
    """

    call: str
    batch: int = 100

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    climbs: ClassVar[bool] = False  # what a peer returns is judged, and where it is not allowed the original stays

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1:
            raise UsageError(f"{self!r}: expected a batch of at least one image.")
        self._read()

    def strays(self, threat: Ball) -> bool:  # noqa: ARG002
        """True: what a peer returns may lie anywhere."""
        return True

    def check_norm(self, threat: Ball) -> None:
        """See that the peer searches in the threat's norm: an eps of one norm means nothing in another.

        Raises:
            UsageError: it does not.
        """
        _, name, peer, given = self._read()
        norms = (norm_of(given[peer.choice]),) if peer.choice in given else peer.norms
        if type(threat).__name__ not in norms:
            raise UsageError(
                f"{name} searches in {', '.join(norms)}, the threat is {threat!r}. An eps of one norm means nothing in "
                "another: choose another attack or another threat."
            )

    def search(self, problem: Problem) -> None:
        """Ask the peer, batch by batch, and judge what it returns.

        Raises:
            UsageError: the library is not installed, the attack takes no targets, or not these arguments.
            SteelmanError: the peer failed, or returned something that is no image for each image.
        """
        library, name, peer, _ = self._read()
        if problem.target is not None and not peer.targets:
            raise UsageError(f"{name} takes no targets. Choose another attack, or leave the target out.")
        if problem.done:
            return
        parts = problem.active.nonzero().squeeze(1).split(self.batch)
        for _, rows in zip(counted(problem.progress, len(parts)), parts, strict=True):
            with problem.part(rows) as part:
                if problem.threat.eps > 0:
                    self._ask(library, part)
                else:
                    part.show(part.x)

    def cost(self) -> str:  # noqa: D102
        return f"what {self._read()[1]} spends, 1 forward"

    def _ask(self, library: Library, problem: Problem) -> None:
        _, name, peer, given = self._read()
        seed = int(torch.randint(2**31, (), generator=problem.generator, device=problem.generator.device))
        model = Watched(problem.model, problem.x.device)
        short, x = name.partition(".")[2], problem.x.clone()
        facts = (problem.y, problem.target, problem.threat, problem.num_classes, seed)
        try:
            with quarantine(seed):
                returned = library.run(Task(short, peer, given, model, x, *facts))
        except Exception as error:
            if isinstance(error, SteelmanError) or error is model.failure:
                raise
            if isinstance(error, ImportError):
                raise UsageError(f"{name} needs more than is installed ({error}). Install that with pip.") from error
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SteelmanError(f"{name} failed with {reason[:300]}. Change its arguments, or leave it out.") from error
        if problem.judged:
            problem.forwards += _shared(model.forwards, problem.forwards)
            problem.backwards += _shared(model.backwards, problem.backwards)
        problem.show(_images(name, returned, problem.x))

    def _read(self) -> tuple[Library, str, Peer, dict[str, Any]]:
        """The library, the attack's full name, what is known of it, and the arguments."""
        where = f"Foreign({self.call!r})"
        try:
            tree = ast.parse(self.call.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            tree = None
        call = ast.Call(tree, [], []) if isinstance(tree, ast.Attribute) else tree
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=short), args=[], keywords=keywords):
                pass
            case _:
                raise UsageError(
                    f"{where} names no attack. Expected library.Name(keyword=value, ...) with literal values, such as "
                    "'torchattacks.PGD(eps=0.3, steps=40)'."
                )
        if module not in LIBRARIES:
            raise UsageError(f"{where}: {choices('library', module, LIBRARIES)}")
        library, name = LIBRARIES[module], f"{module}.{short}"
        if short not in library.peers:
            raise UsageError(f"{where}: {choices(f'attack of {module}', short, library.peers)}")
        given: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None:
                raise UsageError(f"{where}: expected keyword=value, not **.")
            given[keyword.arg] = literal(keyword.value, _LITERAL, f"{name}.{keyword.arg}")
        return library, name, library.peers[short], given


def _images(name: str, returned: Any, x: Tensor) -> Tensor:
    """What the peer returned as float32 images on x's device."""
    images = torch.as_tensor(returned).detach().to(x.device, torch.float32)
    if images.shape != x.shape:
        raise SteelmanError(f"{name} returned shape {tuple(images.shape)} for images of shape {tuple(x.shape)}.")
    return images.clone()


def _shared(total: int, like: Tensor) -> Tensor:
    """A total shared out evenly, what is left over to the first."""
    each, over = divmod(total, len(like))
    return each + (torch.arange(len(like), device=like.device) < over).long()
