"""The embedded digits, where data are looked for, the shared splits, and facts about the real MNIST."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from steelman.data import Data
from steelman.data._files import data_root, locate
from steelman.data._splits import shuffled, stratified, three
from steelman.data.digits import Digits
from steelman.data.mnist import MNIST
from steelman.errors import DataError
from steelman.spec import catalogue, parse


def numbered(counts: list[int]) -> Data:
    """A set sorted by class; the only pixel of image i is i."""
    labels = torch.cat([torch.full((num,), label) for label, num in enumerate(counts)])
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return Data(images, labels, tuple(f"class{i}" for i in range(len(counts))), "numbered", ("a note",))


def test_every_source_is_found_by_the_spec_reader() -> None:
    assert list(catalogue("data")) == [
        "Arrays",
        "CIFAR10",
        "Classes",
        "Digits",
        "Fashion",
        "Folder",
        "MNIST",
        "PACS",
        "TextureVsShape",
    ]
    assert repr(parse("mnist", "data")) == "MNIST()"
    folder = parse("folder('cats.zip', size=32, skip_bad=True)", "data")
    assert repr(folder) == "Folder('cats.zip', size=32, skip_bad=True)"
    assert parse(repr(folder)) == folder


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), [0, 1], r"set: images are torch\.float32 of shape \(2, 1, 4, 4\)\. Expected uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), [0, 1], r"shape \(2, 4, 4\)\. Expected uint8 of shape \(n, channels"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            [0, 1, 0],
            r"labels are torch\.int64 of shape \(3,\) for 2 images",
        ),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0.0, 1.0], r"labels are torch\.float32 .* Expected int64"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), [], "set is empty"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 2], "labels run from 0 to 2. Expected 0 to 1, for 2 classes"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [-1, 1], "labels run from -1 to 1"),
    ],
)
def test_data_refuses_what_is_no_labelled_set(images: torch.Tensor, labels: list[float], message: str) -> None:
    targets = torch.tensor(labels) if labels else torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DataError, match=message):
        Data(images, targets, ("a", "b"), "set")


def test_data_gives_pixels_in_the_unit_interval_and_parts_of_itself() -> None:
    data = numbered([100, 100, 56])
    assert data.pixels().flatten().tolist() == pytest.approx([value / 255 for value in range(256)], abs=1e-7)
    part = data.take(torch.tensor([255, 3])).to("cpu")
    assert (part.images.flatten().tolist(), part.targets().tolist(), part.notes) == ([255, 3], [2, 0], ("a note",))
    assert data.first(5).images.flatten().tolist() == [0, 1, 2, 3, 4]
    assert data.first(None) is data
    assert data.first(1000) is data


def test_equal_content_has_an_equal_digest_and_any_change_another() -> None:
    data = numbered([3, 3])
    assert data.digest == replace(numbered([3, 3]), name="other", notes=()).digest
    changed = data.images.clone()
    changed[4] += 1
    others = [
        replace(data, images=changed),
        replace(data, labels=data.labels.flip(0)),
        replace(data, classes=("x", "y")),
        replace(data, images=data.images.view(3, 2, 1, 1), labels=data.labels[:3]),
        data.first(5),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 6


def test_stratified_gives_every_class_its_share_and_every_image_once() -> None:
    data = numbered([100, 50, 10])
    parts = stratified(data, (0.6, 0.2, 0.2))
    assert [data.labels[part].bincount().tolist() for part in parts] == [[60, 30, 6], [20, 10, 2], [20, 10, 2]]
    assert sorted(torch.cat(parts).tolist()) == list(range(160))


def test_three_images_of_a_class_are_enough_for_one_in_each_split() -> None:
    splits = three(numbered([3] * 40))
    for part in splits:
        assert part.labels.bincount().tolist() == [1] * 40


def test_splits_are_the_same_each_time_and_leave_the_global_generators_alone() -> None:
    np.random.seed(7)
    torch.manual_seed(7)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(7)
    torch.manual_seed(7)
    first = three(numbered([20, 20]))
    assert (np.random.rand(), torch.rand(1)) == expected
    assert three(numbered([20, 20])).digest == first.digest


def test_three_names_the_splits_and_keeps_the_notes() -> None:
    splits = three(numbered([5, 5]))
    assert [part.name for part in splits] == ["numbered train", "numbered val", "numbered test"]
    assert {part.notes for part in splits} == {("a note",)}


def test_the_first_images_of_a_split_are_no_longer_sorted_by_class() -> None:
    assert len(set(three(numbered([50] * 4)).test.first(20).labels.tolist())) == 4
    mixed = shuffled(numbered([50] * 4))
    assert len(set(mixed.first(20).labels.tolist())) == 4
    assert torch.equal(mixed.images.flatten().sort().values, torch.arange(200, dtype=torch.uint8))
    assert torch.equal(mixed.images.flatten() // 50, mixed.labels)  # labels moved with their images


def test_too_few_images_of_a_class_to_split() -> None:
    with pytest.raises(DataError, match=r"numbered: class 'class1' has 2 images\. Expected at least 3"):
        three(numbered([5, 2]))


def test_digits_have_the_published_size_and_shape() -> None:
    splits = Digits().splits()
    assert [len(part) for part in splits] == [1079, 359, 359]
    assert {part.shape for part in splits} == {(1, 28, 28)}
    total = sum(part.labels.bincount() for part in splits)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI optdigits, test part


def test_digits_are_scikit_learns_stretched_and_resized() -> None:
    raw = torch.from_numpy(load_digits().images)
    reference = torch.nn.functional.interpolate(raw[:, None] * 255 / 16, size=(28, 28), mode="bilinear")
    test = Digits().splits().test
    distance = torch.cdist(test.images.double().flatten(1), reference.flatten(1))
    nearest = distance.argmin(1)
    assert (test.images - reference[nearest]).abs().max() <= 1.5  # 8-bit rounding before and after resizing
    assert len(set(nearest.tolist())) == 359
    assert torch.equal(test.labels, torch.from_numpy(load_digits().target)[nearest])
    assert int(test.images.max()) == 255


def test_data_root_prefers_the_argument_then_the_variable_then_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root(tmp_path) == tmp_path
    assert data_root(Path("~/sets")) == tmp_path / "home" / "sets"
    assert data_root(None) == tmp_path / "variable"
    monkeypatch.delenv("STEELMAN_DATA")
    assert data_root(None) == tmp_path / "cache" / "steelman"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root(None) == tmp_path / "home" / ".cache" / "steelman"


def test_locate_looks_inside_a_root_that_is_given_then_at_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "set.npz"
    inside.touch()
    assert locate("set.npz", tmp_path) == inside
    assert locate(str(inside), None) == inside
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "set.npz").touch()
    assert locate("set.npz", tmp_path / "run") == tmp_path / "run" / "set.npz"  # a run's own file, wherever one stands
    with pytest.raises(DataError, match=r"other\.npz does not exist, neither as it stands nor as .*other\.npz"):
        locate("other.npz", tmp_path)


def test_real_mnist(data_root: Path) -> None:
    splits = MNIST().splits(data_root)
    assert [len(part) for part in splits] == [50_000, 10_000, 10_000]
    assert splits.train.targets(slice(10)).tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert splits.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    official = splits.train.labels.bincount() + splits.val.labels.bincount()
    assert official.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = torch.cat([splits.train.images, splits.val.images]).double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)  # the constants of every MNIST example
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)
