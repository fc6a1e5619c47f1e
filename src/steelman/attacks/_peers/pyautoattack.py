"""pyautoattack: the reference code of AutoAttack (Croce & Hein 2020, arXiv:2003.01690), packaged."""

from typing import Any

from steelman.attacks._peers.base import Library, Peer, Task, imported

PEERS = {"AutoAttack": Peer(("Linf", "L2", "L1"), "eps", "norm", targets=False)}


def run(task: Task) -> Any:
    """The images that the attack returns."""
    make = imported("pyautoattack", LIBRARY.package).AutoAttack
    offered = {"eps": task.eps, "norm": task.norm, "seed": task.seed, "device": task.x.device}
    attack = make(task.model, **task.arguments(make.__init__, **offered))
    x_adv, _ = attack.run_standard_evaluation(task.x, task.y, batch_size=len(task.x))
    return x_adv


LIBRARY = Library("pyautoattack", PEERS, run)
