"""Images and labels in a .npz or .safetensors file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steelman.data.arrays import Arrays
from steelman.errors import DataError

GIVEN = np.array([0] * 6 + [1] * 2 + [2] * 2)


def uint8(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)


def write(path: Path, **arrays: object) -> Arrays:
    """A .npz with ten 4x5 images of two classes, in given splits, but for what is named."""
    default = {"images": uint8(10, 4, 5), "labels": np.arange(10) % 2, "split": GIVEN}
    np.savez(path / "set.npz", **{k: v for k, v in {**default, **arrays}.items() if v is not None})
    return Arrays(str(path / "set.npz"))


def whole(source: Arrays) -> torch.Tensor:
    return torch.cat([part.images for part in source.splits()])


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    splits = write(tmp_path).splits()
    assert torch.equal(torch.cat([part.images for part in splits])[:, 0], torch.from_numpy(uint8(10, 4, 5)))
    assert [part.labels.tolist() for part in splits] == [[0, 1, 0, 1, 0, 1], [0, 1], [0, 1]]
    assert splits.train.classes == ("0", "1")
    assert splits.train.notes == ()
    assert splits.test.name == "set.npz test"


def test_short_names_and_a_path_inside_the_data_root(tmp_path: Path) -> None:
    write(tmp_path, images=None, labels=None, x=uint8(10, 4, 5), y=np.arange(10) % 2)
    assert len(Arrays("set.npz").splits(tmp_path).train) == 6


def test_the_split_array_chooses_in_any_order(tmp_path: Path) -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    splits = write(tmp_path, images=images, split=np.array([2, 0, 1, 0, 2, 0, 1, 0, 0, 0])).splits()
    assert [part.images[:, 0, 0, 0].tolist() for part in splits] == [[1, 3, 5, 7, 8, 9], [2, 6], [0, 4]]


def test_without_a_split_array_every_class_is_split(tmp_path: Path) -> None:
    splits = write(tmp_path, split=None).splits()
    assert [part.labels.bincount().tolist() for part in splits] == [[3, 3], [1, 1], [1, 1]]


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_and_last_are_the_same_images(channels: int, tmp_path: Path) -> None:
    first = uint8(10, channels, 4, 5)
    expected = torch.from_numpy(first)
    assert torch.equal(whole(write(tmp_path, images=first)), expected)
    assert torch.equal(whole(write(tmp_path, images=first.transpose(0, 2, 3, 1))), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_levels_stored_as_floats_come_back_exactly_and_without_a_note(dtype: str, tmp_path: Path) -> None:
    images = np.resize(np.arange(256), (10, 8, 16))
    splits = write(tmp_path, images=(images / 255).astype(dtype)).splits()
    assert torch.equal(torch.cat([part.images for part in splits])[:, 0].long(), torch.from_numpy(images))
    assert bool(splits.train.notes) == (dtype == "float16")  # half precision holds no exact 1/255


def test_rounding_to_8_bits_is_noted(tmp_path: Path) -> None:
    splits = write(tmp_path, images=np.full((10, 4, 5), 100.25 / 255)).splits()
    assert splits.test.images.unique().tolist() == [100]
    assert splits.test.notes == ("float images were rounded to 8 bits, by at most 0.0010",)  # 0.25 / 255


def test_class_names(tmp_path: Path) -> None:
    assert write(tmp_path, classes=np.array(["ant", "bee", "cow"])).splits().test.classes == ("ant", "bee", "cow")


def test_safetensors_hold_the_same(tmp_path: Path) -> None:
    tensors = {
        "images": torch.from_numpy(uint8(10, 4, 5)),
        "labels": (torch.arange(10) % 2).to(torch.int32),
        "split": torch.from_numpy(GIVEN),
    }
    save_file(tensors, tmp_path / "set.safetensors", metadata={"classes": json.dumps(["ant", "bee"])})
    splits = Arrays(str(tmp_path / "set.safetensors")).splits()
    assert splits.digest == write(tmp_path, classes=np.array(["ant", "bee"])).splits().digest


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.full((10, 4, 5), np.nan)}, r"10 images hold NaN or infinite pixels, the first is number 0\."),
        ({"images": np.where(np.arange(10)[:, None, None] == 7, np.inf, np.zeros((10, 4, 5)))}, "1 images .*number 7"),
        (
            {"images": np.linspace(0, 255, 200).reshape(10, 4, 5)},
            r"from 0 to 255\. Expected \[0, 1\]\. .*divide by 255",
        ),
        ({"images": np.linspace(-2.25, 2.5, 200).reshape(10, 4, 5)}, r"from -2\.25 to 2\.5\. .*look normalised"),
        ({"images": np.linspace(0, 4096, 200).reshape(10, 4, 5)}, r"from 0 to 4096\. .*largest value"),
        ({"images": uint8(10, 4, 5).astype(int)}, r"images are torch\.int64\. Expected uint8"),
        ({"images": uint8(10, 4, 5) > 3}, r"images are torch\.bool\. Expected uint8"),
        ({"images": np.zeros((0, 4, 5), np.uint8), "labels": np.zeros(0, int)}, "images are empty"),
        ({"images": np.uint8(3)}, r"images are|has no axis"),
        ({"images": uint8(10, 20)}, r"\(10, 20\): this has no axis of 1 or 3 channels"),
        ({"images": uint8(10, 2, 4, 5)}, r"\(10, 2, 4, 5\): this has no axis of 1 or 3 channels"),
        ({"images": uint8(10, 3, 4, 3)}, r"\(10, 3, 4, 3\): this could have its channels first or last"),
        ({"labels": np.arange(9) % 2}, r"labels have shape \(9,\) for 10 images"),
        ({"labels": np.zeros((10, 1), int)}, r"labels have shape \(10, 1\) for 10 images"),
        ({"labels": np.arange(10) / 2}, r"labels are torch\.float64\. Expected whole numbers"),
        ({"labels": np.arange(10) - 1}, r"labels run from -1 to 8\. Expected 0 to the number"),
        ({"labels": np.arange(10) * 10**6}, r"labels run from 0 to 9000000"),
        ({"labels": np.arange(10), "classes": np.array(["ant", "bee"])}, r"labels run from 0 to 9\. Expected 0 to 1"),
        ({"split": np.arange(10)}, r"split holds \[0, 1, 2, 3, 4\]\. Expected 0 \(train\), 1 \(val\) and 2 \(test\)"),
        ({"split": GIVEN % 2}, r"split holds \[0, 1\]"),
        ({"split": GIVEN[:5]}, r"split have shape \(5,\)"),
        ({"split": None, "labels": np.arange(10)}, r"class '0' has 1 images"),
        (
            {"labels": None, "images": None, "split": None, "x_train": GIVEN},
            r"holds no images \(found: x_train\)\. Expected arrays named .* or x_train, y_train, x_test and y_test",
        ),
        (
            {"labels": None, "images": None, "split": None, "x_val": GIVEN},
            r"holds x_val\. Expected arrays named .*np\.savez\(",
        ),
        ({"labels": np.array(["cat", "dog"] * 5)}, r"labels are text\. Expected numbers: count the classes from 0"),
        ({"labels": None}, r"holds no labels \(found: images, split\)\. Expected arrays named images and labels"),
        ({"labels": np.array([{}] * 10)}, r"cannot be read \(it holds pickled objects\).*pickled objects are refused"),
        ({"classes": np.array([{}, {}])}, r"cannot be read .*pickled objects are refused"),
        ({"images": np.array([["a"] * 5] * 10)}, r"cannot be read"),
    ],
)
def test_bad_arrays(arrays: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        write(tmp_path, **arrays).splits()
    assert str(error.value).startswith(str(tmp_path / "set.npz")) or "set.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_npz(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "set.npz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"set\.npz cannot be read .*Save it again"):
        Arrays(str(path)).splits()


def test_a_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    save_file({"images": torch.zeros(4, 4, 4, dtype=torch.uint8)}, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"set\.safetensors cannot be read"):
        Arrays(str(path)).splits()


def test_a_pickle_or_a_bare_array_under_the_name_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with path.open("wb") as file:
        np.save(file, uint8(10, 4, 5))
    with pytest.raises(DataError, match=r"cannot be read \(one bare array\)"):
        Arrays(str(path)).splits()
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match=r"pickled objects are refused"):
        Arrays(str(path)).splits()


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "set.csv").touch()
    with pytest.raises(DataError, match=r"set\.csv is not an array file\. Expected one that ends in \.npz"):
        Arrays(str(tmp_path / "set.csv")).splits()


def test_halves_as_keras_saves_them(tmp_path: Path) -> None:
    """Train and test as they are, val a sixth of every class of train; labels may be columns."""
    x_train, x_test = uint8(60, 4, 5), uint8(20, 4, 5)
    y_train, y_test = np.arange(60) % 2, np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_train=x_train, y_train=y_train[:, None], x_test=x_test, y_test=y_test[:, None])
    train, val, test = Arrays(str(tmp_path / "a.npz")).splits()
    assert torch.equal(test.images[:, 0], torch.from_numpy(x_test))
    assert torch.equal(test.labels, torch.from_numpy(y_test))
    assert (len(train), len(val)) == (50, 10)
    assert val.labels.bincount().tolist() == [5, 5]
    pixels = torch.cat((train.images, val.images)).flatten(1).tolist()
    assert sorted(pixels) == sorted(torch.from_numpy(x_train).flatten(1).tolist())
    labels = {tuple(one): int(label) for one, label in zip(x_train.reshape(60, -1).tolist(), y_train, strict=True)}
    assert [labels[tuple(one)] for one in val.images.flatten(1).tolist()] == val.labels.tolist()
    np.savez(tmp_path / "b.npz", x_train=x_train, y_train=y_train, x_test=uint8(20, 5, 5), y_test=y_test)
    with pytest.raises(DataError, match=r"x_train are torch\.uint8 of shape \(60, 4, 5\), x_test .*images of one kind"):
        Arrays(str(tmp_path / "b.npz")).splits()


def test_without_val_a_sixth_of_train_is(tmp_path: Path) -> None:
    split = np.repeat([0, 2], [12, 4])
    np.savez(tmp_path / "a.npz", images=uint8(16, 4, 5), labels=np.arange(16) % 2, split=split)
    assert [len(part) for part in Arrays(str(tmp_path / "a.npz")).splits()] == [10, 2, 4]


def test_a_set_sorted_by_class_is_mixed_and_no_other(tmp_path: Path) -> None:
    """The first images of the test split must not be of one class; other orders are the user's own."""
    arrays = {"images": uint8(60, 4, 5), "split": np.repeat([0, 1, 2], 20)}
    by_class = write(tmp_path, **arrays, labels=np.tile(np.repeat([0, 1], 10), 3)).splits()
    for part in by_class:
        assert part.labels.bincount().tolist() == [10, 10]
        assert len(part.first(10).labels.unique()) == 2
    turns = write(tmp_path, **arrays, labels=np.arange(60) % 2).splits()
    assert torch.equal(torch.cat([part.images for part in turns])[:, 0], torch.from_numpy(uint8(60, 4, 5)))
