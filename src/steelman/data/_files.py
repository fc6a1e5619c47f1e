"""Where data files lie, whether they are what they should be, and how missing ones get there."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from steelman.errors import DataError
from steelman.progress import Progress

DATA_ROOT = "STEELMAN_DATA"


def data_root(root: Path | None) -> Path:
    """`root`, else $STEELMAN_DATA, else `steelman` in the user's cache folder ($XDG_CACHE_HOME, ~/.cache)."""
    if root is not None:
        return root.expanduser()
    if given := os.environ.get(DATA_ROOT):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelman"


def locate(path: str, root: Path | None) -> Path:
    """The file or folder a user named: inside a root that is given, else as it stands, else inside the usual data root.

    Raises:
        DataError: there is none in either place.
    """
    plain = Path(path).expanduser()
    inside = data_root(root) / plain
    places = (plain, inside) if root is None else (inside, plain)
    found = next((candidate for candidate in places if candidate.exists()), None)
    if found is None:
        raise DataError(f"{path} does not exist, neither as it stands nor as {inside}. Check the path and --data-root.")
    return found


def check_md5(path: Path, content: bytes | bytearray, md5: str) -> None:
    """Compare a file's content with its canonical digest.

    Raises:
        DataError: they differ: the file is truncated, damaged or another one.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} has the wrong checksum: {len(content):,} bytes with md5 {found}. Expected md5 {md5}: the file is "
            "truncated, damaged or another one. Delete it to have it downloaded again, or name a folder with good "
            "files with --data-root."
        )


def fetch(dataset: str, folder: str, root: Path, progress: Progress, archive: str | None = None) -> None:
    """Make `root/folder` complete with what torchvision downloads for a data set; nothing half done is left behind.

    An `archive` that already lies in `root` is unpacked instead when its checksum is right.

    Raises:
        DataError: the download failed, or `root` cannot be written.
    """
    from steelman.vision import download  # torchvision takes seconds to import

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            if archive and (root / archive).is_file():
                shutil.copyfile(root / archive, Path(temporary, archive))
            download(dataset, Path(temporary), progress)
            (root / folder).mkdir(parents=True, exist_ok=True)
            for file in Path(temporary, folder).iterdir():
                if file.suffix != ".gz":
                    file.replace(root / folder / file.name)
    except OSError as error:
        raise DataError(
            f"{dataset} is not in {root}, which cannot be written to download it ({error.strerror or error}). "
            "Name a folder that holds the files, or one that can be written, with --data-root."
        ) from error
