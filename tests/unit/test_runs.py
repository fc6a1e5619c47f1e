"""Run directories: what they hold, who may write, and what a kill leaves."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from steelman import runs
from steelman.errors import RunError
from steelman.runs import Run, default_path, environment
from steelman.stats import Share
from steelman.strict_json import json_text


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", "PGD()", "d" * 64, command="steelman train") as run:
        yield run


def test_a_new_run_says_what_it_is(run):
    assert (run.path / "spec.txt").read_text() == "PGD()\n"
    assert run.spec_text == "PGD()"
    env = json.loads((run.path / "env.json").read_text())
    assert env["python"] == ".".join(map(str, sys.version_info[:3]))
    assert env["torch"] == torch.__version__
    assert env["threads"] == torch.get_num_threads()
    assert env["data"] == "d" * 64
    assert env["command"] == "steelman train"
    assert {"steelman", "platform", "processor", "date"} <= env.keys()
    assert env["processor"]
    assert repr(run) == f"Run({str(run.path)!r})"


def test_the_processor_is_named_where_the_system_has_no_cpuinfo(monkeypatch):
    monkeypatch.setattr(runs.Path, "exists", lambda path: False)
    assert environment()["processor"] == (runs.platform.processor() or runs.platform.machine())
    assert "command" not in environment()


def test_a_run_is_opened_again_with_the_same_spec_only(tmp_path):
    path = tmp_path / "deep" / "run"
    Run.open(path, "PGD(steps=3)", "aaa").close()
    Run.open(path, "PGD(steps=3)", "aaa").close()
    with pytest.raises(RunError, match=r"holds another run: PGD\(steps=3\)\. This one is: PGD\(steps=4\)"):
        Run.open(path, "PGD(steps=4)", "aaa")
    with pytest.raises(RunError, match=r"made with other data or weights: digest aaa, now none"):
        Run.open(path, "PGD(steps=3)")
    Run.open(path, "PGD(steps=3)", "aaa").close()  # the refusals let go of the lock


def test_a_damaged_environment_is_named(tmp_path):
    Run.open(tmp_path, "PGD()").close()
    (tmp_path / "env.json").write_text("{")
    with pytest.raises(RunError, match=r"env\.json is damaged"):
        Run.open(tmp_path, "PGD()")


def test_somebody_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        Run.open(tmp_path, "PGD()")
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert not (tmp_path / "spec.txt").exists()


def test_a_start_that_was_killed_is_started_again(tmp_path):
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / ".env.json.123.tmp").write_text("{")
    Run.open(tmp_path, "PGD()").close()
    assert Run.existing(tmp_path).spec_text == "PGD()"
    assert not list(tmp_path.glob(".*.tmp"))


def test_one_writer_at_a_time(tmp_path):
    with Run.open(tmp_path, "PGD()"):
        with pytest.raises(RunError, match=rf"is in use by another process \(pid {os.getpid()}\)"):
            Run.open(tmp_path, "PGD()")
        assert Run.existing(tmp_path).spec_text == "PGD()"  # readers don't wait
    Run.open(tmp_path, "PGD()").close()


def test_a_second_process_is_told_and_a_dead_one_holds_nothing(tmp_path):
    words = f"import pathlib, steelman.runs as r; run = r.Run.open(pathlib.Path({str(tmp_path)!r}), 'PGD()')"
    hold = f"{words}; print('held', flush=True); import time; time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"in use by another process \(pid {holder.pid}\)"):
            Run.open(tmp_path, "PGD()")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    Run.open(tmp_path, "PGD()").close()


def test_an_unwritable_place_is_named_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write to the run directory .*file.* Give a directory"):
        Run.open(tmp_path / "file" / "run", "PGD()")
    with pytest.raises(RunError, match="cannot write to the run directory"):
        Run.open(tmp_path / "file", "PGD()")


def test_a_full_disk_is_named_before_anything_is_computed(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5 * 2**20))
    with pytest.raises(RunError, match=r"only 5 MB are free for .*, 100 MB are needed"):
        Run.open(tmp_path / "run", "PGD()")
    with pytest.raises(RunError, match="300 MB are needed"):
        Run.open(tmp_path / "run", "PGD()", need=300 * 2**20)
    Run.open(tmp_path / "run", "PGD()", need=2**20).close()


def test_existing_says_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="nowhere is no directory"):
        Run.existing(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is no run: it has no spec\.txt and no env\.json"):
        Run.existing(tmp_path)
    (tmp_path / "spec.txt").write_text("PGD()")
    with pytest.raises(RunError, match=r"is no run: it has no env\.json"):
        Run.existing(tmp_path)


def test_a_spec_that_is_no_text_is_named(tmp_path):
    Run.open(tmp_path / "a", "Task(1)").close()
    (tmp_path / "a" / "spec.txt").write_bytes(b"Task(\xe9)")
    with pytest.raises(RunError, match=r"a/spec\.txt is no text\. Give the directory of a run"):
        assert Run.existing(tmp_path / "a").spec_text


def test_finish(run):
    assert not run.finished
    run.finish()
    assert run.finished
    assert Run.existing(run.path).finished


def test_json_is_strict(run):
    value = {"a": math.nan, "b": [1.5, math.inf], "c": (True, None), "d": Share.counted(1, 2), 3: "x"}
    path = run.write_json("numbers", value)
    assert path == run.path / "results" / "numbers.json"
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    low, high = Share.counted(1, 2).low, Share.counted(1, 2).high
    expected = {"value": 0.5, "low": low, "high": high, "n": 2}
    assert run.read_json("numbers") == {"a": None, "b": [1.5, None], "c": [True, None], "d": expected, "3": "x"}


def test_floats_come_back_as_they_were():
    values = [0.1, 1 / 3, 1e-300, -2.5e17]
    assert json.loads(json_text(values)) == values


def test_results_have_names_not_paths(run):
    with pytest.raises(AssertionError, match="a plain name"):
        run.write_json("results/natural.json", {})


def test_missing_and_damaged_files_are_named(run):
    with pytest.raises(RunError, match=r"has no results/natural\.json\. It is not finished: run it again to go on"):
        run.read_json("natural")
    (run.path / "results").mkdir()
    (run.path / "results" / "natural.json").write_text('{"value": 0.')
    with pytest.raises(RunError, match=r"natural\.json is damaged"):
        run.read_json("natural")
    whole = run.write_tensors("weights.safetensors", {"w": torch.ones(100)}).read_bytes()
    (run.path / "weights.safetensors").write_bytes(whole[:-30])
    with pytest.raises(RunError, match=r"weights\.safetensors is damaged"):
        run.read_tensors("weights.safetensors")
    with pytest.raises(RunError, match=r"weights\.safetensors is damaged"):
        run.read_metadata("weights.safetensors")
    run.finish()
    with pytest.raises(RunError, match=r"has no last\.safetensors\. It is finished"):
        run.file("last.safetensors")


def test_tensors_come_back_bit_for_bit(run):
    shared = torch.arange(6.0)
    tensors = {
        "a": shared,
        "tied": shared,
        "view": shared.view(2, 3).T,
        "nan": torch.tensor([math.nan, -0.0, math.inf]),
        "bytes": torch.get_rng_state(),
        "scalar": torch.tensor(3),
        "channels_last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    run.write_tensors("examples/all.safetensors", tensors, metadata={"note": "é"})
    back = run.read_tensors("examples/all.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(torch.nan_to_num(back[name], nan=7), torch.nan_to_num(tensor, nan=7))
    assert run.read_metadata("examples/all.safetensors") == {"note": "é"}
    run.write_tensors("examples/all.safetensors", {"a": shared})
    assert run.read_metadata("examples/all.safetensors") == {}


def test_a_write_that_fails_leaves_the_old_file(run, monkeypatch):
    run.write_tensors("weights.safetensors", {"w": torch.ones(3)})

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.safetensors.torch, "save_file", full)
    with pytest.raises(RunError, match=r"cannot write .*weights\.safetensors .*No space left.*make room"):
        run.write_tensors("weights.safetensors", {"w": torch.zeros(3)})
    assert torch.equal(run.read_tensors("weights.safetensors")["w"], torch.ones(3))
    run.close()
    Run.open(run.path, "PGD()", "d" * 64).close()
    assert not list(run.path.rglob("*.tmp"))


def test_the_log_is_cut_back_to_a_number_of_lines(run):
    assert run.read_log() == []
    run.truncate_log(0)
    for epoch in range(4):
        run.append_log({"epoch": epoch, "loss": math.nan})
    with (run.path / "log.jsonl").open("a") as log:
        log.write('{"epoch": 4, "lo')  # a kill
    assert [record["epoch"] for record in run.read_log()] == [0, 1, 2, 3]
    assert run.read_log()[0] == {"epoch": 0, "loss": None}
    run.truncate_log(2)
    run.append_log({"epoch": 2})
    assert [record["epoch"] for record in run.read_log()] == [0, 1, 2]


def test_has_and_remove(run):
    assert not run.has("figures/a.svg")
    run.write_text("figures/a.svg", "<svg/>")
    assert run.has("figures/a.svg")
    assert run.file("figures/a.svg").read_text() == "<svg/>"
    run.remove("figures/a.svg")
    run.remove("figures/a.svg")
    assert not run.has("figures/a.svg")


def test_default_path_depends_on_all_that_matters(tmp_path, monkeypatch):
    path = default_path(tmp_path, "Basic CNN/Digits", "A()", "d")
    assert path.parent == tmp_path
    assert path.name.startswith("basic-cnn-digits-")
    assert path == default_path(tmp_path, "Basic CNN/Digits", "A()", "d")
    others = {path, default_path(tmp_path, "x", "B()", "d"), default_path(tmp_path, "Basic CNN/Digits", "A()", "e")}
    monkeypatch.setattr(runs.importlib.metadata, "version", lambda name: "99")
    others.add(default_path(tmp_path, "Basic CNN/Digits", "A()", "d"))
    assert len(others) == 4
