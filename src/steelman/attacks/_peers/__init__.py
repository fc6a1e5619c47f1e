"""Other libraries' attacks, one adapter a library; a library is imported when one of its attacks is run, not before."""

from steelman.attacks._peers import adv_lib, art, foolbox, pyautoattack, torchattacks
from steelman.attacks._peers.base import Library, Peer, Task, Watched, norm_of, quarantine

__all__ = ["LIBRARIES", "Library", "Peer", "Task", "Watched", "norm_of", "quarantine"]

LIBRARIES = {
    "torchattacks": torchattacks.LIBRARY,
    "foolbox": foolbox.LIBRARY,
    "art": art.LIBRARY,
    "adv_lib": adv_lib.LIBRARY,
    "pyautoattack": pyautoattack.LIBRARY,
}
