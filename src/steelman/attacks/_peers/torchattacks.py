"""torchattacks (Kim 2020, arXiv:2010.01950): every default stays its own, but for eps, norm, seed and classes."""

from typing import Any

from steelman.attacks._peers.base import Library, Peer, Task, imported

_LINF = "FGSM BIM RFGSM PGD PGDRS EOTPGD FFGSM MIFGSM NIFGSM DIFGSM TIFGSM SINIFGSM VMIFGSM VNIFGSM UPGD Jitter SPSA"
_BOTH = ("Linf", "L2")

PEERS = {name: Peer(("Linf",), "eps") for name in _LINF.split()} | {
    "TPGD": Peer(("Linf",), "eps", targets=False),
    "PGDL2": Peer(("L2",), "eps"),
    "PGDRSL2": Peer(("L2",), "eps"),
    "APGD": Peer(_BOTH, "eps", "norm", targets=False),
    "APGDT": Peer(_BOTH, "eps", "norm", targets=False),
    "FAB": Peer(_BOTH, "eps", "norm", targets=False),
    "Square": Peer(_BOTH, "eps", "norm"),
    "AutoAttack": Peer(_BOTH, "eps", "norm", targets=False),
    "CW": Peer(("L2",)),
    "DeepFool": Peer(("L2",), targets=False),
    "EADL1": Peer(("L1",)),
    "EADEN": Peer(("L1",)),
}


def run(task: Task) -> Any:
    """The images that the attack returns."""
    make = getattr(imported("torchattacks", LIBRARY.package), task.name)
    offered = {"eps": task.eps, "norm": task.norm, "seed": task.seed, "n_classes": task.num_classes}
    attack = make(task.model, **task.arguments(make.__init__, **offered))
    if task.target is not None:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(task.x, task.labels)


LIBRARY = Library("torchattacks", PEERS, run)
