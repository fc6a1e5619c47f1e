"""Types are checked at run time in every test; nothing of a test depends on the global generator."""

import os

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many workers as cores: more threads would stand in each other's way

from jaxtyping import install_import_hook

install_import_hook("steelman", "beartype.beartype")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator, seed 0."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; tests that need it are skipped elsewhere."""
    root = os.environ.get("STEELMAN_DATA")
    if not root:
        pytest.skip("needs real data: set STEELMAN_DATA to a folder that holds MNIST/raw and the weight files")
    return Path(root)
