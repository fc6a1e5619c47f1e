"""Models by text, the user's own factories, and whether a model fits the data."""

import sys

import pytest
import torch
from torch import nn

from steelman.errors import PixelError, SpecError, UsageError
from steelman.models.factory import build_model, check_fit

MNIST = (1, 28, 28)
SOURCE = """
import torch
from torch import nn
import sibling_of_own

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def sized(shape, classes, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Linear(width, classes))

def only_classes(*, classes, **rest):
    assert not rest
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

class Holder:
    @staticmethod
    def make():
        return fixed().train()

def not_a_model():
    return {"weights": 1}

def needs(path, depth):
    return fixed()

def fails():
    raise RuntimeError("no such luck\\nsecond line")

def leaves():
    raise SystemExit("no net today")

ready = fixed()
number = 3
builtin = dict
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's module in it, the current directory."""
    (tmp_path / "own_models.py").write_text(SOURCE)
    (tmp_path / "sibling_of_own.py").write_text("value = 1\n")
    (tmp_path / "broken_models.py").write_text("def oops(:\n")
    (tmp_path / "leaving_models.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "needy_models.py").write_text("import surely_not_installed\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "nets.py").write_text("from own_models import fixed\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_spec_builds_the_named_architecture(generator):
    model = build_model("BasicCNN", (3, 32, 32), 4, generator)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    with pytest.raises(SpecError, match=r"unknown architecture 'BasicCNM'. Did you mean BasicCNN"):
        build_model("BasicCNM", MNIST, 10, generator)


@pytest.mark.parametrize("name", ["own_models:fixed", "own_models:only_classes", "own_models:ready", "pack.nets:fixed"])
def test_a_factory_of_ones_own_is_called(name, own, generator):
    model = build_model(name, MNIST, 10, generator)
    assert not model.training
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_factory_is_given_what_its_signature_names(own, generator):
    model = build_model("own_models:sized", (3, 4, 5), 7, generator)
    assert [model[1].in_features, model[1].out_features, model[2].out_features] == [60, 5, 7]


def test_a_factory_may_stand_in_a_class_and_comes_back_in_eval_mode(own, generator):
    assert not build_model("own_models:Holder.make", MNIST, 10, generator)[1].training


def test_the_seed_decides_a_factorys_weights_and_nothing_global_changes(own):
    state, path = torch.get_rng_state(), list(sys.path)
    one, same, other = (
        build_model("own_models:fixed", MNIST, 10, torch.Generator().manual_seed(seed))[1].weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent_models:net", r"no module 'absent_models' is installed or in .*own_models, .*sibling_of_own"),
        ("own_models.py:fixed", r"no module 'own_models.py'.* Write the dotted name without .py"),
        ("own_models:fixd", r"unknown name in own_models 'fixd'. Did you mean fixed\? Possible: .*sized"),
        ("own_models:Holder.mak", r"unknown name in own_models 'mak'. Did you mean make\?"),
        ("own_models:not_a_model", r"gave a dict. Expected a torch.nn.Module"),
        ("own_models:builtin", r"gave a dict. Expected a torch.nn.Module"),
        ("own_models:number", r"is a int. Expected a function"),
        ("own_models:number.nothing", r"unknown name in own_models 'nothing'. Possible: "),
        ("own_models:needs", r"needs path, depth. Possible: shape, classes or nothing"),
        ("own_models:fails", r"fails failed: RuntimeError: no such luck. Correct it"),
        ("own_models:leaves", r"leaves failed: SystemExit: no net today. Correct it"),
        ("leaving_models:net", r"importing leaving_models failed: SystemExit: 3. Correct the module"),
        ("own_models.fixed", r"is written package.module:factory, such as own_models:fixed\."),
        ("own_models.fixed()", r"is written package.module:factory, such as own_models:fixed\."),
        ("w.pt", r"w\.pt holds weights\. Give them with --weights, and as --model an architecture or"),
        ("own_models.py", r"is written package.module:factory, such as own_models:make_net\."),
        ("broken_models:oops", r"importing broken_models failed: SyntaxError: .* Correct the module"),
        ("needy_models:net", r"importing needy_models failed: No module named 'surely_not_installed'. Install"),
        ("own_models:", r"is no package.module:factory. Write the module's dotted name"),
        ("a b:c", r"is no package.module:factory"),
        ("../own_models:fixed", r"is no package.module:factory"),
    ],
)
def test_what_is_no_factory_is_refused_in_one_line(spec, message, own, generator):
    with pytest.raises(UsageError, match=message) as caught:
        build_model(spec, MNIST, 10, generator)
    assert "\n" not in str(caught.value)


def test_a_missing_module_in_an_empty_folder_says_so(tmp_path, monkeypatch, generator):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="Modules there: none"):
        build_model("absent_models:net", MNIST, 10, generator)


def test_a_fitting_model_passes_and_nothing_of_it_changes(generator):
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(norm, nn.Dropout(), nn.Flatten(), nn.Linear(784, 10))
    model[1].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    check_fit(model, MNIST, 10)
    assert [module.training for module in model.modules()] == modes
    assert norm.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_the_models_own_randomness_does_not_move_the_global_generator():
    class Noisy(nn.Module):
        def forward(self, x):
            return torch.randn(len(x), 10)

    state = torch.get_rng_state()
    check_fit(Noisy(), MNIST, 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_other_channels_or_size_are_refused_with_those_that_fit(generator):
    model = build_model("CNN", MNIST, 10, generator).train()
    with pytest.raises(
        PixelError,
        match=r"the images are 32x32 pixels with 3 channels, .* It takes 28x28 pixels with 1 channel: convert",
    ):
        check_fit(model, (3, 32, 32), 10)
    assert all(module.training for module in model.modules())


def test_a_model_that_takes_no_usual_images_is_refused():
    with pytest.raises(UsageError, match=r"does not take images of 28x28 pixels with 1 channel \(RuntimeError: "):
        check_fit(nn.Linear(5, 10), MNIST, 10)

    class Silent(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    with pytest.raises(UsageError, match=r"\(NotImplementedError\)"):
        check_fit(Silent(), MNIST, 10)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: (x, x), r"returns a tuple. Expected one tensor of logits \(n, 10\)"),
        (
            lambda x: torch.zeros(len(x), 1000),
            r"gives \(1, 1000\) for one image, the data have 10 classes: expected \(1, 10\)",
        ),
        (lambda x: torch.zeros(len(x)), r"gives \(1,\) for one image"),
        (lambda x: torch.zeros(len(x), 10, dtype=torch.int64), r"logits are torch.int64. Expected float32"),
    ],
)
def test_outputs_that_are_no_logits_of_the_classes_are_refused(forward, message):
    model = nn.Module()
    model.forward = forward
    with pytest.raises(UsageError, match=message):
        check_fit(model, MNIST, 10)
