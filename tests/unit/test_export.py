"""Adversarial images as files, read back by those who know the formats."""

import csv
import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn

from steelman import export as module
from steelman.attacks.fgsm import FGSM
from steelman.errors import PixelError, RunError, UsageError
from steelman.evaluate import Outcome, strike
from steelman.export import check_destination, export, is_lossy, share_lost
from steelman.threats import Linf

NAMES = {"x_adv", "x", "y", "before", "after", "broken", "distance"}


class Fraction(nn.Module):
    """Class 1 where the mean is more than 0.3 levels above 100: a step of 0.4 levels is lost in a PNG."""

    def forward(self, x: Tensor) -> Tensor:
        rise = x.flatten(1).mean(1) * 255 - 100.3
        return torch.stack((torch.zeros_like(rise), rise), 1)


def struck(levels: float = 0.4, channels: int = 1) -> tuple[Outcome, Tensor]:
    """Three images: broken by less than a level, not to be broken, wrong from the start."""
    x = torch.tensor([100.0, 90.0, 120.0]).div(255).view(-1, 1, 1, 1).expand(-1, channels, 3, 2).clone()
    x[1, :, 0] += 0.01
    return strike(Fraction(), (x, torch.zeros(3, dtype=torch.int64)), FGSM(), Linf(levels / 255)), x


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_arrays_come_back_as_they_were(tmp_path, ending):
    outcome, x = struck()
    path = export(outcome, x, tmp_path / "deep" / f"set{ending}")
    arrays = dict(np.load(path)) if ending == ".npz" else load_file(path)
    assert set(arrays) == NAMES
    assert np.array_equal(arrays["x"], x.numpy())
    for name in NAMES - {"x"}:
        value = getattr(outcome, name).numpy()
        assert arrays[name].dtype == value.dtype
        assert np.array_equal(arrays[name], value, equal_nan=value.dtype.kind == "f")
    assert arrays["broken"].tolist() == [True, False, False]
    assert not is_lossy(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_holds_one_picture_an_image_and_says_what_rounding_undid(tmp_path, channels):
    outcome, x = struck(channels=channels)
    assert outcome.broken.tolist() == [True, False, False]
    assert outcome.survives.tolist() == [False, False, False]
    folder = export(outcome, x, tmp_path / "png")
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000_0_1.png", "00001_0_0.png", "00002_0_1.png", "index.csv",
    ]  # fmt: skip
    for index, name in enumerate(("00000_0_1.png", "00001_0_0.png", "00002_0_1.png")):
        with Image.open(folder / name) as picture:
            assert picture.mode == ("L" if channels == 1 else "RGB")
            pixels = np.asarray(picture).reshape(3, 2, channels).transpose(2, 0, 1)
        assert np.abs(pixels / 255 - outcome.x_adv[index].numpy()).max() <= 0.5 / 255 + 1e-6
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["00000_0_1.png", "00001_0_0.png", "00002_0_1.png"]
    assert [(row["label"], row["before"], row["after"]) for row in rows] == [("0", "0", "1"), ("0", "0", "0"),
                                                                            ("0", "1", "1")]  # fmt: skip
    assert [row["broken"] for row in rows] == ["1", "0", "0"]
    assert [row["survives"] for row in rows] == ["0", "0", "0"]
    assert float(rows[0]["distance"]) == pytest.approx(0.4 / 255, rel=1e-3)
    assert rows[1]["distance"] == rows[2]["distance"] == ""
    assert is_lossy(folder)


def test_what_survives_is_what_the_model_says_of_the_pictures(tmp_path):
    for levels in (0.4, 0.6, 1.4):
        outcome, x = struck(levels)
        folder = export(outcome, x, tmp_path / f"by {levels}".replace(".", ","))
        with (folder / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        pictures = [np.asarray(Image.open(folder / row["file"])) for row in rows]
        with torch.no_grad():
            guess = Fraction()(torch.from_numpy(np.stack(pictures))[:, None].float() / 255).argmax(1)
        survives = [int(row["survives"]) for row in rows]
        assert survives == [int(g) * int(row["broken"]) for g, row in zip(guess.tolist(), rows, strict=True)]


def test_the_share_lost_is_of_the_broken_images():
    assert (share_lost(struck(0.4)[0]).value, share_lost(struck(0.4)[0]).n) == (1, 1)
    assert share_lost(struck(0.6)[0]).value == 0
    assert share_lost(struck(0.1)[0]).n == 0


def test_pixels_outside_their_range_are_clipped_in_pictures_only(tmp_path):
    outcome, x = struck()
    outcome.x_adv[0] = 1.2
    folder = export(outcome, x, tmp_path / "png")
    assert np.asarray(Image.open(folder / "00000_0_1.png")).min() == 255
    assert np.load(export(outcome, x, tmp_path / "a.npz"))["x_adv"].max() == np.float32(1.2)


# ---- all or nothing


def test_a_file_is_replaced_and_an_empty_folder_filled(tmp_path):
    outcome, x = struck()
    (tmp_path / "set.npz").write_bytes(b"old")
    assert set(np.load(export(outcome, x, tmp_path / "set.npz"))) == NAMES
    (tmp_path / "pictures.v1").mkdir()
    assert (export(outcome, x, tmp_path / "pictures.v1") / "index.csv").exists()


def test_a_stop_in_between_leaves_nothing(tmp_path, monkeypatch):
    outcome, x = struck()
    real = inspect.unwrap(module._facts)
    monkeypatch.setattr(module, "_facts", lambda one, index: real(one, index) if index < 1 else exit_now())

    def exit_now():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(outcome, x, tmp_path / "png")
    assert list(tmp_path.iterdir()) == []

    def full(path, _):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", lambda tensors, path: full(path, tensors))
    with pytest.raises(RunError, match=r"cannot write .*set\.safetensors \(No space left on device\)\. Make room"):
        export(outcome, x, tmp_path / "set.safetensors")
    assert list(tmp_path.iterdir()) == []


# ---- refusals


def test_unknown_endings_are_answered_with_the_choices(tmp_path):
    outcome, x = struck()
    words = (
        r"cannot export to .*set\.png: nothing is known of \.png\. Possible: FILE\.npz, FILE\.safetensors, or a folder"
    )
    for call in (lambda path: export(outcome, x, path), check_destination):
        with pytest.raises(UsageError, match=words):
            call(tmp_path / "set.png")


def test_other_originals_are_refused(tmp_path):
    outcome, x = struck()
    with pytest.raises(UsageError, match=r"originals of shape \(2, 1, 3, 2\) for adversarial images of shape \(3,"):
        export(outcome, x[:2], tmp_path / "set.npz")


def test_originals_in_grey_levels_are_refused(tmp_path):
    outcome, x = struck()
    with pytest.raises(PixelError, match=r"pixels run from .* Expected \[0, 1\]"):
        export(outcome, 255 * x, tmp_path / "set.npz")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    outcome, x = struck()
    export(outcome, x, tmp_path / "png")
    with pytest.raises(RunError, match=r"png is there already and not an empty folder\. Give a new one"):
        export(outcome, x, tmp_path / "png")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is there already"):
        check_destination(tmp_path / "file")
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(RunError, match=r"dir\.npz is a folder\. Give a file"):
        check_destination(tmp_path / "dir.npz")


def test_pictures_of_other_channels_and_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"images of 2 channels\. A PNG holds 1 or 3; export to \.npz"):
        export(*struck(channels=2), tmp_path / "png")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*png \(.*\)\. Make room or give a folder"):
        export(*struck(), tmp_path / "file" / "png")
