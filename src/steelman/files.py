"""Files written whole or not at all."""

import contextlib
import os
from collections.abc import Generator as Yields
from pathlib import Path

from safetensors import SafetensorError

from steelman.errors import RunError


def draft_of(path: Path) -> Path:
    """The path beside it that this process writes first."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def replacing(*paths: Path) -> Yields[tuple[Path, ...]]:
    """Paths beside these, to be written; they take these places, one after the other, when the block ends well.

    A reader sees each old file or the new one, never half of one.

    Raises:
        RunError: the disk is full or the directory is not writable.
    """
    drafts = tuple(map(draft_of, paths))
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise RunError(
            f"cannot write {paths[0]} ({reason}). Make room or give a place in a directory that you may write."
        ) from None
    finally:
        for draft in drafts:
            if draft.is_file():
                draft.unlink()
