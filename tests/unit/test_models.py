"""The built-in networks against their published parameter counts, structures and accuracies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steelman.errors import UsageError
from steelman.models import Normalize, seeded
from steelman.models.layers import LEAKY_SLOPE, activation, dropout, flat_size, network, positive, protected
from steelman.models.weights import load_weights
from steelman.spec import parse

MNIST = (1, 28, 28)
PUBLISHED = {
    "Linear1": 623_290,
    "Linear3": 1_854_170,
    "ConvNet": 623_114,
    "ConvNetMarch": 163_034,
    "BasicCNN": 50_186,
    "MLP": 109_930,
    "MLP(protection='dropout')": 109_930,
    "CNN": 129_090,
    "CNN(protection='dropout')": 129_090,
    "AlexNetSmall": 212_658,
    "FC100": 941_526,
    "SmallCNN": 312_202,
    "FastCNN": 166_406,
}
ROUNDED = {"AlexNet28": 70.35e6, "VGGSmall": 25.5e6}
SMALLEST = {  # by hand: the side from which every kernel finds an input
    "ConvNet": 9,
    "ConvNetMarch": 6,
    "BasicCNN": 4,
    "AlexNet28": 9,
    "AlexNetSmall": 12,
    "CNN": 12,
    "VGGSmall": 16,
    "FC100": 6,
    "SmallCNN": 16,
    "FastCNN": 4,
}


def _build(spec, generator, shape=MNIST, classes=10):
    return parse(spec, "architecture")(shape, classes, generator)


def _size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("spec", PUBLISHED)
def test_parameters_are_as_many_as_published(spec, generator):
    assert _size(_build(spec, generator)) == PUBLISHED[spec]


@pytest.mark.parametrize("spec", ROUNDED)
def test_parameters_of_the_large_nets_are_as_many_as_published(spec, generator):
    assert _size(_build(spec, generator)) == pytest.approx(ROUNDED[spec], rel=2e-3)


def test_batch_normalisation_adds_two_parameters_a_channel(generator):
    for spec, units in {
        "ConvNet(batch_norm=True)": 32 + 64 + 128,
        "ConvNetMarch(batch_norm=True)": 32 + 64 + 128,
        "MLP(protection='batchnorm')": 120 + 120,
        "CNN(protection='batchnorm')": 20 + 40 + 120,
        "AlexNetSmall(protection='batchnorm')": 1600 + 120,
    }.items():
        assert _size(_build(spec, generator)) == PUBLISHED[spec.split("(")[0]] + 2 * units


@pytest.mark.parametrize("spec", SMALLEST)
def test_too_small_images_are_refused_with_the_smallest_size(spec, generator):
    side = SMALLEST[spec]
    with pytest.raises(UsageError, match=rf"{side - 1}x40 pixels are too small for {spec}, .* at least {side}x{side}"):
        _build(spec, generator, (1, side - 1, 40))
    smallest = _build(spec, generator, (1, side, side))
    assert smallest(torch.zeros(1, 1, side, side)).shape == (1, 10)


def test_images_need_not_be_square(generator):
    assert _build("SmallCNN", generator, (3, 20, 36), 4)(torch.zeros(2, 3, 20, 36)).shape == (2, 4)


def test_convnet_is_the_published_chain_with_no_activation_after_the_third_convolution(generator):
    model = _build("ConvNet(activation='tanh', head_activation='silu')", generator)
    x = torch.rand(2, 1, 28, 28, generator=generator)
    first, second, third = (layer for layer in model.features if isinstance(layer, nn.Conv2d))
    hidden = F.max_pool2d(F.conv2d(x, first.weight, first.bias, padding=1).tanh(), 3)
    hidden = F.max_pool2d(F.conv2d(hidden, second.weight, second.bias, padding=1).tanh(), 3)
    hidden = F.conv2d(hidden, third.weight, third.bias, stride=2, padding=1).flatten(1)
    *inner, last = (layer for layer in model.head if isinstance(layer, nn.Linear))
    for layer in inner:
        hidden = F.silu(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model(x), hidden @ last.weight.T + last.bias)


def test_convnet_uses_its_activation_in_the_head_too_unless_told_otherwise(generator):
    def count(spec, kind):
        return sum(isinstance(module, kind) for module in _build(spec, generator).modules())

    assert count("ConvNet(activation='leaky')", nn.LeakyReLU) == 4
    assert count("ConvNet(head_activation='tanh')", nn.Tanh) == 2
    assert count("ConvNetMarch(second_activation='silu')", nn.SiLU) == 1


def test_basic_cnn_draws_its_linear_layer_xavier_uniform(generator):
    weight = _build("BasicCNN", generator).head[0].weight
    bound = (6 / (3136 + 10)) ** 0.5  # Glorot & Bengio 2010, equation 16
    assert 0.99 * bound < weight.abs().max() <= bound


def test_fc100_splits_into_a_hundred_features_and_the_logits_they_give(generator):
    model = _build("FC100", generator)
    x = torch.rand(2, 1, 28, 28, generator=generator)
    features = model.features(x)
    assert features.shape == (2, 100)
    assert (features >= 0).all()
    torch.testing.assert_close(model.head(features), model(x))
    bound = (6 / (9216 + 100)) ** 0.5
    linear = next(layer for layer in model.features if isinstance(layer, nn.Linear))
    assert 0.99 * bound < linear.weight.abs().max() <= bound
    assert not linear.bias.any()


@pytest.mark.parametrize(
    ("spec", "rates"),
    {
        "MLP(protection='dropout')": [0.5] * 3,
        "CNN(protection='dropout', dropout=0.4)": [0.4] * 2,
        "AlexNetSmall": [0.5] * 2,
        "FC100": [0.2, 0.3],
        "SmallCNN": [0.5],
        "CNN(protection='batchnorm')": [],
        "MLP": [],
    }.items(),
)
def test_dropout_stands_where_it_was(spec, rates, generator):
    model = _build(spec, generator)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == rates
    x = torch.rand(4, 1, 28, 28, generator=generator)
    with seeded(generator):
        assert torch.equal(model.train()(x), model(x)) == (not rates)


def test_seeded_restores_the_global_generator_even_after_an_error(generator):
    before = torch.get_rng_state()

    def fail():
        with seeded(generator):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_activations_are_the_named_functions():
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.equal(activation("relu")(x), torch.tensor([0.0, 0.0, 3.0]))
    torch.testing.assert_close(activation("leaky")(x), torch.tensor([-2 * LEAKY_SLOPE, 0.0, 3.0]))
    torch.testing.assert_close(activation("tanh")(x), x.tanh())
    torch.testing.assert_close(activation("silu")(x), x * x.sigmoid())


def test_wrong_fields_are_refused():
    with pytest.raises(UsageError, match=r"unknown activation 'rleu'.* Possible: leaky, relu, silu, tanh"):
        activation("rleu")
    with pytest.raises(UsageError, match=r"unknown protection 'none'. Possible: batchnorm, dropout"):
        protected("none", ("dropout", "batchnorm"), rate=0.5, norm=nn.Identity())
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match=rf"dropout rate is {rate}. Possible: 0"):
            dropout(rate)
    with pytest.raises(UsageError, match=r"width is 0. Possible: 1 and up"):
        positive("width", 0)
    with pytest.raises(UsageError, match=r"Net takes no images of 1 channels"):
        flat_size("Net", (1, 28, 28), nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize(
    "spec", ["Linear1(width=0)", "MLP(width=-3)", "FC100(head_dropout=1.0)", "AlexNet28(dropout=2)"]
)
def test_wrong_fields_are_refused_when_the_network_is_built(spec, generator):
    with pytest.raises(UsageError, match="Possible: "):
        _build(spec, generator)


def test_flat_size_is_that_of_the_real_layers_and_leaves_them_alone():
    layers = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2), nn.BatchNorm2d(5), nn.MaxPool2d(2))
    weight = layers[0].weight.clone()
    assert flat_size("Net", (2, 21, 13), layers) == layers(torch.zeros(2, 2, 21, 13)).flatten(1).shape[1]
    assert torch.equal(layers[0].weight, weight)
    assert layers.training
    assert network("Net", (2, 3, 3), [], lambda size: [nn.Linear(size, 1)]).head[0].in_features == 18


def test_normalize_subtracts_and_divides_per_channel():
    x = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    assert Normalize((0.5, 0.0), (0.1, 0.5))(x).flatten().tolist() == [0.0, 0.5]


def test_the_published_trades_weights_are_as_accurate_as_published(data_root, generator):
    model = _build("SmallCNN", generator)
    load_weights(model, data_root / "trades_smallcnn_mnist.safetensors")
    raw = data_root / "MNIST" / "raw"
    images = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8)).long()
    model = model.to(memory_format=torch.channels_last)  # twice as fast
    with torch.inference_mode():
        batches = torch.from_numpy(images).split(100)
        predictions = torch.cat([model(batch.float() / 255).argmax(1) for batch in batches])
    assert (predictions == labels).double().mean().item() == pytest.approx(0.9948, abs=1e-4)  # Zhang et al. 2019
