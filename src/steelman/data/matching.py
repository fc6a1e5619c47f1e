"""Labels as a model numbers its classes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from steelman.data import Data
from steelman.errors import DataError


def matched(data: Data, classes: tuple[str, ...]) -> tuple[Data, tuple[str, ...]]:
    """The data with labels as the model numbers them: by name where the model knows every name, else by position.

    Raises:
        DataError: more classes than the model knows.
    """
    if data.classes == classes:
        return data, ()
    if set(data.classes) <= set(classes):
        numbers = torch.tensor([classes.index(name) for name in data.classes], device=data.labels.device)
        return replace(data, labels=numbers[data.labels], classes=classes), ()
    if len(data.classes) > len(classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes ({few(data.classes)}), the model knows {len(classes)} "
            f"({few(classes)}). Choose data of the classes that it was trained on."
        )
    note = f"classes are matched by position: {few(data.classes)} in the data, {few(classes)} in the model"
    return replace(data, classes=classes), (note,)


def few(names: Sequence[str]) -> str:
    """At most five of the names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
