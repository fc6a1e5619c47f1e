"""MobileNetV2 and ResNet-18: torchvision's networks behind ImageNet's normalisation, cut points, pretrained weights."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from steelman.errors import UsageError, WeightsError
from steelman.models import _imagenet
from steelman.models.cuts import cut_points, divided, load_blocks, stages
from steelman.models.mobilenet import MobileNetV2
from steelman.models.resnet import ResNet18
from steelman.models.small_cnn import SmallCNN
from steelman.vision import torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NARROW = MobileNetV2(width=0.25)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def narrow() -> nn.Module:
    return NARROW((3, 32, 32), 5, _seeded())


@pytest.fixture(scope="module")
def file(narrow: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_file(narrow.state_dict(), path)
    return path


def test_it_is_torchvisions_network_on_normalised_pixels(narrow: nn.Module) -> None:
    reference = torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25).eval()
    reference.load_state_dict(narrow.state_dict())  # strict: the same names, and no others
    x = torch.rand(2, 3, 40, 32, generator=_seeded())
    normalised = torchvision.transforms.functional.normalize(x, MEAN, STD)
    torch.testing.assert_close(narrow(x), reference(normalised))
    grey = x[:, :1]
    torch.testing.assert_close(narrow(grey), narrow(grey.repeat(1, 3, 1, 1)))


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        nets = [cls((3, 64, 64), 1000, _seeded()) for cls in (MobileNetV2(), ResNet18())]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [3_504_872, 11_689_512]


def test_cuts_are_torchvisions_features_by_name(narrow: nn.Module) -> None:
    features = list(narrow.features)
    assert list(cut_points(narrow)) == list(range(1, 17))
    for blocks, stage in ((4, 6), (8, 10), (12, 14), (16, 19)):
        prefix, rest = divided(narrow, blocks)
        assert [layer for layer in prefix if layer in features] == features[:stage]
        assert [*prefix, *rest] == stages(narrow)
    assert [type(layer) for layer in divided(narrow, 16)[1]] == [nn.Dropout, nn.Linear]


def test_a_cut_that_does_not_exist_names_the_choices(narrow: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"no cut behind 17 blocks\. Possible: 1, 2, .*16\."):
        divided(narrow, 17)
    with pytest.raises(UsageError, match="the model is no chain of layers"):
        divided(SmallCNN()((1, 28, 28), 10, _seeded()), 1)


def test_blocks_are_copied_and_the_rest_stays(narrow: nn.Module, file: Path, tmp_path: Path) -> None:
    other = NARROW((3, 32, 32), 7, _seeded(1))
    before = [value.clone() for value in divided(other, 4)[1].state_dict().values()]
    load_blocks(other, file, 4)
    ours, theirs = (list(divided(net, 4)[0].state_dict().values()) for net in (other, narrow))
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))
    assert all(
        torch.equal(one, two) for one, two in zip(before, divided(other, 4)[1].state_dict().values(), strict=True)
    )
    save_file({"features.0.0.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lacks the weights of the first 4 blocks, .* and \d+ more\. Start from"):
        load_blocks(other, tmp_path / "w.safetensors", 4)


def test_pretrained_weights_fill_all_but_a_head_of_other_classes(
    narrow: nn.Module, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELMAN_DATA", str(file.parent))
    loaded = MobileNetV2(width=0.25, pretrained="narrow.safetensors")
    same, other = (loaded((3, 32, 32), classes, _seeded(1)) for classes in (5, 7))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(same(x), narrow(x))
    assert torch.equal(other.features(x), narrow.features(x))
    assert other(x).shape == (2, 7)
    assert loaded.blank() == NARROW


def test_weights_of_another_width_are_refused(file: Path) -> None:
    words = r"another network or width: features.* Its first convolution has 8 channels, this network's 16: .*width"
    with pytest.raises(WeightsError, match=words):
        MobileNetV2(width=0.5, pretrained=str(file))((3, 32, 32), 5, _seeded())
    with pytest.raises(WeightsError, match="torchvision has no weights for this network and width"):
        MobileNetV2(width=0.5, pretrained="torchvision")((3, 32, 32), 5, _seeded())
    with pytest.raises(WeightsError, match=r"weights file nowhere does not exist, here or in \$STEELMAN_DATA"):
        MobileNetV2(pretrained="nowhere")((3, 32, 32), 5, _seeded())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="width is 0"):
        MobileNetV2(width=0.0)
    with pytest.raises(UsageError, match="takes images of 3 channels, or grey ones of 1, not 2"):
        NARROW((2, 32, 32), 5, _seeded())


def test_weights_come_from_torchvision_and_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ResNet18()((3, 32, 32), 6, _seeded(3))
    theirs = torchvision.models.resnet18(num_classes=6)
    theirs.load_state_dict(source.state_dict())
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: theirs.state_dict())
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(ResNet18(pretrained="torchvision")((3, 32, 32), 6, _seeded(4))(x), source(x))
    renamed = {f"x{index}": value for index, value in enumerate(theirs.state_dict().values())}
    peer = SimpleNamespace(create_model=lambda name, pretrained: SimpleNamespace(state_dict=lambda: renamed))
    monkeypatch.setitem(sys.modules, "timm", peer)
    assert torch.equal(ResNet18(pretrained="timm")((3, 32, 32), 6, _seeded(4))(x), source(x))

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(weights, "get_state_dict", fail)
    peer.create_model = fail
    for origin, words in (("torchvision", "could not be downloaded from"), ("timm", "timm could not get resnet18")):
        with pytest.raises(WeightsError, match=rf"{words}.*no network"):
            ResNet18(pretrained=origin)((3, 32, 32), 6, _seeded())
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="pip install timm"):
        _imagenet._from_timm("resnet18")
