"""Weights from files: what fits is loaded, what does not is named, and no code in a file ever runs."""

import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from steelman.errors import WeightsError
from steelman.models.weights import load_weights


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(fc1=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), fc2=nn.Linear(3, 2))).eval()


def _equal(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "W.PT"])
def test_the_weights_written_are_the_weights_read(name, tmp_path):
    source, model = _net(1), _net(2)
    (save_file if "safetensors" in name else torch.save)(source.state_dict(), tmp_path / name)
    assert not _equal(source, model)
    load_weights(model, tmp_path / name)
    assert _equal(source, model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"epoch": 3, "model": state},
        lambda state: {"net": state, "acc": 0.5},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    ],
)
def test_usual_wrappings_are_seen_through(wrap, tmp_path):
    source, model = _net(1), _net(2)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    load_weights(model, str(tmp_path / "w.pt"))
    assert _equal(source, model)


def test_a_prefix_on_some_keys_only_is_part_of_their_names(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    source = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert _equal(source, model)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    model = _net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = model.state_dict()
    save_file(
        {"fc1.weight": torch.ones(5, 4), "fc1.bias": state["fc1.bias"] + 1, "head.w": torch.ones(1)},
        tmp_path / "w.safetensors",
    )
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing: norm.weight, norm.bias, norm.running_mean and 3 more" in message
    assert "unexpected: head.w;" in message
    assert "of other shape: fc1.weight (5, 4) where the model has (3, 4)" in message
    assert "Choose the architecture" in message
    assert "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_names_from_a_file_cannot_break_the_line(tmp_path):
    torch.save({"evil\n\x1b[31mname": torch.ones(1), "x" * 500: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"unexpected: 'evil\\n\\x1b") as caught:
        load_weights(_net(), tmp_path / "w.pt")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    source, model = _net(1), _net(2)
    source.fc2.bias.data[1] = value
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"NaN or infinite weights in fc2.bias: .* earlier checkpoint"):
        load_weights(model, tmp_path / "w.safetensors")
    assert _equal(model, _net(2))


def test_a_buffer_may_hold_infinities_but_no_nan(tmp_path):
    model = nn.Module()
    model.register_buffer("mask", torch.zeros(2))
    save_file({"mask": torch.tensor([0.0, -torch.inf])}, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert model.mask.tolist() == [0.0, -torch.inf]
    save_file({"mask": torch.tensor([0.0, torch.nan])}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="weights in mask"):
        load_weights(model, tmp_path / "w.safetensors")


def test_the_payload_of_the_next_test_is_live(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("form", ["torch", "torch legacy", 0, 1, 2, 3, 4, 5])
def test_a_pickle_with_code_is_refused_and_its_code_is_not_run(form, tmp_path):
    path, made = tmp_path / "w.pt", tmp_path / "made"
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(Payload(made), protocol=form))
    else:
        content = {**_net().state_dict(), "extra": Payload(made)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(WeightsError, match=r"w.pt holds code .* save its state_dict as safetensors") as caught:
        load_weights(_net(), path)
    assert not made.exists()
    assert "\n" not in str(caught.value)


def test_a_whole_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(_net(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds code or objects beside tensors \(torch.nn.modules.\w+.\w+\)"):
        load_weights(_net(), tmp_path / "w.pt")


def test_a_torchscript_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"a/{name}", "3")
    with pytest.raises(WeightsError, match=r"holds code .*TorchScript"):
        load_weights(_net(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:-9], lambda data: b"", lambda data: b"hello\n" * 99],
)
def test_damaged_files_are_refused(name, damage, tmp_path):
    path = tmp_path / name
    (save_file if "safetensors" in name else torch.save)(_net().state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=rf"{name} is truncated or is no weights file \(.*\). Download or save"):
        load_weights(_net(), path)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (torch.ones(2), "a Tensor"),
        ([torch.ones(2)], "a list"),
        ({}, "the keys "),
        ({"epoch": 3, "lr": 0.1, "a": 1, "b": 2}, "the keys epoch, lr, a and 1 more"),
        ({"state_dict": {"w": 3}}, "the keys w"),
        ({1: torch.ones(2)}, "the keys 1"),
    ],
)
def test_a_pickle_without_a_state_dict_is_refused(content, held, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"w.pt holds {held}.* Expected a state_dict"):
        load_weights(_net(), tmp_path / "w.pt")


def test_files_that_cannot_be_are_refused(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"none.pt does not exist. Give the path of a .safetensors, .pt or .pth"):
        load_weights(_net(), tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="is a directory"):
        load_weights(_net(), tmp_path)
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"w.h5 ends in '.h5'. Possible: .safetensors, .pt, .pth"):
        load_weights(_net(), tmp_path / "w.h5")
    (tmp_path / "w").write_bytes(b"x")
    with pytest.raises(WeightsError, match="w ends in 'no suffix'"):
        load_weights(_net(), tmp_path / "w")


@pytest.mark.parametrize("reader", ["steelman.models.weights.load_file", "torch.load"])
def test_a_file_that_may_not_be_read_is_refused(reader, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader, refuse)
    path = tmp_path / ("w.pt" if reader == "torch.load" else "w.safetensors")
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"cannot be read: Permission denied. Check its permissions"):
        load_weights(_net(), path)
