"""Denoising: opening by hand, and principal components that lose nothing or nearly everything."""

import pytest
import torch

from steelman.errors import UsageError
from steelman.features.denoising import denoised, opened, projected


def test_opening_keeps_squares_and_removes_specks_and_thin_lines():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 1:4, 1:3] = 0.8  # 3 x 2: stays
    x[0, 0, 6, 6] = 1.0  # a speck
    x[0, 0, 6, 0:5] = 0.9  # a line of one pixel
    x[0, 0, 1:3, 5:7] = 0.29  # a square below the threshold
    kept = torch.zeros_like(x)
    kept[0, 0, 1:4, 1:3] = 0.8
    assert torch.equal(opened(x), kept)
    assert torch.equal(opened(opened(x)), opened(x))  # opening is idempotent


def test_images_of_a_set_do_not_touch_each_other():
    x = torch.zeros(2, 1, 4, 4)
    x[:, :, 0, :2] = 1.0  # a row of two in each image: together they would be a square
    assert (opened(x) == 0).all()


def test_all_components_are_the_image_and_few_are_nearer_to_the_mean():
    x = torch.rand((40, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projected(x, 16), x, atol=1e-5, rtol=0)
    mean = x.mean(0)
    assert (projected(x, 1) - mean).norm() < (projected(x, 8) - mean).norm() < (x - mean).norm()


def test_noise_around_two_pictures_is_removed_by_one_component():
    generator = torch.Generator().manual_seed(0)
    pictures = 0.25 + 0.5 * torch.rand((2, 1, 6, 6), generator=generator)
    clean = pictures[torch.arange(60) % 2]
    noisy = (clean + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    assert (projected(noisy, 1) - clean).norm() < 0.5 * (noisy - clean).norm()


def test_the_two_ways_by_name():
    x = torch.rand((5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoised(x, "opening"), opened(x))
    assert not torch.allclose(denoised(x, "components"), x, atol=1e-2)


def test_components_of_few_or_simple_images_clean_them_too():
    """Pixels standardised, 5 % of the variance or a little more go; with 400 components nothing would."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((300, 1, 6, 6), generator=generator)
    large = torch.nn.functional.interpolate(coarse, scale_factor=3, mode="bilinear")  # 36 dimensions in 324
    for x in (torch.rand((120, 1, 14, 14), generator=generator), large):
        left = (denoised(x, "components") - x) / x.std(0, correction=0)
        assert 0.045 < left.square().mean().item() < 0.08  # a little is put back by the cut to [0, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: opened(torch.zeros(1, 1, 4, 4), side=0), "side is 0"),
        (lambda: projected(torch.zeros(3, 1, 4, 4), 4), "4 components of 3 images of 16 values"),
        (lambda: projected(torch.zeros(1, 1, 4, 4), 1), "two images or more"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
