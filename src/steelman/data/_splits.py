"""Three splits out of one set: stratified, from a fixed seed, so that everyone gets the same ones.

scikit-learn's `train_test_split` refuses sets where a share is smaller than the number of classes, and leaves rare
classes out of a part; here every part holds every class.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from steelman.data import Data, Splits
from steelman.errors import DataError

SHARES = (0.6, 0.2, 0.2)  # train, val, test


def stratified(data: Data, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Positions of the images of each part, in a fixed shuffled order; every class has its share, at least one image.

    Raises:
        DataError: a class has fewer images than there are parts.
    """
    random = np.random.RandomState(0)  # numpy promises that this old generator's stream never changes
    labels = data.labels.numpy()
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        if len(members) < len(shares):
            raise DataError(
                f"{data.name}: class {data.classes[label]!r} has {len(members)} images. Expected at least "
                f"{len(shares)}, one for each of {len(shares)} splits: add images or give the splits yourself."
            )
        rest = 0
        for part, share in zip(parts[1:], shares[1:], strict=True):
            num = max(1, round(share * len(members)))
            part.append(members[rest : rest + num])
            rest += num
        parts[0].append(members[rest:])
    return tuple(torch.from_numpy(random.permutation(np.concatenate(part))) for part in parts)


def shuffled(data: Data) -> Data:
    """The same images in a fixed shuffled order, so that the first n are a fair sample of a set sorted by class."""
    return data.take(torch.from_numpy(np.random.RandomState(0).permutation(len(data))))


def three(data: Data) -> Splits:
    """Train, val and test: 60, 20 and 20 % of every class, named after the set.

    Raises:
        DataError: a class has fewer than three images.
    """
    train, val, test = (data.take(index) for index in stratified(data, SHARES))
    return named(data.name, train, val, test)


def named(name: str, train: Data, val: Data, test: Data) -> Splits:
    """The three splits, each called after the set and its part."""
    return Splits(
        replace(train, name=f"{name} train"), replace(val, name=f"{name} val"), replace(test, name=f"{name} test")
    )
