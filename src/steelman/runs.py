"""Run directories: what a computation was, what it needs to go on, and what came out.

    <slug>-<hash>/   spec.txt  env.json  log.jsonl  *.safetensors  results/*.json  examples/*.safetensors  figures/

Nothing is pickled. Every file is written beside its place and moved there, so a kill at any moment leaves the old file
or the new one, never half of one. One process at a time may write; any number may read.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from collections.abc import Generator as Yields
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steelman.errors import RunError
from steelman.files import draft_of
from steelman.strict_json import json_text

DISK_SPACE = 100 * 2**20  # bytes that must be free before anything is computed


class Run:
    """A run directory. Make one with `open` (to write, exclusively) or `existing` (to read)."""

    def __init__(self, path: Path, lock: FileLock | None = None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, spec_text: str, data_digest: str = "", *, command: str = "", need: int = DISK_SPACE
    ) -> "Run":
        """The directory, made where it is missing, held exclusively until `close` or the end of a `with` block.

        Args:
            path: where it is or shall be.
            spec_text: what is computed; a directory belongs to one spec.
            data_digest: identity of the data; a directory belongs to one digest.
            command: how it was called, kept in env.json.
            need: bytes that must be free on the disk.

        Raises:
            RunError: unwritable, too little disk space, in use by another process, or the home of something else.
        """
        _prepare(path, need)
        run = cls(path, _acquire(path))
        try:
            for leftover in path.rglob(".*.tmp"):  # of a process that was killed while writing
                leftover.unlink()
            run._claim(spec_text, data_digest, command)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def existing(cls, path: Path) -> "Run":
        """A run that somebody made, to read; it may still be at work.

        Raises:
            RunError: there is no such directory, or it is no run (says what is missing).
        """
        if not path.is_dir():
            raise RunError(f"{path} is no directory. Expected a run directory such as those that `train` makes.")
        missing = [name for name in ("spec.txt", "env.json") if not (path / name).is_file()]
        if missing:
            raise RunError(f"{path} is no run: it has no {' and no '.join(missing)}. Give the directory of a run.")
        return cls(path)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def close(self) -> None:
        """Let other processes write; does nothing the second time."""
        if self._lock is not None:
            (self.path / ".pid").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    @property
    def spec_text(self) -> str:
        """What is computed here, as `steelman.spec.parse` reads it.

        Raises:
            RunError: it is no text.
        """
        try:
            return (self.path / "spec.txt").read_text().rstrip("\n")
        except UnicodeDecodeError:
            raise RunError(f"{self.path / 'spec.txt'} is no text. Give the directory of a run.") from None

    @property
    def command(self) -> str:
        """How it was called; nothing where nobody said."""
        return self._env().get("command", "")

    @property
    def finished(self) -> bool:
        """Whether everything was computed; such a run is never computed again."""
        return (self.path / "finished").exists()

    def finish(self) -> None:
        """Mark the run as finished."""
        self.write_text("finished", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds") + "\n")

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add one JSON line to log.jsonl."""
        with _explained(self.path / "log.jsonl"), (self.path / "log.jsonl").open("a") as log:
            log.write(json_text(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The log's records; a last line that a kill cut short is left out."""
        path = self.path / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_log(self, num: int) -> None:
        """Keep the log's first `num` lines."""
        path = self.path / "log.jsonl"
        if path.exists():
            self.write_text("log.jsonl", "".join(path.read_text().splitlines(keepends=True)[:num]))

    def write_json(self, name: str, value: Any) -> Path:
        """Write `results/<name>.json`: strict JSON, NaN as null, values with `to_json` through that; returns its path.

        Raises:
            RunError: the disk is full or the directory is not writable any more.
        """
        assert re.fullmatch(r"[\w-]+", name), f"a plain name, not a path: {name}"
        return self.write_text(f"results/{name}.json", json_text(value, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote.

        Raises:
            RunError: this run has no such result, or the file is damaged.
        """
        path = self.file(f"results/{name}.json")
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Delete the run directory and run it again.") from None

    def write_text(self, relative: str, text: str) -> Path:
        """Write a text file of the run; returns its path.

        Raises:
            RunError: the disk is full or the directory is not writable any more.
        """
        return self._replace(relative, lambda path: path.write_text(text))

    def write_tensors(
        self, relative: str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write a .safetensors file of the run, on the disk when this returns; returns its path.

        Raises:
            RunError: the disk is full or the directory is not writable any more.
        """
        apart = {
            key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
        }
        notes = dict(metadata) if metadata else None
        return self._replace(relative, lambda path: safetensors.torch.save_file(apart, path, notes), sync=True)

    def read_tensors(self, relative: str) -> dict[str, Tensor]:
        """What `write_tensors` wrote, on the CPU.

        Raises:
            RunError: this run has no such file, or the file is damaged.
        """
        path = self.file(relative)
        with _readable(path):
            return safetensors.torch.load_file(path)

    def read_metadata(self, relative: str) -> dict[str, str]:
        """The metadata that `write_tensors` wrote into the same file; empty without any.

        Raises:
            RunError: this run has no such file, or the file is damaged.
        """
        path = self.file(relative)
        with _readable(path), safe_open(path, "pt") as file:
            return file.metadata() or {}

    def file(self, relative: str) -> Path:
        """Where this file of the run is.

        Raises:
            RunError: this run has no such file.
        """
        path = self.path / relative
        if not path.is_file():
            command = self._env().get("command") or "the command that made it"
            state = "finished" if self.finished else f"not finished: run it again to go on ({command})"
            raise RunError(f"the run {self.path} has no {relative}. It is {state}.")
        return path

    def has(self, relative: str) -> bool:
        """Whether the run has this file."""
        return (self.path / relative).is_file()

    def remove(self, relative: str) -> None:
        """Delete a file of the run, where there is one."""
        (self.path / relative).unlink(missing_ok=True)

    def _replace(self, relative: str, write: Callable[[Path], object], *, sync: bool = False) -> Path:
        """Let `write` fill a file beside the final one, then put it there in one step."""
        path = self.path / relative
        beside = draft_of(path)
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(beside)
            if sync:
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
            beside.replace(path)
        return path

    def _claim(self, spec_text: str, data_digest: str, command: str) -> None:
        """Make the directory this spec's, or see that it is."""
        if (self.path / "spec.txt").exists():
            if self.spec_text != spec_text:
                raise RunError(
                    f"{self.path} holds another run: {self.spec_text}. This one is: {spec_text}. "
                    "Give another directory, or delete that one."
                )
            before = self._env().get("data", "")
            if before != data_digest:
                raise RunError(
                    f"{self.path} was made with other data or weights: digest {before[:12] or 'none'}, now "
                    f"{data_digest[:12] or 'none'}. Give another directory, or delete that one."
                )
            return
        if any(not entry.name.startswith(".") and entry.name != "env.json" for entry in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no run. Give a new or an empty directory.")
        self.write_text("env.json", json_text(environment(data_digest, command), indent=1) + "\n")
        self.write_text("spec.txt", spec_text + "\n")  # last: its presence makes the directory a run

    def _env(self) -> dict[str, Any]:
        try:
            return json.loads(self.file("env.json").read_text())
        except ValueError:
            raise RunError(f"{self.path / 'env.json'} is damaged. Delete the run directory and run it again.") from None


def default_path(root: Path, slug: str, spec_text: str, data_digest: str = "") -> Path:
    """`root/<slug>-<hash of spec, data digest and code version>`: the same computation, the same directory."""
    identity = "\n".join((spec_text, data_digest, importlib.metadata.version("steelman")))
    plain = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")
    return root / f"{plain}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def environment(data_digest: str = "", command: str = "") -> dict[str, Any]:
    """What a reader needs to compare numbers: versions, machine, threads, date, data."""
    return {
        "steelman": importlib.metadata.version("steelman"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": data_digest,
        **({"command": command} if command else {}),
    }


def _prepare(path: Path, need: int) -> None:
    """Make the directory; see that it can be written and that the disk has room."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to the run directory {path} ({error.strerror}). Give a directory that you may write to."
        ) from None
    free = shutil.disk_usage(path).free
    if free < need:
        raise RunError(
            f"only {free / 2**20:.0f} MB are free for {path}, {need / 2**20:.0f} MB are needed. "
            "Free some space or give a directory on another disk."
        )


def _acquire(path: Path) -> FileLock:
    lock = FileLock(path / ".lock", timeout=0, thread_local=False)  # the kernel frees it when its process dies
    try:
        lock.acquire()
    except Timeout:
        pid = path / ".pid"
        holder = pid.read_text() if pid.exists() else "unknown"
        raise RunError(
            f"{path} is in use by another process (pid {holder}). Wait for it, stop it, or give another directory."
        ) from None
    (path / ".pid").write_text(str(os.getpid()))
    return lock


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


@contextlib.contextmanager
def _explained(path: Path) -> Yields[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write {path} ({error}). What was written before is intact: make room, "
            "then run the same command again."
        ) from None


@contextlib.contextmanager
def _readable(path: Path) -> Yields[None]:
    try:
        yield
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}). Delete the run directory and run it again.") from None
