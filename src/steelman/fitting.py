"""The training loop: plain torch, data as uint8 tensors in memory, an epoch is a permutation of indices.

Whatever is random comes from the caller's generator; dropout, which can only draw from torch's global generator, draws
from it after it was seeded from the caller's, and it is given back as it was. Measuring draws nothing from the stream
of training: a run with more measurements trains the same weights.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable
from collections.abc import Generator as Yields
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from steelman import frozen
from steelman.augment import shifted
from steelman.chance import cuda_alone, own_randomness, put_back
from steelman.checkpoint import FILE, State, snapshot
from steelman.data import Data, Splits
from steelman.defences.guarded import Guarded
from steelman.engine import generator_on, micro_batch, predict, steady_allocator
from steelman.errors import Diverged, Interrupted, RunError, UsageError
from steelman.progress import Progress, silent
from steelman.recipe import Recipe
from steelman.runs import Run
from steelman.schedules import learning_rate
from steelman.strict_json import json_text
from steelman.types import Labels

OnEpoch: TypeAlias = Callable[[int, nn.Module], dict[str, Any]]

WITHIN_EPOCH = 30.0  # seconds after which a checkpoint is written in the middle of an epoch
LARGEST_SHARE = 0.05  # of the time may go into writing checkpoints
_TELL = 0.1  # seconds between two words of progress
_SLICE = 512  # images turned into floats at a time when measuring


@dataclass(frozen=True)
class History:
    """What training did, a row an epoch; row 0 is the network before it.

    A row holds epoch, train_loss (None in row 0), val_accuracy, val_n, lr (of the epoch's last step), seconds, what a
    guard saw (one_step, robust, watched, rollbacks) and what `on_epoch` gave. `best_epoch` is the first one from 1 on
    that is highest in what was chosen by.
    """

    rows: tuple[dict[str, Any], ...]
    best_epoch: int
    stopped_early: bool

    def column(self, name: str) -> list[Any]:
        """One value an epoch, epoch 0 first."""
        return [row[name] for row in self.rows]


def fit(
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    *,
    generator: Generator,
    run: Run | None = None,
    progress: Progress = silent,
    on_epoch: OnEpoch | None = None,
    choose_by: str = "val_accuracy",
) -> History:
    """Train a network from the weights it has; afterwards it holds the weights to keep, in eval mode.

    With a run, which is then this training's own, a row an epoch is logged, checkpoints are written, and an interrupted
    training goes on where the last checkpoint was, to the same bits as one that was never interrupted. At the end the
    run holds `weights.safetensors` and whichever of `best.safetensors`, `last.safetensors` it is not. What is done is
    not done again. A last batch of a single image, which BatchNorm cannot take, joins the batch before it.

    Args:
        model: from pixels in [0, 1] to logits.
        splits: trained on train (and on val, where the recipe says so), chosen on val; test is not looked at.
        recipe: how.
        generator: the source of the order of the images and of all else that is random.
        run: where it is kept.
        progress: told in steps.
        on_epoch: called with the epoch (0 before training) and the network as it is then, in eval mode; what it
            returns joins the epoch's row.
        choose_by: the name in a row, the higher the better, by which the best epoch is chosen and patience is lost.

    Raises:
        UsageError: fewer images than one batch and `drop_last`; batches of one image for BatchNorm1d; `on_epoch` gives
            a name that a row has already; a row has no number to choose by.
        RunError: the run is that of another training, or cannot be written.
        Diverged: the loss or a weight is no number; the network is left with the last good weights.
        Interrupted: by Ctrl-C; the network is left with the weights to keep so far.
    """
    if recipe.with_val:
        splits = splits._replace(train=splits.train.followed_by(splits.val))
    if recipe.drop_last and len(splits.train) < recipe.batch_size:
        raise UsageError(
            f"{len(splits.train)} images fill no batch of {recipe.batch_size}. "
            "Give a smaller batch_size, or drop_last=False."
        )
    size = sum(parameter.numel() for parameter in model.parameters())
    identity = f"{recipe!r}, {len(splits.train)} images, {size} parameters, chosen by {choose_by}"
    try:
        if run is not None and run.has("results/history.json"):
            return _finished(model, run, identity)
        held = frozen.held(model, recipe)
        with own_randomness(generator, _device(model)), _fast_layout(model), steady_allocator(), held:
            loop = _Loop(model, splits, recipe, identity, generator, run, progress, on_epoch, choose_by)
            return loop.run_all()
    finally:
        model.eval()


def predicted(model: nn.Module, data: Data) -> Labels:
    """The class with the largest logit for every image; the network must be in eval mode."""
    device = _device(model)
    batch = micro_batch(model, data.pixels(slice(0, 1)).to(device))
    parts = (slice(start, start + _SLICE) for start in range(0, len(data), _SLICE))
    return torch.cat([predict(model, data.pixels(part).to(device), batch).argmax(1).cpu() for part in parts])


class _Loop:
    """One call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        recipe: Recipe,
        identity: str,
        generator: Generator,
        run: Run | None,
        progress: Progress,
        on_epoch: OnEpoch | None,
        choose_by: str,
    ) -> None:
        self.train, self.val = splits.train.to(_device(model)), splits.val
        if frozen.caches(model, recipe):
            self.train, self.val = (frozen.features(model, recipe.frozen, part) for part in (self.train, self.val))
        self.recipe, self.run, self.progress, self.on_epoch, self.choose_by = recipe, run, progress, on_epoch, choose_by
        ema = recipe.ema
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema is not None else None
        objective = recipe.objective
        self.guard = objective if isinstance(objective, Guarded) else None
        start = snapshot(model)
        self.state = State(identity, model, _optimizer(model, recipe), averaged, generator, start, start)
        batches = self._batches(torch.arange(len(self.train)))
        normalises = any(isinstance(one, nn.BatchNorm1d) for one in model.modules()) and not recipe.eval_mode
        if normalises and any(len(batch) == 1 for batch in batches):
            raise UsageError(
                "a batch of one image has no variance, which BatchNorm1d needs. Expected two or more in each."
            )
        self.num_batches = len(batches)
        self.total = recipe.epochs * self.num_batches
        self.lr = learning_rate(recipe.schedule, recipe.lr, 0, self.total)
        self.learning = frozen.learning(model, recipe)
        self.next_epoch = 0  # where the last checkpoint goes on
        self.saved, self.cost, self.told = time.perf_counter(), 0.0, -math.inf

    def run_all(self) -> History:
        """From the last checkpoint, or the beginning, to the end."""
        state, run = self.state, self.run
        if run is not None:
            if run.has(FILE):
                state.restore(run)
                self.next_epoch = len(state.rows)
            run.truncate_log(len(state.rows))
        try:
            if not state.rows:
                self._begin()
            while not self._over():
                self._epoch(len(state.rows))
            self._keep()
        except KeyboardInterrupt:
            raise Interrupted(self._interrupted_words()) from None
        except Diverged as error:
            raise Diverged(f"{error} {self._keep()} Try a lower lr, or clip_gradient=1.") from None
        history = History(tuple(state.rows), state.best_epoch, len(state.rows) <= self.recipe.epochs)
        if run is not None:
            run.write_json("history", {"identity": state.identity, **dataclasses.asdict(history)})
            run.remove(FILE)
        return history

    def _begin(self) -> None:
        """Measure the network as it came."""
        if self.guard:
            self.state.reach_haven()
            self._look(self.guard, 0)
        self._end_epoch(0, None, 0.0)

    def _look(self, guard: Guarded, done: int) -> None:
        """Let the guard see the network after so many steps; where training has collapsed, go back."""
        state, part, device = self.state, self.val.first(guard.num), _device(self.state.model)
        x, y, progress = part.pixels(slice(None)).to(device), part.labels.to(device), done / self.total
        with torch.random.fork_rng(devices=cuda_alone(device)):
            look = guard.after(state.rollbacks).look(self.learning, x, y, progress=progress)
        state.heed(guard, look, done)

    def _over(self) -> bool:
        done, patience = len(self.state.rows) - 1, self.recipe.patience
        return done >= self.recipe.epochs or (patience is not None and done - self.state.best_epoch >= patience)

    def _epoch(self, epoch: int) -> None:
        state, recipe, began = self.state, self.recipe, time.perf_counter()
        if not len(state.order):
            device = state.generator.device
            state.order = torch.randperm(len(self.train), generator=state.generator, device=device)
            state.step, state.losses, state.seconds = 0, 0.0, 0.0
            if recipe.fresh_optimizer:
                state.optimizer = _optimizer(state.model, recipe)
        batches = self._batches(state.order.to(self.train.images.device))
        frozen.set_mode(state.model, recipe)
        for step in range(state.step, self.num_batches):
            state.losses += self._step(batches[step], (epoch - 1) * self.num_batches + step) * len(batches[step])
            state.step = step + 1
            if self.guard and self.guard.due(state.step, self.num_batches):
                self._look(self.guard, (epoch - 1) * self.num_batches + state.step)
            self._tell(epoch)
            if self.run is not None and state.step < self.num_batches and self._due(WITHIN_EPOCH):
                now = time.perf_counter()
                state.seconds, began = state.seconds + now - began, now
                self._save(self.run)
        if not all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
            raise self._diverged("a weight")
        loss = state.losses / sum(len(batch) for batch in batches)
        self._end_epoch(epoch, loss, state.seconds + time.perf_counter() - began)

    def _step(self, index: Tensor, done: int) -> float:
        """One step on these images; its loss."""
        state, recipe = self.state, self.recipe
        self.lr = learning_rate(recipe.schedule, recipe.lr, done, self.total)
        for group in state.optimizer.param_groups:
            group["lr"] = self.lr
        x, y = shifted(self.train.pixels(index), recipe.shift, state.generator), self.train.targets(index)
        objective = self.guard.after(state.rollbacks) if self.guard else recipe.objective
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.in_bfloat16(x.device)):
            drawing = generator_on(x.device, state.generator)
            loss = objective(self.learning, x, y, progress=done / self.total, generator=drawing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged("the loss")
        state.optimizer.zero_grad()
        loss.backward()
        if recipe.clip_gradient is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_gradient)
        state.optimizer.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        return value

    def _end_epoch(self, epoch: int, loss: float | None, seconds: float) -> None:
        """Measure, remember, log and keep."""
        state, run = self.state, self.run
        row = self._row(epoch, loss, seconds)
        state.good = snapshot(state.measured)
        if epoch and (not state.best_epoch or row[self.choose_by] > state.rows[state.best_epoch][self.choose_by]):
            state.best, state.best_epoch = state.good, epoch
        state.rows.append(row)
        state.order, state.looks = state.order[:0], []
        if run is not None:
            run.append_log(row)
            if self._due(0.0):
                self._save(run)

    def _row(self, epoch: int, loss: float | None, seconds: float) -> dict[str, Any]:
        model = self.state.measured.eval()
        with torch.random.fork_rng(devices=cuda_alone(_device(model))), put_back(model):
            right = predicted(frozen.learning(model, self.recipe), self.val) == self.val.labels.cpu()
            extras = self.on_epoch(epoch, model) if self.on_epoch else {}
        own = {
            "epoch": epoch,
            "train_loss": loss,
            "val_accuracy": int(right.sum()) / len(right),
            "val_n": len(right),
            "lr": self.lr,
            "seconds": seconds,
            **self.state.seen(),
        }
        if twice := own.keys() & extras.keys():
            raise UsageError(f"on_epoch gave {', '.join(sorted(twice))}, which a row has already. Give another name.")
        row = json.loads(json_text({**own, **extras}))  # as it will be read again
        if not isinstance(row.get(self.choose_by), int | float):
            raise UsageError(
                f"epoch {epoch} has no number {self.choose_by!r} to choose by. Possible: val_accuracy, or a name that "
                "on_epoch gives."
            )
        return row

    def _batches(self, order: Tensor) -> list[Tensor]:
        size = self.recipe.batch_size
        batches = list(order.split(size))
        if self.recipe.drop_last and len(batches[-1]) < size:
            return batches[:-1]
        if len(batches) > 1 and len(batches[-1]) == 1 < size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _tell(self, epoch: int) -> None:
        state = self.state
        done, now = (epoch - 1) * self.num_batches + state.step, time.perf_counter()
        if now - self.told >= _TELL or done == self.total:
            self.told = now
            back = f", rollbacks so far: {state.rollbacks}" if state.rollbacks else ""
            self.progress(done, self.total, f"training, epoch {epoch} of {self.recipe.epochs}{back}")

    def _due(self, at_least: float) -> bool:
        """Whether to write a checkpoint now: never more than a small share of the time goes into it."""
        return time.perf_counter() - self.saved >= max(at_least, self.cost / LARGEST_SHARE)

    def _save(self, run: Run) -> None:
        began = time.perf_counter()
        self.state.save(run)
        self.saved, self.next_epoch = time.perf_counter(), len(self.state.rows)
        self.cost = self.saved - began

    def _keep(self) -> str:
        """Give the network the weights to keep and write them; returns what is kept and where, in words."""
        state, run = self.state, self.run
        best, last = (state.best, state.best_epoch), (state.good, len(state.rows) - 1)
        (weights, epoch), (others, other_epoch) = (best, last) if self.recipe.keep == "best" else (last, best)
        state.model.load_state_dict(weights)
        if epoch < 1:
            return "No epoch was finished."
        if run is None:
            return f"The network holds the weights of epoch {epoch}."
        other = "last" if self.recipe.keep == "best" else "best"
        run.write_tensors(f"{other}.safetensors", others, metadata={"epoch": str(other_epoch)})
        path = run.write_tensors("weights.safetensors", weights, metadata={"epoch": str(epoch)})
        return f"The weights of epoch {epoch} are in {path}."

    def _interrupted_words(self) -> str:
        stopped = f"stopped in epoch {len(self.state.rows)} of {self.recipe.epochs}."
        if self.run is None:
            return f"{stopped} {self._keep()} Give a run directory to be able to go on."
        return f"{stopped} Run the same command again to go on from epoch {self.next_epoch}. {self._keep()}"

    def _diverged(self, what: str) -> Diverged:
        state = self.state
        return Diverged(
            f"{what} is no number in epoch {len(state.rows)}, step {state.step + 1} of {self.num_batches}, "
            f"lr {self.lr:.3g}."
        )


def _optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    match recipe.optimizer:
        case "adam":
            return Adam(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        case "adamw":
            return AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        case "sgd":
            return SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
        case "rmsprop":  # the constants of Keras
            return RMSprop(parameters, recipe.lr, alpha=0.9, eps=1e-7, weight_decay=recipe.weight_decay)


def _finished(model: nn.Module, run: Run, identity: str) -> History:
    before = run.read_json("history")
    if before["identity"] != identity:
        raise RunError(
            f"{run.path} is the training of {before['identity']}. This one is of {identity}. "
            "Give another directory, or delete that one."
        )
    model.load_state_dict(run.read_tensors("weights.safetensors"))
    run.remove(FILE)  # there only when a kill came between the two
    return History(tuple(before["rows"]), before["best_epoch"], before["stopped_early"])


@contextlib.contextmanager
def _fast_layout(model: nn.Module) -> Yields[None]:
    """Inside, convolutions on a processor are channels-last, which is faster; afterwards they are as before."""
    kernels = [kernel for kernel in model.parameters() if kernel.ndim == 4 and not kernel.is_cuda]
    strides = [kernel.stride() for kernel in kernels]
    for kernel in kernels:
        kernel.data = torch.empty_like(kernel.data, memory_format=torch.channels_last).copy_(kernel.data)
    try:
        yield
    finally:
        for kernel, stride in zip(kernels, strides, strict=True):
            kernel.data = kernel.data.new_empty_strided(kernel.shape, stride).copy_(kernel.data)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
