"""torchvision, imported here and nowhere else, so that it also imports beside a CPU build of torch.

PyPI's torchvision wheel is built for CUDA. Beside a CPU torch its compiled operators cannot be loaded and its import
ends with `operator torchvision::nms does not exist`. Only the schemas of two operators are missing; once they are
defined all that is plain Python works: data sets, models, transforms.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any
from urllib.parse import urlsplit

import torch

from steelman.errors import DataError, WeightsError
from steelman.progress import Progress, silent

_MISSING = "operator torchvision::nms does not exist"


def load() -> ModuleType:
    """The package torchvision; the schemas of `nms` and `qnms` are defined where its operators cannot be loaded."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    _define_schemas()
    return importlib.import_module("torchvision")


@functools.cache  # a schema lives as long as its library object
def _define_schemas() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


torchvision = load()


def download(dataset: str, folder: Path, progress: Progress = silent) -> None:
    """Download a data set of torchvision's (its class name) into `folder`, in torchvision's layout, checksums verified.

    Raises:
        DataError: no network, no such file on the site, a wrong checksum, or a folder that cannot be written.
    """
    cls = getattr(torchvision.datasets, dataset)
    site = urlsplit(cls.mirrors[0] if hasattr(cls, "mirrors") else cls.url).hostname
    try:
        with _told(progress, f"downloading {dataset} from {site}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy and tarfile, about torchvision's own code
            cls(root=folder, download=True)
    except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{dataset} could not be downloaded from {site} ({reason}). Connect to the network, or get its files "
            "elsewhere and name the folder that holds them with --data-root or $STEELMAN_DATA."
        ) from error


@contextmanager
def _told(progress: Progress, words: str) -> Generator[None]:
    """Send torchvision's download progress, which it prints to stderr through tqdm, to `progress` instead."""
    utils = torchvision.datasets.utils
    printing = utils.tqdm

    def quiet(*, total: int | None = None, **_: Any) -> "_Bar":
        return _Bar(total or 0, progress, words)

    utils.tqdm = quiet
    try:
        yield
    finally:
        utils.tqdm = printing


class _Bar:
    """The part of tqdm that torchvision uses."""

    def __init__(self, total: int, progress: Progress, words: str) -> None:
        self._done, self._total, self._progress, self._words = 0, total, progress, words

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, num: int) -> None:
        """Count `num` more bytes."""
        self._done += num
        self._progress(self._done, max(self._total, self._done), self._words)


def pretrained(model: str) -> dict[str, torch.Tensor]:
    """Torchvision's first ImageNet weights of a model (its function's name), from its cache or downloaded.

    Raises:
        WeightsError: no network, no such file on the site, or a wrong checksum.
    """
    weights = torchvision.models.get_model_weights(model)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise WeightsError(
            f"the weights of {model} could not be downloaded from {urlsplit(weights.url).hostname} ({reason}). "
            "Connect to the network, or give a file as pretrained='file'"
        ) from error
