"""A few small images, two classifiers trained on them by the command line itself, and a way to call it."""

import re

import numpy as np
import pytest

from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.cli import main

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch):
    """No word of progress however slow the machine is, and shorter probes: what they find is tested elsewhere."""
    monkeypatch.setattr("steelman.cli.bar.PATIENCE", 1e6)
    monkeypatch.setattr("steelman.probes.SHORT", PGD(steps=3))
    monkeypatch.setattr("steelman.probes.LONG", PGD(steps=6, loss="margin"))
    monkeypatch.setattr("steelman.probes.SCORES", Square(queries=20))


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    """90 images of 1x8x8 in three classes: a bright third of the image says which."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 60, (90, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 2] += 120
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, images=images.astype("uint8"), labels=labels)
    return path


@pytest.fixture(scope="session")
def runs(arrays, tmp_path_factory):
    """A directory with two finished runs, `plain` and `other`."""
    root = tmp_path_factory.mktemp("runs")
    words = ["train", "Linear1(width=16)", "--data", str(arrays), "--epochs", "15", "--lr", "0.01"]
    assert main([*words, "--out", str(root / "plain")]) == 0
    assert main([*words, "--seed", "1", "--out", str(root / "other")]) == 0
    return root


@pytest.fixture
def call(capsys):
    """Call the command line in this process: (exit code, stdout, stderr); neither holds control characters."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert not CONTROL.search(out + err)
        return code, out, err

    return run


@pytest.fixture
def refused(call):
    """Call the command line with something wrong: exit code 2, one line on stderr, which is returned."""

    def run(*words):
        code, out, err = call(*words)
        assert code == 2
        assert out == ""
        assert err.startswith("steelman: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err

    return run
