"""torchvision imports beside any build of torch."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from steelman import vision


def test_a_fresh_process_gets_a_working_torchvision() -> None:
    code = (
        "import torch; from steelman.vision import torchvision; "
        "x = torchvision.transforms.functional.resize(torch.ones(1, 8, 8), [4, 4], antialias=True); "
        "y = torchvision.models.squeezenet1_1(num_classes=3).eval()(torch.zeros(1, 3, 64, 64)); "
        "print(tuple(x.shape), tuple(y.shape), hasattr(torch.ops.torchvision, 'nms'))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("(1, 4, 4) (1, 3) True", "", 0)


def test_another_import_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("compiled with different CUDA major versions")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="different CUDA"):
        vision.load()


def test_half_imported_modules_are_dropped_and_the_schemas_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    calls: list[set[str]] = []
    whole = ModuleType("torchvision")

    def second_time(name: str) -> ModuleType:
        calls.append({name for name in sys.modules if name.startswith("torchvision")})
        if len(calls) == 1:
            sys.modules["torchvision._half"] = ModuleType("torchvision._half")
            raise RuntimeError("operator torchvision::nms does not exist")
        return whole

    monkeypatch.setattr(importlib, "import_module", second_time)
    try:
        assert vision.load() is whole
    finally:
        sys.modules.update(kept)
    assert calls[0] == set(kept)
    assert calls[1] == set()
    schema = torch._C._get_schema("torchvision::nms", "")
    assert [argument.name for argument in schema.arguments] == ["dets", "scores", "iou_threshold"]


def test_a_download_of_unknown_length_is_told_by_what_has_come() -> None:
    told: list[tuple[int, int, str]] = []
    utils = vision.torchvision.datasets.utils
    with vision._told(lambda *call: told.append(call), "words"), utils.tqdm(total=None, unit="B") as bar:
        bar.update(3)
        bar.update(4)
    assert told == [(3, 3, "words"), (7, 7, "words")]
