"""Texture against shape: what is read, how it is judged, and what the study says of it."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from steelman.data import Data
from steelman.data.texture_vs_shape import CATEGORIES, FILE, Renditions, TextureVsShape, categories, missing
from steelman.errors import DataError, SpecError
from steelman.models.mobilenet import MobileNetV2
from steelman.page import Grid, Table
from steelman.progress import silent
from steelman.runs import Run
from steelman.spec import parse
from steelman.studies.transfer import Transfer, shape, shape_pages
from steelman.studies.transfer.shape import imagenet_network, judged, shapes, sixteen

NARROW = MobileNetV2(width=0.25)
PICTURES = {
    "edges": ("cat1", "dog1"),
    "silhouettes": ("cat1", "dog1"),
    "cue-conflict": ("cat1-dog2", "cat2-cat1", "dog1-cat3", "dog2-cat1"),
}
KNOWN = ("dog", "house")  # the classes of B
COLOURS = {"cat": (0, 0, 0), "dog": (255, 255, 255)}


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _picture(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small set of the same layout: cats are black, dogs white."""
    folder = tmp_path_factory.mktemp("root")
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        for kind, stems in PICTURES.items():
            for stem in stems:
                archive.writestr(f"t/{kind}/{stem[:3]}/{stem}.png", _picture(COLOURS[stem[:3]]))
    rows = [(0, "a", "-"), (1, "b", "cat"), (2, "c", "dog"), (3, "d", "dog")]
    lines = [f"{index}\tn{index}\t{name}\t0\t{category}" for index, name, category in rows]
    (folder / CATEGORIES).write_text("index\twnid\tname\tin_imagenet_r\tcategory16\n" + "\n".join(lines) + "\n")
    return folder


class TestData:
    def test_shape_is_the_folder_and_texture_stands_in_the_name(self, root: Path) -> None:
        found = TextureVsShape(size=8).whole(root)
        pairs = [(found.classes[shape], found.classes[skin]) for shape, skin in zip(found.labels, found.textures)]  # noqa: B905
        assert sorted(pairs) == [("cat", "cat"), ("cat", "dog"), ("dog", "cat"), ("dog", "cat")]
        white = found.pixels().flatten(1).mean(1) == 1
        assert torch.equal(white, found.labels == 1)
        part = found.take(torch.tensor([3, 0]))
        assert torch.equal(part.textures, found.textures[[3, 0]])
        assert (TextureVsShape("edges", 8).whole(root).textures == -1).all()
        assert parse("TextureVsShape(kind='edges')", "data") == TextureVsShape("edges")

    def test_a_category_is_the_mean_of_its_classes(self, root: Path) -> None:
        weights = categories(("cat", "dog"), root)
        assert weights.shape == (2, 1000)
        assert weights[:, :5].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0.5, 0.5, 0]]
        with pytest.raises(DataError, match="has no class of category bear"):
            categories(("bear",), root)

    def test_bad_files_are_named(self, root: Path, tmp_path: Path) -> None:
        assert missing(root) == ()
        assert missing(tmp_path) == (FILE, CATEGORIES)
        with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
            archive.writestr("t/edges/cat/cat1.png", b"no picture")
        with pytest.raises(DataError, match=r"cat1\.png is corrupt"):
            TextureVsShape("edges").whole(tmp_path)
        with pytest.raises(DataError, match="holds no pictures of kind silhouettes"):
            TextureVsShape("silhouettes").whole(tmp_path)
        with pytest.raises(SpecError, match="size is 0"):
            TextureVsShape(size=0)


def test_bias_counts_decisions_for_either_class_where_they_differ() -> None:
    shapes, textures = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 2, 0])
    pictures = Renditions(torch.zeros(6, 1, 1, 1, dtype=torch.uint8), shapes, ("a", "b", "c"), textures=textures)
    found = judged(pictures, torch.tensor([0, 1, 0, 0, 0, 0]))  # shape, texture, both, texture, neither, texture
    numbers = {key: (round(one["value"] * one["n"]), one["n"]) for key, one in found.items()}
    assert numbers == {"all": (2, 6), "differ": (1, 5), "texture": (3, 5), "bias": (1, 4)}
    plain = Renditions(pictures.images, shapes, pictures.classes, textures=torch.full((6,), -1))
    assert judged(plain, shapes)["bias"] is None


def test_shape_accuracy_is_that_of_the_data_sets_readme(data_root: Path) -> None:
    """25.0 % of 160 edges, 47.5 % of 160 silhouettes."""
    network = MobileNetV2(pretrained=str(data_root / "mobilenet_v2_imagenet1k.safetensors"))
    model = network((3, 224, 224), 1000, _seeded())
    for kind, right in (("edges", 40), ("silhouettes", 76)):
        pictures = TextureVsShape(kind).whole(data_root)
        weights = categories(pictures.classes, data_root)
        assert len(pictures.classes) == 16
        assert int((weights > 0).sum()) == 207
        guess = sixteen(model, pictures, weights, silent)
        assert int((guess == pictures.labels).sum()) == right


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.open(tmp_path_factory.mktemp("run") / "transfer", "Transfer()")
    weights = NARROW((3, 224, 224), 1000, _seeded(1)).state_dict()
    run.write_tensors("parts/A/weights.safetensors", weights)
    bright = _Bright()
    known = Data(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), KNOWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "network", lambda *_: bright)
        shapes(run, _plan(), known, root)
    run.close()
    return run


class TestStudy:
    def test_networks_of_b_are_asked_for_shared_classes_only(self, run: Run) -> None:
        """Of dogs, all white, whose texture is not a dog's; the network calls white a dog."""
        found = run.read_json("shape")
        assert found["shared"] == ["dog"]
        for kind, num in (("edges", 1), ("silhouettes", 1), ("cue-conflict", 2)):
            assert {(one["value"], one["n"]) for one in found["arms"][kind].values()} == {(1.0, num)}
        assert found["paired"]["p"] == 1.0
        assert found["a"]["cue-conflict"]["differ"]["n"] == 3

    def test_the_page_says_how_few_classes_are_shared(self, run: Run) -> None:
        (section,) = shape_pages.sections(run, _plan())
        assert [type(item) for item in section.items] == [Table, Grid, Table]
        assert "only one of the 16 classes, dog," in section.text[1]
        assert "A guess among its 2 classes is right in 50 %." in section.text[1]
        grid = section.items[1]
        assert isinstance(grid, Grid)
        assert len(run.read_tensors(grid.file)["x"]) == len(grid.words) == 8
        told = shape_pages.findings(run)
        assert "Where shape and texture disagree, A decides for the shape" in told[0]
        assert "100.0 % [39.8, 100.0] of 4, not told apart from base B" in told[1]
        assert shape_pages.facts(run, _plan()) == {}

    def test_without_the_files_the_section_is_left_out_and_said(self, tmp_path: Path, run: Run) -> None:
        other = Run.open(tmp_path / "run", "Transfer()")
        known = Data(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]), KNOWN)
        shapes(other, _plan(), known, tmp_path)
        other.close()
        assert shape_pages.sections(other, _plan()) == shape_pages.findings(other) == ()
        assert shape_pages.facts(other, _plan())["shape and texture"].startswith(f"left out: {FILE}")

    def test_a_head_that_was_only_drawn_is_not_asked(self, tmp_path: Path, run: Run) -> None:
        assert imagenet_network(_plan(), run) is not None
        drawn = Run.open(tmp_path / "run", "Transfer()")
        weights = NARROW((3, 224, 224), 1000, _seeded()).state_dict()
        drawn.write_tensors("parts/A/weights.safetensors", weights)
        assert imagenet_network(_plan(), drawn) is None
        drawn.close()


class _Bright(nn.Module):
    """White is the first class, black the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack((mean, 1 - mean), 1)


def _plan() -> shape.Plan:
    """The study with two arms, A being a narrow network with weights from elsewhere."""
    network = MobileNetV2(width=0.25, pretrained="elsewhere.safetensors")
    study = Transfer(network=network, cuts=(16,), treatments=("base", "AnB"))
    return study.plan(KNOWN, (3, 64, 64))
