"""Frozen blocks: they do not change, their features are computed once, and the weights are those of recomputing."""

import pytest
import torch
from torch import nn

from steelman import frozen
from steelman.attacks.fgsm import FGSM
from steelman.data import Data, Splits
from steelman.data.classes import Classes
from steelman.data.digits import Digits
from steelman.defences.adversarial import Adversarial
from steelman.errors import DataError, SpecError, UsageError
from steelman.fitting import fit
from steelman.models.cuts import divided
from steelman.models.fast_cnn import FastCNN
from steelman.recipe import Recipe
from steelman.threats import Linf

RECIPE = Recipe(epochs=2, batch_size=16, frozen=2, keep="last")


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _net() -> nn.Module:
    return FastCNN(batch_norm=True, filters=4, hidden=12)((1, 16, 16), 3, _seeded())


@pytest.fixture(scope="module")
def splits() -> Splits:
    images = torch.randint(256, (60, 1, 16, 16), generator=_seeded(), dtype=torch.uint8)
    data = Data(images, torch.arange(60) % 3, ("a", "b", "c"))
    return Splits(data.first(40), data.take(torch.arange(40, 60)), data)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_cached_features_train_the_weights_of_recomputing(
    blocks: int, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=2, batch_size=16, frozen=blocks, keep="last")
    cached, whole, start = _net(), _net(), _net()
    history = fit(cached, splits, recipe, generator=_seeded())
    monkeypatch.setattr(frozen, "caches", lambda model, recipe: False)
    again = fit(whole, splits, recipe, generator=_seeded())
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value, atol=1e-4, rtol=0)
    assert history.column("val_accuracy") == again.column("val_accuracy")
    held, moved = (list(part.state_dict().values()) for part in divided(cached, blocks))
    before, drawn = (list(part.state_dict().values()) for part in divided(start, blocks))
    assert all(torch.equal(one, two) for one, two in zip(held, before, strict=True))  # BatchNorm's statistics, too
    assert not any(torch.equal(one, two) for one, two in zip(moved, drawn, strict=True))
    assert all(parameter.requires_grad for parameter in cached.parameters())


def test_attacks_see_pixels_and_frozen_blocks_still_hold(splits: Splits) -> None:
    model, start = _net(), _net()
    fit(model, splits, Recipe(Adversarial(FGSM(), Linf(0.1)), epochs=1, frozen=2), generator=_seeded())
    held, before = (list(divided(net, 2)[0].state_dict().values()) for net in (model, start))
    assert all(torch.equal(one, two) for one, two in zip(held, before, strict=True))


def test_features_too_large_for_memory_are_mapped(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = frozen.features(_net(), 1, splits.train)
    monkeypatch.setattr(frozen, "LARGEST", 0)
    outside = frozen.features(_net(), 1, splits.train)
    assert torch.equal(inside.pixels(), outside.pixels())
    assert inside.pixels(slice(0, 2)).shape == (2, 4, 8, 8)


def test_an_unknown_cut_is_refused_before_training(splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"no cut behind 9 blocks\. Possible: 1, 2, 3\."):
        fit(_net(), splits, Recipe(frozen=9), generator=_seeded())
    with pytest.raises(UsageError, match=r"frozen is -1\. Expected 0 blocks or more"):
        Recipe(frozen=-1)


def test_classes_are_kept_and_numbered_as_named() -> None:
    whole, part = Digits().splits(), Classes(Digits(), ("7", "3")).splits()
    assert part.test.classes == ("7", "3")
    assert len(part.test) == int(((whole.test.labels == 7) | (whole.test.labels == 3)).sum())
    assert torch.equal(part.test.images[part.test.labels == 0], whole.test.images[whole.test.labels == 7])
    with pytest.raises(DataError, match="unknown class 'seven'"):
        Classes(Digits(), ("seven", "3")).splits()
    with pytest.raises(SpecError, match="Expected two or more different names"):
        Classes(Digits(), ("3",))
