"""What every architecture keeps, whichever it is: a new one in `steelman.models` is covered by existing."""

import dataclasses
import itertools
import typing

import pytest
import torch

from steelman.models import Architecture
from steelman.models.linear import Linear1
from steelman.recipe import Recipe
from steelman.spec import catalogue, parse

MNIST = (1, 28, 28)

# Where the default is too large for so many tests, or draws anew at each pass
SMALL = {"VOne": {"backend": Linear1(width=8), "simple": 4, "complex": 4, "ksize": 9, "bottleneck": 2, "noise": None}}


def _small(cls, **fields):
    return cls(**{**SMALL.get(cls.__name__, {}), **fields})


def _variants(cls):
    """The configuration under test, then each choice of each field that has a few."""
    found = [_small(cls)]
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        options = (hints[field.name], *typing.get_args(hints[field.name]))
        literals = [value for option in options for value in typing.get_args(option) if isinstance(value, str)]
        values = [True, False] if hints[field.name] is bool else literals
        found += [_small(cls, **{field.name: value}) for value in values]
    return list(dict.fromkeys(found))


DEFAULTS = [_small(cls) for cls in catalogue("architecture").values()]
VARIANTS = [variant for cls in catalogue("architecture").values() for variant in _variants(cls)]


@pytest.fixture(scope="module")
def built(request):
    """One network a configuration, shared by the tests of this module."""
    return request.param((1, 28, 28), 10, torch.Generator().manual_seed(0))


@pytest.fixture
def images(generator):
    return torch.rand(3, 1, 28, 28, generator=generator)


each_built = pytest.mark.parametrize("built", DEFAULTS, ids=repr, indirect=True)


def test_the_catalogue_is_the_zoo_of_the_studies():
    names = {type(value).__name__ for value in DEFAULTS}
    assert names >= {
        *("Linear1", "Linear3", "ConvNet", "BasicCNN", "AlexNet28", "MLP", "CNN"),
        *("AlexNetSmall", "VGGSmall", "FC100", "SmallCNN", "FastCNN", "VOne"),
    }


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_the_repr_is_the_name(variant):
    assert parse(repr(variant), "architecture") == variant
    assert isinstance(variant, Architecture)


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_each_variant_maps_colour_images_to_two_logits(variant, generator):
    model = variant((3, 32, 32), 2, generator)
    logits = model(torch.rand(2, 3, 32, 32, generator=generator))
    assert logits.shape == (2, 2)
    assert logits.isfinite().all()


@each_built
def test_logits_are_finite_float32_one_a_class(built, images):
    for batch in (images, torch.zeros_like(images), torch.ones_like(images)):
        logits = built(batch)
        assert logits.shape == (3, 10)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


@each_built
def test_the_network_comes_in_eval_mode_with_parameters_to_train(built):
    assert not any(module.training for module in built.modules())
    assert sum(parameter.numel() for parameter in built.parameters()) > 0
    assert all(parameter.requires_grad for parameter in built.parameters())


@each_built
def test_the_gradient_reaches_the_image(built, images):
    images.requires_grad_()
    (grad,) = torch.autograd.grad(built(images)[:, 0].sum(), images)
    assert grad.isfinite().all()
    assert (grad.flatten(1).norm(dim=1) > 0).all()


@each_built
def test_an_image_is_classified_alike_alone_and_in_any_batch(built, images):
    together = built(images)
    torch.testing.assert_close(torch.cat([built(image[None]) for image in images]), together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(built(images.flip(0)).flip(0), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("architecture", "built"), [(one, one) for one in DEFAULTS], ids=repr, indirect=["built"])
def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(architecture, built):
    before = torch.get_rng_state()
    same, other = (architecture(MNIST, 10, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(itertools.zip_longest(built.state_dict().values(), same.state_dict().values()))
    assert all(torch.equal(first, second) for first, second in pairs)
    drawn = [name for name, value in built.named_parameters() if value.ndim > 1]
    assert drawn
    assert not any(torch.equal(built.get_parameter(name), other.get_parameter(name)) for name in drawn)


@pytest.mark.parametrize("architecture", DEFAULTS, ids=repr)
def test_the_recipe_names_fields_of_recipe(architecture):
    recipe = Recipe(**architecture.recipe)
    assert all(getattr(recipe, field) == value for field, value in architecture.recipe.items())
