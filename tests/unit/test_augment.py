"""Random shifts of training images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steelman.augment import shifted
from steelman.data import Data, Splits
from steelman.errors import UsageError
from steelman.fitting import fit
from steelman.frozen import caches
from steelman.models.linear import Linear1
from steelman.recipe import Recipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_shift_is_a_move_by_whole_pixels_and_all_of_them_come():
    one = torch.rand(1, 3, 5, 7, generator=seeded())
    moved = shifted(one.expand(500, -1, -1, -1), 1, seeded(1))
    possible = [F.pad(one, (1 + r, 1 - r, 1 + d, 1 - d))[0, :, 1:-1, 1:-1] for d in (-1, 0, 1) for r in (-1, 0, 1)]
    counts = [int((moved == each).flatten(1).all(1).sum()) for each in possible]
    assert sum(counts) == 500
    assert min(counts) > 30  # 500 / 9 is 56, with a standard deviation of 7


def test_images_of_a_batch_move_by_themselves_and_keep_their_content():
    x = torch.zeros(200, 1, 9, 9)
    x[:, 0, 4, 4] = torch.rand(200, generator=seeded())
    moved = shifted(x, 2, seeded(1))
    torch.testing.assert_close(moved.amax((1, 2, 3)), x.amax((1, 2, 3)), rtol=0, atol=0)
    assert len(moved.flatten(1).argmax(1).unique()) == 25


def test_no_shift_draws_nothing():
    x, generator = torch.rand(3, 1, 4, 4), seeded()
    before = generator.get_state()
    assert shifted(x, 0, generator) is x
    assert torch.equal(generator.get_state(), before)


def test_a_recipe_says_by_how_much_and_training_sees_it():
    images = torch.zeros(8, 1, 6, 6, dtype=torch.uint8)
    images[:4, :, 2, 2] = 255
    images[4:, :, 2, 3] = 255
    data = Data(images, torch.arange(8) // 4, ("left", "right"), "dots")
    splits = Splits(data, data, data)
    losses = {}
    for shift in (0, 2):
        model = Linear1(width=4)((1, 6, 6), 2, seeded())
        recipe = Recipe(lr=0.05, epochs=60, batch_size=8, shift=shift)
        losses[shift] = fit(model, splits, recipe, generator=seeded()).column("train_loss")[-1]
    assert losses[0] < 0.05  # where the dot is tells the class
    assert losses[2] > 0.3  # a dot moved by two pixels is a dot of the other class


def test_features_of_frozen_blocks_are_not_kept_where_images_move_or_blocks_draw_noise():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    assert caches(model, Recipe(frozen=1))
    assert not caches(model, Recipe(frozen=1, shift=1))
    model[0].noise = torch.Generator()
    assert not caches(model, Recipe(frozen=1))


def test_a_recipe_refuses_a_negative_shift():
    with pytest.raises(UsageError, match=r"^shift is -1\. Expected 0 pixels or more"):
        Recipe(shift=-1)
