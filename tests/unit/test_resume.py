"""Interrupted at any moment and run again: the same bits as never interrupted."""

import dataclasses
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from steelman import checkpoint, fitting
from steelman.attacks.pgd import PGD
from steelman.data import Data, Splits
from steelman.defences.adversarial import Adversarial
from steelman.errors import Interrupted, RunError
from steelman.fitting import fit
from steelman.recipe import Recipe
from steelman.runs import Run
from steelman.threats import Linf

RECIPE = Recipe(
    Adversarial(PGD(steps=1, random_start=True), Linf(0.1), mix=0.5),
    epochs=3,
    batch_size=8,
    schedule="one-cycle",
    lr=0.02,
    ema=0.8,
    clip_gradient=1.0,
)

# a training with everything in it that has a state, as a program of its own
JOB = """
import pathlib, sys, time
import torch
from torch import nn
from steelman import fitting
from steelman.attacks.pgd import PGD
from steelman.data.digits import Digits
from steelman.defences.adversarial import Adversarial
from steelman.fitting import fit
from steelman.recipe import Recipe
from steelman.runs import Run
from steelman.threats import Linf

def job(path, nap):
    fitting.WITHIN_EPOCH = nap or 60.0  # when slow, checkpoints in the middle of epochs
    whole = Digits().splits()
    splits = whole._replace(train=whole.train.first(300), val=whole.val.first(50))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)
        model = nn.Sequential(*features, nn.Flatten(), nn.Linear(256, 10))
    objective = Adversarial(PGD(steps=1, random_start=True), Linf(0.1), mix=0.5)
    recipe = Recipe(objective, epochs=6, batch_size=32, schedule="one-cycle", lr=0.02, ema=0.9)
    wait = lambda done, total, words: time.sleep(nap)
    with Run.open(pathlib.Path(path), "job") as run:
        fit(model, splits, recipe, generator=generator, run=run, progress=wait, on_epoch=lambda e, m: {"twice": 2 * e})

if __name__ == "__main__":
    fitting._TELL = 0.0
    job(sys.argv[1], float(sys.argv[2]))
"""


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2)
        return nn.Sequential(*convolutions, nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(24, 3))


def splits():
    images = torch.randint(256, (30, 1, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Data(images, images[:, 0, 0, 0].long() % 3, ("a", "b", "c"))
    return Splits(part, part, part)


def work(path, recipe=RECIPE, model=None, stop_at=None, on_epoch=None, seed=0):
    """Train in a run directory; Ctrl-C comes at a step, where one is given."""

    def progress(done, total, words):
        if done == stop_at:
            raise KeyboardInterrupt

    model = model or network()
    with Run.open(path, "test") as run:
        generator = torch.Generator().manual_seed(seed)
        history = fit(model, splits(), recipe, generator=generator, run=run, progress=progress, on_epoch=on_epoch)
    return model, history


def same_runs(first, second):
    for name in ("weights.safetensors", "last.safetensors"):
        ours, theirs = (Run.existing(path).read_tensors(name) for path in (first, second))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    logs = [[{**row, "seconds": 0} for row in Run.existing(path).read_log()] for path in (first, second)]
    assert logs[0] == logs[1]
    histories = [Run.existing(path).read_json("history") for path in (first, second)]
    assert histories[0]["best_epoch"] == histories[1]["best_epoch"]


@pytest.fixture
def every_step(monkeypatch):
    """Checkpoints after each step, words after each step."""
    monkeypatch.setattr(fitting, "WITHIN_EPOCH", 0.0)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(fitting, "_TELL", 0.0)


VARIANTS = {
    "all": RECIPE,
    "sgd": dataclasses.replace(RECIPE, optimizer="sgd", ema=None, schedule="step", precision="bfloat16"),
    "fresh": dataclasses.replace(RECIPE, fresh_optimizer=True, keep="last", drop_last=True),
    "eval": dataclasses.replace(RECIPE, eval_mode=True, optimizer="adamw", weight_decay=0.1, patience=2, shift=1),
}


@pytest.mark.parametrize("variant", ["all", "sgd", "eval"])
def test_stopped_again_and_again(tmp_path, every_step, variant):
    recipe = VARIANTS[variant]
    work(tmp_path / "whole", recipe)
    for stop_at in (1, 2, 6, 7, 11, 12):
        with pytest.raises(Interrupted):
            work(tmp_path / "parts", recipe, stop_at=stop_at)
    work(tmp_path / "parts", recipe)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_only_checkpoints_between_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_TELL", 0.0)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", float("inf"))
    recipe = dataclasses.replace(VARIANTS["fresh"], keep="best")
    work(tmp_path / "whole", recipe)
    with pytest.raises(
        Interrupted, match=r"stopped in epoch 2 of 3\. Run the same command again to go on from epoch 2\."
    ) as info:
        work(tmp_path / "parts", recipe, stop_at=5)
    assert f"The weights of epoch 1 are in {tmp_path / 'parts' / 'weights.safetensors'}." in str(info.value)
    assert Run.existing(tmp_path / "parts").read_tensors("weights.safetensors")
    work(tmp_path / "parts", recipe)
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_stopped_before_the_next_checkpoint_it_names_the_epoch_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_TELL", 0.0)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", float("inf"))
    with pytest.raises(Interrupted, match="to go on from epoch 2"):
        work(tmp_path / "parts", stop_at=6)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", 1e-9)
    with pytest.raises(Interrupted, match="to go on from epoch 2"):
        work(tmp_path / "parts", stop_at=6)


def test_rows_after_the_last_checkpoint_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_TELL", 0.0)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", 1e-9)  # too dear: one checkpoint only, at the start
    work(tmp_path / "whole")
    with pytest.raises(Interrupted, match="to go on from epoch 1"):
        work(tmp_path / "parts", stop_at=11)
    assert len(Run.existing(tmp_path / "parts").read_log()) == 3
    work(tmp_path / "parts")
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_measures_are_not_made_twice(tmp_path, every_step):
    calls = []

    def measure(epoch, model):
        calls.append(epoch)
        return {"twice": 2 * epoch, "nothing": float("nan")}

    with pytest.raises(Interrupted):
        work(tmp_path / "run", stop_at=6, on_epoch=measure)
    _, history = work(tmp_path / "run", on_epoch=measure)
    assert calls == [0, 1, 2, 3]
    assert history.column("twice") == [0, 2, 4, 6]
    assert history.column("nothing") == [None] * 4


def test_what_is_done_is_not_done_again(tmp_path):
    model, history = work(tmp_path / "run")
    other = network()
    with torch.no_grad():
        other[7].weight.zero_()

    def never(epoch, model):
        raise AssertionError

    again, same = work(tmp_path / "run", model=other.train(), on_epoch=never, seed=7)
    assert same == history
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_kill_between_the_last_two_writes(tmp_path, every_step):
    with pytest.raises(Interrupted):
        work(tmp_path / "run", stop_at=5)
    left = (tmp_path / "run" / checkpoint.FILE).read_bytes()
    _, history = work(tmp_path / "run")
    (tmp_path / "run" / checkpoint.FILE).write_bytes(left)
    assert work(tmp_path / "run")[1] == history
    assert not (tmp_path / "run" / checkpoint.FILE).exists()


def test_another_training_is_refused(tmp_path, every_step):
    other = dataclasses.replace(RECIPE, lr=0.5)
    with pytest.raises(Interrupted):
        work(tmp_path / "run", stop_at=5)
    with pytest.raises(RunError, match=r"is the training of Recipe.*lr=0\.02.*This one is of Recipe.*lr=0\.5"):
        work(tmp_path / "run", other)
    work(tmp_path / "run")
    with pytest.raises(RunError, match=r"is the training of Recipe.*lr=0\.02.*This one is of Recipe.*lr=0\.5"):
        work(tmp_path / "run", other)


def test_a_damaged_checkpoint_is_named(tmp_path, every_step):
    with pytest.raises(Interrupted):
        work(tmp_path / "run", stop_at=5)
    path = tmp_path / "run" / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors is damaged"):
        work(tmp_path / "run")


def test_channels_last_weights_go_on_to_the_same_bits(tmp_path, every_step):
    def model():
        return network().to(memory_format=torch.channels_last)

    work(tmp_path / "whole", model=model())
    with pytest.raises(Interrupted):
        work(tmp_path / "parts", model=model(), stop_at=6)
    work(tmp_path / "parts", model=model())
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_killed_in_mid_training(tmp_path):
    program = tmp_path / "job.py"
    program.write_text(JOB)
    job = runpy.run_path(str(program))["job"]
    job(tmp_path / "whole", 0.0)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, program, tmp_path / "parts", "0.01"], env=environment)
    log, deadline = tmp_path / "parts" / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 4 <= len(Run.existing(tmp_path / "parts").read_log()) < 7
    job(tmp_path / "parts", 0.0)
    same_runs(tmp_path / "whole", tmp_path / "parts")
