"""load(): one call for runs, architectures and factories."""

import pytest
import torch
from safetensors.torch import save_file

from steelman import load
from steelman.cli import main
from steelman.errors import RunError, SpecError, UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "r"
    assert main(["train", "Linear1(width=4)", "--epochs", "1", "--out", str(path)]) == 0
    return path


def test_a_run_an_architecture_and_a_file_give_the_same_network(run):
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    weights = run / "weights.safetensors"
    networks = [load(run), load(str(run)), load("Linear1(width=4)", weights), load(run, weights)]
    assert all(not network.training for network in networks)
    assert all(torch.equal(network(x), networks[0](x)) for network in networks)


def test_an_architecture_is_built_for_shape_and_classes_from_the_generator():
    x = torch.zeros(2, 3, 8, 8)
    options = {"shape": (3, 8, 8), "classes": 5}
    first = load("Linear1(width=4)", **options)
    again = load("Linear1(width=4)", generator=torch.Generator().manual_seed(0), **options)
    other = load("Linear1(width=4)", generator=torch.Generator().manual_seed(1), **options)
    assert first(x).shape == (2, 5)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


def test_what_is_no_run_and_no_name_is_said(tmp_path):
    with pytest.raises(RunError, match="is no directory"):
        load("runs/nowhere")
    with pytest.raises(RunError, match=r"is no run: it has no spec\.txt"):
        load(tmp_path)
    with pytest.raises(SpecError, match="unknown architecture 'CNM'"):
        load("CNM")
    with pytest.raises(UsageError, match=r"'nets/mine\.py:build' is no package\.module:factory"):
        load("nets/mine.py:build")  # a path, and of no run


def test_weights_may_come_from_another_run(run, tmp_path):
    zeros = {name: torch.zeros_like(value) for name, value in load(run).state_dict().items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    assert not load(run, tmp_path / "zeros.safetensors")(torch.ones(1, 1, 28, 28)).any()
