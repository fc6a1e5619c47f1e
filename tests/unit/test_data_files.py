"""MNIST, Fashion-MNIST and CIFAR-10: read, verified and downloaded, with stand-ins in the true formats and sizes."""

import functools
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from steelman.data import cifar10, fashion
from steelman.data.cifar10 import CIFAR10
from steelman.data.fashion import Fashion
from steelman.data.mnist import MNIST
from steelman.errors import DataError
from steelman.vision import torchvision

md5 = partial(hashlib.md5, usedforsecurity=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    """One to whom a client that hangs up is no news: the tests look at what else is printed."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server on this machine and the folder it serves."""
    folder = tmp_path_factory.mktemp("site")
    server = QuietServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    thread.join()
    server.server_close()


@functools.cache
def files() -> dict[str, bytes]:
    """Four files of MNIST's format; the first three pixels of an image spell its position, labels are position % 10."""
    made = {}
    for part, num in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((num, 28 * 28), np.uint8)
        order = np.arange(num)
        images[:, 0], images[:, 1], images[:, 2] = order // 65536, order // 256 % 256, order % 256
        images[:, 28 * 28 - 1] = 77
        made[f"{part}-images-idx3-ubyte"] = struct.pack(">4i", 2051, num, 28, 28) + images.tobytes()
        made[f"{part}-labels-idx1-ubyte"] = struct.pack(">2i", 2049, num) + (order % 10).astype(np.uint8).tobytes()
    return made


@functools.cache
def packed_files() -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in files().items()}


@functools.cache
def digests() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """MD5 of the files, and of the packed ones."""
    hexes = [{name: md5(content).hexdigest() for name, content in made.items()} for made in (files(), packed_files())]
    return hexes[0], list(hexes[1].items())


def positions(images: torch.Tensor) -> list[int]:
    first = images.flatten(1)[:, :3].long()
    return (first[:, 0] * 65536 + first[:, 1] * 256 + first[:, 2]).tolist()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of the stand-ins are the ones to expect."""
    plain, packed = digests()
    for source, dataset in ((MNIST, "MNIST"), (Fashion, "FashionMNIST")):
        monkeypatch.setattr(source, "md5", plain)
        monkeypatch.setattr(getattr(torchvision.datasets, dataset), "resources", packed)
        monkeypatch.setattr(getattr(torchvision.datasets, dataset), "mirrors", ["http://127.0.0.1:9/"])  # discard port


def written(root: Path, dataset: str, files: dict[str, bytes]) -> Path:
    raw = root / dataset / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


@pytest.mark.parametrize("made", [files, packed_files], ids=["plain", "gz"])
def test_idx_files_are_read_in_order(made: Callable[[], dict[str, bytes]], tmp_path: Path) -> None:
    written(tmp_path, "MNIST", made())
    splits = MNIST().splits(tmp_path)
    assert positions(splits.train.images) == list(range(50_000))
    assert positions(splits.val.images) == list(range(50_000, 60_000))
    assert positions(splits.test.images) == list(range(10_000))
    assert {part.shape for part in splits} == {(1, 28, 28)}
    for part in splits:
        assert torch.equal(part.labels, torch.arange(len(part)) % 10)
        assert torch.equal(part.images[:, 0, 27, 27], torch.full((len(part),), 77, dtype=torch.uint8))
    assert [part.name for part in splits] == ["MNIST train", "MNIST val", "MNIST test"]


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    written(tmp_path, "FashionMNIST", files())
    splits = Fashion().splits(tmp_path)
    reference = torchvision.datasets.FashionMNIST(tmp_path, train=False)
    assert torch.equal(splits.test.images[:, 0], reference.data)
    assert torch.equal(splits.test.labels, reference.targets)
    assert list(splits.test.classes) == reference.classes
    assert fashion.CLASSES[9] == "Ankle boot"


def test_the_data_root_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path, "MNIST", packed_files())
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path))
    assert len(MNIST().splits().train) == 50_000


def test_a_truncated_file(tmp_path: Path) -> None:
    raw = written(tmp_path, "MNIST", files())
    (raw / "t10k-images-idx3-ubyte").write_bytes(files()["t10k-images-idx3-ubyte"][:5000])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte has the wrong checksum: 5,000 bytes .*--data-root"):
        MNIST().splits(tmp_path)


def test_one_changed_byte(tmp_path: Path) -> None:
    raw = written(tmp_path, "MNIST", files())
    changed = bytearray(files()["train-labels-idx1-ubyte"])
    changed[-1] ^= 1
    (raw / "train-labels-idx1-ubyte").write_bytes(changed)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte has the wrong checksum: 60,008 bytes"):
        MNIST().splits(tmp_path)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-100], lambda packed: b"no gzip at all"])
def test_a_damaged_gz(damage, tmp_path: Path) -> None:
    raw = written(tmp_path, "MNIST", packed_files())
    (raw / "train-images-idx3-ubyte.gz").write_bytes(damage(packed_files()["train-images-idx3-ubyte.gz"]))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read .*delete it"):
        MNIST().splits(tmp_path)


def test_a_missing_file_is_downloaded_with_progress_and_nothing_printed(
    site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address, folder = site
    for name, content in packed_files().items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    told: list[tuple[int, int, str]] = []
    splits = MNIST().splits(tmp_path / "new", lambda done, total, words: told.append((done, total, words)))
    assert positions(splits.test.images) == list(range(10_000))
    sizes = [len(content) for content in packed_files().values()]
    assert [total for done, total, _ in told if done == total] == sizes  # each file was told to its end
    assert {words for _, _, words in told} == {"downloading MNIST from 127.0.0.1"}
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "new" / "MNIST" / "raw").iterdir()) == sorted(files())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]  # nothing temporary is left
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert MNIST().splits(tmp_path / "new").digest == splits.digest  # the second time needs no network


def test_a_download_with_the_wrong_content(
    site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address, folder = site
    for name in packed_files():
        (folder / name).write_bytes(gzip.compress(b"something else"))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    with pytest.raises(DataError, match=r"MNIST could not be downloaded from 127\.0\.0\.1 \(.*corrupted"):
        MNIST().splits(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("source", "dataset"), [(MNIST(), "MNIST"), (Fashion(), "FashionMNIST")])
def test_no_network(source, dataset: str, tmp_path: Path) -> None:
    message = (
        rf"^{dataset} could not be downloaded from 127\.0\.0\.1 \(.*refused.*\)\. .*--data-root or \$STEELMAN_DATA"
    )
    with pytest.raises(DataError, match=message) as error:
        source.splits(tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"MNIST is not in .*file, which cannot be written .*--data-root"):
        MNIST().splits(tmp_path / "file")


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """CIFAR-10's files with 10 images each; image i is full of red i, green i + 100, blue i + 180."""
    files = {"batches.meta": pickle.dumps({"label_names": NAMES})}
    cls = torchvision.datasets.CIFAR10
    for number, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]):
        files[name] = batch(10 * number)
    files["test_batch"] = batch(60)
    monkeypatch.setattr(cls, "train_list", [[name, md5(files[name]).hexdigest()] for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [["test_batch", md5(files["test_batch"]).hexdigest()]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(files["batches.meta"]).hexdigest()})
    monkeypatch.setattr(cls, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar10, "VAL", 10)
    return files


def batch(first: int) -> bytes:
    values = np.arange(first, first + 10, dtype=np.uint8)[:, None]
    data = np.concatenate([np.repeat(values + plane, 1024, axis=1) for plane in (0, 100, 180)], axis=1)
    return pickle.dumps({"data": data, "labels": [(first + i) % 7 for i in range(10)]})


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_cifar10_is_read_in_order(batches: dict[str, bytes], tmp_path: Path) -> None:
    unpacked(tmp_path, batches)
    splits = CIFAR10().splits(tmp_path)
    for part, values in zip(splits, (range(40), range(40, 50), range(60, 70)), strict=True):
        expected = torch.tensor(values, dtype=torch.uint8)[:, None] + torch.tensor([0, 100, 180], dtype=torch.uint8)
        assert torch.equal(part.images, expected[:, :, None, None].expand(-1, -1, 32, 32))
        assert part.labels.tolist() == [value % 7 for value in values]
        assert part.classes == tuple(NAMES)


def test_cifar10_from_its_archive_without_network(
    batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = packed(batches)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(archive).hexdigest())
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(CIFAR10().splits(tmp_path).train) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"cifar-10-python.tar.gz", "cifar-10-batches-py"}


def test_cifar10_with_a_damaged_archive_and_no_network(batches: dict[str, bytes], tmp_path: Path) -> None:
    damaged = packed(batches)[:-1000]
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"CIFAR10 could not be downloaded from 127\.0\.0\.1"):
        CIFAR10().splits(tmp_path)
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == damaged  # the user's file is not touched


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("sprung"),)


def test_a_changed_cifar10_batch_is_named_and_never_unpickled(
    batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    unpacked(tmp_path, {**batches, "data_batch_3": pickle.dumps(Trap())})
    with pytest.raises(DataError, match=r"data_batch_3 has the wrong checksum"):
        CIFAR10().splits(tmp_path)
    assert not Path("sprung").exists()


def test_a_missing_cifar10_batch(batches: dict[str, bytes], tmp_path: Path) -> None:
    (unpacked(tmp_path, batches) / "test_batch").unlink()
    with pytest.raises(DataError, match=r"test_batch is missing\. Delete .*cifar-10-batches-py"):
        CIFAR10().splits(tmp_path)


def test_a_cifar10_folder_that_torchvision_refuses_for_another_reason(
    batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unpacked(tmp_path, batches)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: False)
    with pytest.raises(DataError, match=r"cifar-10-batches-py cannot be read by torchvision\. Delete it"):
        CIFAR10().splits(tmp_path)
