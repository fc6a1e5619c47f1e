"""foolbox (Rauber et al. 2017, arXiv:1707.04131): an attack's own norm, or the threat's for names such as FMN."""

from dataclasses import replace
from typing import Any

from steelman.attacks._peers.base import Library, Peer, Task, imported

_FIXED = "PGD AdamPGD ProjectedGradientDescentAttack BasicIterativeAttack FastGradientAttack"
_UNTARGETED = ("FastGradientAttack", "DeepFoolAttack")
_NEAREST = {
    "FMNAttack": ("Linf", "L2", "L1", "L0"),
    "DeepFoolAttack": ("Linf", "L2"),
    "CarliniWagnerAttack": ("L2",),
}
_CASE = {"FMNAttack": {"Linf": "LInf"}}  # foolbox writes one family otherwise
_OTHERS = {
    "FGSM": Peer(("Linf",), "eps", targets=False),
    "PGD": Peer(("Linf",), "eps"),
    "FGM": Peer(("L2",), "eps", targets=False),
    "SparseL1DescentAttack": Peer(("L1",), "eps"),
    "DDNAttack": Peer(("L2",)),
    "EADAttack": Peer(("L1",)),
    "NewtonFoolAttack": Peer(("L2",), targets=False),
    "HopSkipJumpAttack": Peer(("Linf", "L2"), choice="constraint", targets=False),
    "BoundaryAttack": Peer(("L2",), targets=False),
}


def _peers() -> dict[str, Peer]:
    """Names as foolbox has them; those of minimal-norm attacks also without `Attack`, and without the norm in front."""
    balls = ("Linf", "L2", "L1")
    found = {
        f"{norm}{name}".replace("LinfAdamPGD", "AdamPGD"): Peer((norm,), "eps", targets=name not in _UNTARGETED)
        for name in _FIXED.split()
        for norm in balls
    } | _OTHERS
    for name, norms in _NEAREST.items():
        targets = name not in _UNTARGETED
        for norm in norms:
            found[f"{_CASE.get(name, {}).get(norm, norm)}{name}"] = Peer((norm,), targets=targets)
        found[name] = Peer(norms, targets=targets)
    return found | {name.removesuffix("Attack"): _named(name, peer) for name, peer in found.items() if not peer.radius}


def _named(name: str, peer: Peer) -> Peer:
    return Peer(peer.norms, choice=peer.choice, targets=peer.targets, attribute=name)


PEERS = _peers()


def run(task: Task) -> Any:
    """The images that the attack returns."""
    foolbox = imported("foolbox", LIBRARY.package)
    name = task.peer.attribute or task.name
    if name in _NEAREST:
        name = f"{_CASE.get(name, {}).get(task.norm, task.norm)}{name}"
    make = getattr(foolbox.attacks, name)
    options: dict[str, Any] = {}
    if task.peer.radius:  # foolbox takes it when it runs
        options["epsilon"] = task.given.get("eps", task.eps)
        task = replace(task, given={name: value for name, value in task.given.items() if name != "eps"})
    attack = make(**task.arguments(make.__init__, constraint=task.norm.lower()))
    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.x.device)
    aim = foolbox.criteria.Misclassification if task.target is None else foolbox.criteria.TargetedMisclassification
    return attack.run(model, task.x, aim(task.labels), **options)


LIBRARY = Library("foolbox", PEERS, run)
