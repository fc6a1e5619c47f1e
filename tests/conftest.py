"""Types are checked at run time in every test; nothing of a test depends on the global generator."""

import gc
import os

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many workers as cores: more threads would stand in each other's way

import jaxtyping
from jaxtyping import _import_hook, install_import_hook

from tests import watching

jaxtyping.jaxtyped = watching.jaxtyped
_import_hook._JaxtypingLoader.exec_module = watching.with_coverage(_import_hook._JaxtypingLoader.exec_module)
install_import_hook("steelman", "beartype.beartype")
gc.disable()  # until all tests are collected: nearly all that is imported and collected stays

from collections.abc import Iterator  # noqa: E402
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


@pytest.fixture(scope="module")
def short_probes() -> Iterator[None]:
    """The trust checks' probes with few steps, where only that they are asked matters."""
    from steelman import probes
    from steelman.attacks.pgd import PGD
    from steelman.attacks.square import Square

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "SHORT", PGD(steps=3))
        patch.setattr(probes, "LONG", PGD(steps=6, loss="margin"))
        patch.setattr(probes, "SCORES", Square(queries=20))
        yield


PLAIN = (  # the same calls over and over
    "tests/contracts/test_attacks.py",
    "tests/oracles/",
    "tests/peers/",
    "tests/unit/test_bounds.py::test_no_allowed_image_is_below_its_bound",
    "tests/unit/test_bounds.py::test_no_image_proven_robust_is_ever_broken",
    "tests/unit/test_attack_reliable.py::test_it_breaks_all_that_long_attacks_break",
)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    watching.take_over_coverage()


def pytest_collection_finish() -> None:
    """What stays to the end is not looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Types and coverage are watched, but where the same calls come a thousand times: there in tests marked `watched`.

    Watching takes more than half of the time.
    """
    watching.begin_test()
    if not item.nodeid.startswith(PLAIN) or item.get_closest_marker("watched"):
        with watching.traced():
            return (yield)
    with watching.types_unchecked():
        return (yield)
