"""Class folders of pictures, as a directory or a zip: layouts, pixels, bad files."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steelman.data import Splits, _decoded, _pictures
from steelman.data._pictures import pixels
from steelman.data.folder import Folder
from steelman.data.pacs import PACS
from steelman.errors import DataError, SpecError
from steelman.vision import torchvision


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


def fill(root: Path, files: dict[str, int]) -> Path:
    """Pictures of one grey level at these paths."""
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(value).save(root / name)
    return root


def plain(num: int, prefix: str = "") -> dict[str, int]:
    """Class ant holds levels 0.., bee 100.. ."""
    return {f"{prefix}{name}/{i}.png": level + i for name, level in (("bee", 100), ("ant", 0)) for i in range(num)}


def zipped(folder: Path, top: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(folder)}")
    return path


def levels(splits: Splits) -> list[list[int]]:
    """The grey levels of each split, sorted."""
    return [sorted(part.images[:, 0, 0, 0].tolist()) for part in splits]


def every_level(splits: Splits) -> list[int]:
    return sorted(level for part in levels(splits) for level in part)


def check_labels(splits: Splits) -> None:
    for part in splits:
        assert part.classes == ("ant", "bee")
        assert torch.equal(part.images[:, 0, 0, 0] // 100, part.labels)


def test_a_directory_of_classes_is_split(tmp_path: Path) -> None:
    splits = Folder(str(fill(tmp_path, plain(10))), size=8).splits()
    check_labels(splits)
    assert [part.labels.bincount().tolist() for part in splits] == [[6, 6], [2, 2], [2, 2]]
    assert every_level(splits) == [*range(10), *range(100, 110)]
    assert splits.train.shape == (3, 8, 8)
    assert splits.train.notes == ()


@pytest.mark.parametrize("top", ["", "insects/", "deep/insects/"])
def test_a_zip_holds_the_same_as_its_directory(top: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", plain(6))
    inside = zipped(folder, top)
    assert Folder(str(inside), size=8).splits().digest == Folder(str(folder), size=8).splits().digest


def test_a_zip_is_found_in_the_data_root_and_not_unpacked(tmp_path: Path) -> None:
    zipped(fill(tmp_path / "set", plain(3)))
    shutil.rmtree(tmp_path / "set")
    assert len(Folder("set.zip", size=8).splits(tmp_path).test) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    files = {**plain(4, "train/"), **plain(2, "Val/"), **plain(3, "test/")}
    splits = Folder(str(fill(tmp_path, files)), size=8).splits()
    check_labels(splits)
    assert levels(splits) == [[0, 1, 2, 3, 100, 101, 102, 103], [0, 1, 100, 101], [0, 1, 2, 100, 101, 102]]


@pytest.mark.parametrize(("given", "missing"), [("validation", "test"), ("test", "val")])
def test_the_missing_split_is_a_fifth_of_train(given: str, missing: str, tmp_path: Path) -> None:
    files = {**plain(10, "top/train/"), **plain(3, f"top/{given}/")}
    splits = Folder(str(fill(tmp_path, files)), size=8).splits()
    check_labels(splits)
    taken = getattr(splits, missing)
    assert taken.labels.bincount().tolist() == [2, 2]
    both = torch.cat([splits.train.images, taken.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == [*range(10), *range(100, 110)]
    other = splits.val if missing == "test" else splits.test
    assert sorted(other.images[:, 0, 0, 0].tolist()) == [0, 1, 2, 100, 101, 102]


def test_only_a_train_folder_is_a_folder_around_everything(tmp_path: Path) -> None:
    splits = Folder(str(fill(tmp_path, plain(5, "train/"))), size=8).splits()
    check_labels(splits)
    assert [len(part) for part in splits] == [6, 2, 2]


def test_each_split_comes_mixed(tmp_path: Path) -> None:
    files = {**plain(20, "train/"), **plain(20, "val/"), **plain(20, "test/")}
    for part in Folder(str(fill(tmp_path, files)), size=8).splits():
        assert set(part.first(10).labels.tolist()) == {0, 1}


def test_deeper_folders_belong_to_their_class_and_hidden_files_to_none(tmp_path: Path) -> None:
    fill(tmp_path, {**plain(3), "ant/deep/er/x.PNG": 9, ".hidden/a/x.png": 50, "__MACOSX/ant/x.png": 50})
    (tmp_path / "ant" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    splits = Folder(str(tmp_path), size=8).splits()
    check_labels(splits)
    assert every_level(splits) == [0, 1, 2, 9, 100, 101, 102]
    assert splits.train.notes == ()


def test_pictures_outside_any_class_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, {**plain(3, "top/"), "logo.png": 50, "top/sheet.png": 51})
    splits = Folder(str(tmp_path), size=8).splits()
    check_labels(splits)
    assert splits.test.notes == ("left out 2 outside any class folder: logo.png, top/sheet.png",)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    Folder(str(fill(tmp_path / "set", plain(3))), size=8).splits(None, lambda *call: told.append(call))
    assert told == [(i, 6, "reading set") for i in range(1, 7)]


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (33, 31), (16, 16), (7, 90), (91, 64)])
@pytest.mark.parametrize("size", [16, 33])
def test_pixels_are_those_of_torchvisions_resize_and_centre_crop(
    shape: tuple[int, int], size: int, tmp_path: Path
) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "x.png")
    transforms = torchvision.transforms
    reference = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    assert torch.equal(pixels((tmp_path / "x.png").read_bytes(), size, 3), reference(image))


def saved(image: Image.Image, path: Path) -> bytes:
    image.save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "ending", "value", "expected"),
    [
        ("L", "png", 200, (200, 200, 200)),
        ("1", "png", 1, (255, 255, 255)),
        ("RGBA", "png", (10, 20, 30, 128), (10, 20, 30)),
        ("LA", "png", (90, 255), (90, 90, 90)),
        ("CMYK", "tif", (255, 0, 0, 0), (0, 255, 255)),
        ("I;16", "png", 65535, (255, 255, 255)),
        ("I;16", "png", 257 * 100 + 128, (100, 100, 100)),
        ("I;16", "png", 257 * 100 + 129, (101, 101, 101)),
        ("I;16", "png", 300, (1, 1, 1)),
        ("I", "tif", 257 * 40, (40, 40, 40)),
    ],
)
def test_every_colour_mode_becomes_rgb(mode: str, ending: str, value, expected, tmp_path: Path) -> None:
    content = saved(Image.new(mode, (4, 4), value), tmp_path / f"x.{ending}")
    assert pixels(content, 4, 3)[:, 1, 2].tolist() == list(expected)


def test_palettes_become_rgb_and_colours_grey(tmp_path: Path) -> None:
    coloured = Image.new("RGB", (4, 4), (0, 0, 255)).quantize(4)
    assert coloured.mode == "P"
    assert pixels(saved(coloured, tmp_path / "p.png"), 4, 3)[:, 0, 0].tolist() == [0, 0, 255]
    grey = pixels(saved(Image.new("RGB", (4, 4), (255, 0, 0)), tmp_path / "r.png"), 4, 1)
    assert grey.shape == (1, 4, 4)
    assert grey.unique().tolist() == [76]  # 0.299 of 255, ITU-R 601


@pytest.mark.parametrize(
    ("mode", "value", "words"), [("F", 0.5, "float pixels"), ("I", 70000, "32-bit pixels"), ("I", -1, "32-bit pixels")]
)
def test_pixels_of_unknown_range_are_refused(mode: str, value, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        pixels(saved(Image.new(mode, (4, 4), value), tmp_path / "x.tif"), 4, 3)


def spoiled(tmp_path: Path) -> Path:
    """Ten pictures a class, two of them corrupt: a truncated JPEG and an empty PNG."""
    folder = fill(tmp_path / "set", plain(10))
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), tmp_path / "noise.jpg")
    (folder / "ant" / "half.jpg").write_bytes(content[: len(content) // 2])
    (folder / "bee" / "none.png").touch()
    return folder


@pytest.mark.parametrize("pack", [lambda folder: folder, zipped], ids=["directory", "zip"])
def test_a_corrupt_picture_is_named_or_left_out_and_counted(pack, tmp_path: Path) -> None:
    path = pack(spoiled(tmp_path))
    with pytest.raises(DataError, match=r"ant/half\.jpg is corrupt \(.*\)\. .*skip_bad=True \(--skip-bad\)"):
        Folder(str(path), size=8).splits()
    splits = Folder(str(path), size=8, skip_bad=True).splits()
    check_labels(splits)
    assert every_level(splits) == [*range(10), *range(100, 110)]
    assert {part.notes for part in splits} == {("left out 2 corrupt: ant/half.jpg, bee/none.png",)}


def test_the_reason_is_that_of_the_decoder_without_addresses(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", plain(4))
    (folder / "ant" / "note.png").write_text("no picture")
    with pytest.raises(DataError, match=r"ant/note\.png is corrupt \(cannot identify image file\)\."):
        Folder(str(folder), size=8).splits()


def test_many_corrupt_pictures_are_counted_but_not_all_named(tmp_path: Path) -> None:
    folder = fill(tmp_path, plain(4))
    for i in range(5):
        (folder / "ant" / f"x{i}.png").touch()
    splits = Folder(str(folder), size=8, skip_bad=True).splits()
    assert splits.train.notes == ("left out 5 corrupt: ant/x0.png, ant/x1.png, ant/x2.png, ...",)


def test_nothing_but_corrupt_pictures(tmp_path: Path) -> None:
    for name in ("ant/0.png", "bee/0.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match="no readable picture for all"):
        Folder(str(tmp_path), skip_bad=True).splits()


def test_a_zip_with_a_flipped_byte_inside_a_picture(tmp_path: Path) -> None:
    path = zipped(fill(tmp_path / "set", plain(3)))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ant/0\.png is corrupt \(Bad CRC-32"):
        Folder(str(path), size=8).splits()


def test_a_zip_member_that_is_too_large_is_not_unfolded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_pictures, "LARGEST", 10)
    with pytest.raises(DataError, match=r"ant/0\.png is corrupt \(\d+ bytes, more than any picture"):
        Folder(str(zipped(fill(tmp_path / "set", plain(3))))).splits()


def test_a_truncated_zip(tmp_path: Path) -> None:
    path = zipped(fill(tmp_path / "set", plain(3)))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"set\.zip is no directory and cannot be read as a zip .*truncated"):
        Folder(str(path)).splits()


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        Folder(str(tmp_path / "nowhere")).splits()


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no pictures \(\.jpg, .*Expected <class>/<picture>"):
        Folder(str(tmp_path)).splits()


@pytest.mark.parametrize(
    ("files", "num"),
    [({"a.png": 0, "b.png": 1}, 0), ({"ant/a.png": 0, "ant/b.png": 1}, 1), ({"train/a.png": 0, "test/b.png": 1}, 0)],
)
def test_a_folder_without_classes(files: dict[str, int], num: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"holds 2 pictures in {num} class folders\. Expected at least two"):
        Folder(str(fill(tmp_path, files))).splits()


def test_a_class_that_train_has_not(tmp_path: Path) -> None:
    fill(tmp_path, {**plain(4, "train/"), **plain(2, "test/"), "test/cow/0.png": 1})
    with pytest.raises(DataError, match=r"test has 1 classes that train has not \(cow\)"):
        Folder(str(tmp_path)).splits()


def test_a_class_with_too_few_pictures_to_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class 'cow' has 2 images\. Expected at least 3"):
        Folder(str(fill(tmp_path, {**plain(3), "cow/0.png": 1, "cow/1.png": 2})), size=8).splits()


def test_fields_are_checked() -> None:
    with pytest.raises(SpecError, match=r"Folder\.size is 0"):
        Folder("x", size=0)
    with pytest.raises(SpecError, match=r"Folder\.channels is 4"):
        Folder("x", channels=4)


def test_real_zip(data_root: Path) -> None:
    splits = Folder("texture-vs-shape-16class-160px.zip", size=16).splits(data_root)
    assert splits.train.classes == ("cue-conflict", "edges", "silhouettes")
    total = sum(part.labels.bincount() for part in splits)
    assert total.tolist() == [1280, 160, 160]  # Geirhos et al. 2019
    assert splits.test.labels.bincount().tolist() == [256, 32, 32]
    silhouettes = splits.train.pixels()[splits.train.labels == 2]
    assert float(((silhouettes < 0.1) | (silhouettes > 0.9)).float().mean()) > 0.6  # black on white, but for the edges


class TestKept:
    """Large sets are decoded once."""

    @pytest.fixture
    def cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setattr(_decoded, "FEW", 5)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "steelman" / "decoded"

    @pytest.mark.parametrize("share", [1.0, 0.0], ids=["in memory", "mapped"])
    def test_the_second_reading_decodes_nothing(
        self, share: float, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_decoded, "SHARE", share)
        monkeypatch.setattr(_decoded, "_SMALL", 0)
        source = Folder(str(zipped(fill(tmp_path / "set", plain(6)))), size=8)
        first, told = source.splits(), list[str]()
        again = source.splits(None, lambda _done, _total, words: told.append(words))
        assert told == []
        assert [part.digest for part in again] == [part.digest for part in first]
        assert [(part.name, part.notes, part.classes) for part in again] == [
            (part.name, part.notes, part.classes) for part in first
        ]
        assert every_level(again) == [*range(6), *range(100, 106)]
        assert len(list(cache.iterdir())) == 1

    def test_a_changed_set_or_a_damaged_file_is_decoded_anew(self, cache: Path, tmp_path: Path) -> None:
        folder = fill(tmp_path / "set", plain(6))
        source = Folder(str(folder), size=8)
        source.splits()
        fill(folder, {"ant/9.png": 9})
        assert 9 in every_level(source.splits())
        assert len(list(cache.iterdir())) == 2
        for file in cache.rglob("train.npy"):
            file.write_bytes(file.read_bytes()[:100])
        assert 9 in every_level(source.splits())

    def test_a_cache_that_cannot_be_written_is_done_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_decoded, "FEW", 5)
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        check_labels(Folder(str(fill(tmp_path / "set", plain(6))), size=8).splits())


def test_what_was_converted_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, plain(4))
    Image.new("CMYK", (8, 8)).save(tmp_path / "ant" / "c.jpg")
    Image.new("I;16", (8, 8)).save(tmp_path / "ant" / "d.png")
    for name in ("g", "h"):
        Image.new("L", (8, 8)).save(tmp_path / "bee" / f"{name}.png")
    notes = Folder(str(tmp_path), size=8).splits().test.notes
    assert notes == ("converted 1 16-bit, 1 CMYK, 2 greyscale",)
    assert Folder(str(tmp_path), size=8, channels=1).splits().test.notes == ("converted 1 16-bit, 1 CMYK",)


def test_a_part_that_lacks_a_class_is_noted(tmp_path: Path) -> None:
    files = {**plain(4, "train/"), **plain(2, "val/"), "test/ant/0.png": 0}
    notes = Folder(str(fill(tmp_path, files)), size=8).splits().test.notes
    assert notes == ("test has no picture of 1 classes: bee",)


def test_crops_are_those_of_torchvision(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (50, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    content, t = saved(image, tmp_path / "x.png"), torchvision.transforms
    cropped = t.Compose([t.Resize(40), t.CenterCrop(32), t.PILToTensor()])
    assert torch.equal(pixels(content, 32, 3, short_side=40), cropped(image))
    stretched = t.Compose([t.Resize((32, 32)), t.PILToTensor()])
    assert torch.equal(pixels(content, 32, 3, stretch=True), stretched(image))
    with pytest.raises(SpecError, match=r"Folder\.short_side is 20\. Expected at least size, 32"):
        Folder("x", size=32, short_side=20)


def test_only_some_pictures_of_a_folder(tmp_path: Path) -> None:
    files = {f"{label}/{kind}_{i}.png": i for label in ("ant", "bee") for kind in ("oil", "ink") for i in range(3)}
    assert sum(map(len, Folder(str(fill(tmp_path, files)), size=8, only="ink").splits())) == 6


def test_pacs_renditions_by_domain(data_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [source.domain for source in PACS().domains()] == ["art_painting", "cartoon", "sketch"]
    splits = PACS(size=8, domain="sketch").splits(data_root)
    assert [len(part) for part in splits[:2]] == [1488, 372]
    white = splits.test.pixels() > 0.8  # sketches are black on white
    assert float(white.float().mean()) > 0.7
    assert 150 < len(splits.test) < 250
    with pytest.raises(SpecError, match=r"PACS\.size is 0"):
        PACS(size=0)
