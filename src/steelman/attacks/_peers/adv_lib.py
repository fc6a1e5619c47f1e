"""adv-lib (Rony & Ben Ayed, github.com/jeromerony/adversarial-library): functions of model, inputs and labels."""

from types import ModuleType
from typing import Any

from steelman.attacks._peers.base import Library, Peer, Task, as_number, imported, stand_in

_ALL = ("Linf", "L2", "L1", "L0")

PEERS = {
    "ddn": Peer(("L2",)),
    "fmn": Peer(_ALL, choice="norm"),
    "alma": Peer(("L2", "L1"), choice="distance"),
    "pdgd": Peer(("L2",)),
    "pdpgd": Peer(_ALL, choice="norm"),
    "carlini_wagner_l2": Peer(("L2",)),
    "carlini_wagner_linf": Peer(("Linf",)),
    "fab": Peer(("Linf", "L2", "L1"), choice="norm", targets=False),
    "df": Peer(("Linf", "L2"), choice="norm", targets=False),
    "sdf": Peer(("L2",), targets=False),
    "tr": Peer(("Linf", "L2"), choice="p", targets=False),
    "sigma_zero": Peer(("L0",), targets=False),
    "fga": Peer(("L0",)),
    "vfga": Peer(("L0",)),
    "apgd": Peer(("Linf", "L2", "L1"), "eps", "norm"),
    "apgd_targeted": Peer(("Linf", "L2", "L1"), "eps", "norm", targets=False),
    "pgd_linf": Peer(("Linf",), "ε"),
}


def run(task: Task) -> Any:
    """The images that the attack returns."""
    attack = getattr(_attacks(), task.name)
    norm = as_number(task.norm)
    offered = {"norm": norm, "p": norm, "distance": task.norm.lower(), "targeted": task.target is not None}
    offered |= {task.peer.radius: task.eps} if task.peer.radius else {}
    return attack(task.model, task.x, task.labels, **task.arguments(attack, **offered))


def _attacks() -> ModuleType:
    imported("adv_lib", LIBRARY.package)
    imported("steelman.vision", "steelman")  # adv-lib imports torchvision, which ours must do first
    with stand_in("visdom"):  # for its plots only
        return imported("adv_lib.attacks", LIBRARY.package)


LIBRARY = Library("adv-lib", PEERS, run)
