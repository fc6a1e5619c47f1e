"""The Adversarial Robustness Toolbox (Nicolae et al. 2018, arXiv:1807.01069)."""

from typing import Any

import numpy as np

from steelman.attacks._peers.base import Library, Peer, Task, as_number, imported, stand_in

_BALLS = ("Linf", "L2", "L1")

PEERS = {
    "FastGradientMethod": Peer(_BALLS, "eps", "norm"),
    "BasicIterativeMethod": Peer(("Linf",), "eps"),
    "MomentumIterativeMethod": Peer(_BALLS, "eps", "norm"),
    "ProjectedGradientDescent": Peer(_BALLS, "eps", "norm"),
    "PGD": Peer(_BALLS, "eps", "norm", attribute="ProjectedGradientDescent"),
    "AutoProjectedGradientDescent": Peer(_BALLS, "eps", "norm"),
    "AutoConjugateGradient": Peer(_BALLS, "eps", "norm"),
    "AutoAttack": Peer(_BALLS, "eps", "norm", targets=False),
    "SquareAttack": Peer(("Linf", "L2"), "eps", "norm", targets=False),
    "CarliniL2Method": Peer(("L2",)),
    "CarliniLInfMethod": Peer(("Linf",)),
    "CarliniL0Method": Peer(("L0",)),
    "ElasticNet": Peer(("L1",)),
    "DeepFool": Peer(("L2",), targets=False),
    "NewtonFool": Peer(("L2",), targets=False),
    "HopSkipJump": Peer(("Linf", "L2"), choice="norm", targets=False),
    "BoundaryAttack": Peer(("L2",), targets=False),
}


def run(task: Task) -> Any:
    """The images that the attack returns.

    The step is a third of eps unless given, as in ART's defaults (.1 and .3): its absolute default it refuses for a
    smaller eps. All images are one batch for it, as for the other peers.
    """
    evasion = imported("art.attacks.evasion", LIBRARY.package)
    make = getattr(evasion, task.peer.attribute or task.name)
    offered = {"eps": task.eps, "eps_step": float(task.given.get("eps", task.eps)) / 3, "norm": as_number(task.norm)}
    offered |= {"targeted": task.target is not None, "batch_size": len(task.x), "verbose": False}
    attack = make(_classifier(task), **task.arguments(make.__init__, **offered))
    labels = np.eye(task.num_classes, dtype=np.float32)[task.labels.cpu().numpy()]
    with stand_in("multiprocess"):  # for AutoAttack in several processes
        return attack.generate(task.x.cpu().numpy(), y=labels)


def _classifier(task: Task) -> Any:
    from torch import nn

    make = imported("art.estimators.classification", LIBRARY.package).PyTorchClassifier
    return make(
        model=task.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(task.x.shape[1:]),
        nb_classes=task.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if task.x.is_cuda else "cpu",
    )


LIBRARY = Library("adversarial-robustness-toolbox", PEERS, run)
