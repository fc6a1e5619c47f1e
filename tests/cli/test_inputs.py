"""From words to values."""

from pathlib import Path

import pytest
import torch

from steelman.attacks.fmn import FMN
from steelman.attacks.pgd import PGD
from steelman.cli import inputs
from steelman.data.arrays import Arrays
from steelman.data.digits import Digits
from steelman.data.folder import Folder
from steelman.errors import SpecError, UsageError
from steelman.spec import parse
from steelman.threats import L0, Linf


def test_names_specs_and_paths_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path / "root"))
    (tmp_path / "root" / "birds").mkdir(parents=True)
    (tmp_path / "digits").mkdir()
    (tmp_path / "cats").mkdir()
    (tmp_path / "x.npz").touch()
    assert inputs.source("digits") == Digits()  # a name that is known, whatever lies here
    assert inputs.source("./digits") == Folder(str(tmp_path / "digits"))
    assert inputs.source("cats") == Folder(str(tmp_path / "cats"))
    assert inputs.source("birds") == Folder("birds")  # found again wherever the data root is then
    assert inputs.source("x.npz") == Arrays(str(tmp_path / "x.npz"))
    assert inputs.source("y.safetensors") == Arrays("y.safetensors")
    assert inputs.source("pictures.zip") == Folder("pictures.zip")
    assert inputs.source("Folder('a/b', size=32)") == Folder("a/b", size=32)
    assert inputs.source("cats", shape=(1, 28, 28)) == Folder(str(tmp_path / "cats"), size=28, channels=1)
    assert inputs.source("cats", shape=(3, 20, 28)) == Folder(str(tmp_path / "cats"))


def test_devices(monkeypatch):
    assert inputs.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert inputs.device("cuda") == "cuda"
    assert inputs.device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match=r"no device 'cuda:2' here\. Possible: cpu, cuda, cuda:0, cuda:1"):
        inputs.device("cuda:2")


def test_an_outcome_s_path_has_no_ending(tmp_path):
    for given in ("a/set", "a/set.safetensors", "a/set.json"):
        assert inputs.stem(tmp_path / given) == tmp_path / "a" / "set"
    assert inputs.stem(tmp_path / "set.v1") == tmp_path / "set.v1"
    assert list((tmp_path / "a").iterdir()) == []


def test_radii_are_named_or_counted():
    assert inputs.radii("0.05, 8/255,0.1", Linf(0.3)) == (0.05, 8 / 255, 0.1)
    assert inputs.radii("4", Linf(0.2)) == pytest.approx((0.05, 0.1, 0.15, 0.2))
    assert inputs.radii("3", Linf(0.3))[-1] == 0.3  # the threat's own eps, to the last bit
    assert inputs.radii("10", L0(4.0)) == (1.0, 2.0, 3.0, 4.0)  # whole numbers of values
    assert inputs.radii("1.0", Linf(0.3)) == (1.0,)


def test_a_measurement_with_a_curve_is_its_text():
    for text in (
        "Measurement(PGD(), Linf(0.3), runs=('a',), target='least-likely')",
        "Measurement(PGD(), Linf(0.3), runs=('a',), target=3)",
        "Measurement(PGD(), L2(2.0), runs=('a',), curve=(0.5, 1.0), nearest=DDN())",
    ):
        assert repr(parse(text, "measurement")) == text
    asked = parse("Measurement(PGD(), Linf(0.3), runs=('a',), curve=(0.2, 0.1, 0.2))", "measurement")
    assert asked.curve == (0.1, 0.2)
    assert asked.curve_attacks == (FMN(), PGD())
    own = parse("Measurement(FMN(steps=7), Linf(0.3), runs=('a',), curve=(0.1,))", "measurement")
    assert own.curve_attacks == (FMN(steps=7), PGD(loss="margin"))
    with pytest.raises(SpecError, match=r"Measurement\.target is 'worst'\. Expected .*one of 'random', 'least-likely'"):
        parse("Measurement(PGD(), Linf(0.3), runs=('a',), target='worst')", "measurement")


def test_a_study_s_pictures_can_be_left_out(tmp_path):
    study = inputs.study("finetune", {"data": Folder("x"), "scale": None}, skip_bad=True)
    assert study.data == Folder("x", skip_bad=True)
    assert Path("x") == Path(study.data.path)
