"""Training against plain torch loops, closed forms and laws that any training keeps."""

import dataclasses
import itertools
import math
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from steelman import fitting
from steelman import train as training_module
from steelman.attacks.fgsm import FGSM
from steelman.data import Data, Splits
from steelman.data.arrays import Arrays
from steelman.data.digits import Digits
from steelman.defences.adversarial import Adversarial
from steelman.defences.standard import Standard
from steelman.errors import Diverged, Interrupted, RunError, UsageError, WeightsError
from steelman.fitting import fit, predicted
from steelman.measurement import Measurement, prepare
from steelman.models.basic_cnn import BasicCNN
from steelman.models.linear import Linear1
from steelman.recipe import Recipe, default_recipe
from steelman.runs import Run
from steelman.schedules import learning_rate
from steelman.spec import parse
from steelman.stats import Share
from steelman.threats import Linf
from steelman.train import Training, load_run, train


def data(num, seed=0, shape=(1, 2, 3), classes=3):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num, *shape), generator=generator, dtype=torch.uint8)
    labels = images.flatten(1)[:, 0].long() * classes // 256
    return Data(images, labels, tuple("abcdefghij"[:classes]))


def splits(num=24):
    return Splits(data(num, 0), data(17, 1), data(13, 2))


def linear(seed=0, inputs=6, classes=3):
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, inputs, generator=torch.Generator().manual_seed(seed)))
        model[1].bias.zero_()
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights_by_epoch(model, parts, recipe, **arguments):
    """The first layer's weights after each epoch, epoch 0 first."""
    seen = []
    fit(
        model,
        parts,
        recipe,
        generator=seeded(),
        on_epoch=lambda e, m: seen.append(m[1].weight.clone()) or {},
        **arguments,
    )
    return seen


@pytest.fixture(scope="module")
def digits():
    return Digits().splits()


# schedules


@pytest.mark.parametrize("total", [4, 10, 137, 1000])
@pytest.mark.parametrize("name", ["constant", "step", "one-cycle", "cosine"])
def test_schedules_are_torch_s(name, total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    kinds = torch.optim.lr_scheduler
    reference = {
        "constant": lambda: kinds.ConstantLR(optimizer, factor=1.0),
        "step": lambda: kinds.MultiStepLR(optimizer, [round(total / 2), round(total * 3 / 4)]),
        "one-cycle": lambda: kinds.OneCycleLR(optimizer, 0.3, total_steps=total, cycle_momentum=False),
        "cosine": lambda: kinds.CosineAnnealingLR(optimizer, total),
    }[name]()
    for step in range(total):
        assert learning_rate(name, 0.3, step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        reference.step()


def test_short_schedules_stay_below_the_peak():
    for total in (1, 2, 3):
        for step in range(total):
            assert 0 < learning_rate("one-cycle", 1.0, step, total) <= 1


# recipe


@pytest.fixture
def unchecked():
    """As outside of tests, where nothing but the code itself looks at types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer", "lion", "Possible: adam, adamw, sgd, rmsprop"),
        ("schedule", "linear", "Possible: constant, step, one-cycle, cosine"),
        ("keep", "all", "Possible: best, last"),
        ("precision", "float16", "Possible: float32, bfloat16, auto"),
        ("lr", 0.0, "a positive number"),
        ("lr", math.nan, "a positive number"),
        ("lr", math.inf, "a positive number"),
        ("epochs", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
        ("weight_decay", -1e-4, "0 or more"),
        ("momentum", 1.0, "0 <= momentum < 1"),
        ("patience", 0, "None, or 1 epoch or more"),
        ("ema", 1.0, "None, or a decay with 0 <= ema < 1"),
        ("ema", math.nan, "None, or a decay"),
        ("clip_gradient", 0.0, "None, or a positive number"),
    ],
)
def test_recipes_refuse(field, value, words, unchecked):
    with pytest.raises(UsageError, match=rf"^{field} is .*{words}"):
        Recipe(**{field: value})


def test_momentum_is_of_sgd_only():
    with pytest.raises(UsageError, match=r"momentum=0\.5 was given for adam"):
        Recipe(momentum=0.5)
    assert Recipe(optimizer="sgd", momentum=0.5).momentum == 0.5


def test_recipes_have_names(unchecked):
    recipe = Recipe(Adversarial(FGSM(), Linf(8 / 255)), lr=3e-4, ema=0.99, clip_gradient=1, schedule="one-cycle")
    assert parse(repr(recipe), "recipe") == recipe
    assert parse("Recipe(clip_gradient=1)") == Recipe(clip_gradient=1.0)
    assert repr(Recipe()) == "Recipe()"
    training = Training(Linear1(width=16), Digits(), recipe, seed=3, start="runs/x")
    assert parse(repr(training), "training") == training


def test_the_architecture_s_own_recipe_with_changes(monkeypatch):
    monkeypatch.setattr(Linear1, "recipe", {"lr": 0.25, "epochs": 7})
    assert default_recipe(Linear1()) == Recipe(lr=0.25, epochs=7)
    assert default_recipe(Linear1(), epochs=2) == Recipe(lr=0.25, epochs=2)


# the loop against plain torch


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [
        (Recipe(), lambda p: torch.optim.Adam(p, 1e-3)),
        (Recipe(weight_decay=0.1, lr=0.02), lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.1)),
        (Recipe(optimizer="adamw", weight_decay=0.1), lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1)),
        (Recipe(optimizer="sgd", lr=0.5), lambda p: torch.optim.SGD(p, 0.5, momentum=0.9)),
        (
            Recipe(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.01, clip_gradient=0.05),
            lambda p: torch.optim.SGD(p, 0.5, weight_decay=0.01),
        ),
    ],
)
def test_same_weights_and_losses_as_a_plain_loop(recipe, optimizer):
    parts, model, reference = splits(), linear(), linear()
    recipe = type(recipe)(**{**vars(recipe), "epochs": 6, "batch_size": 24, "keep": "last"})
    history = fit(model, parts, recipe, generator=seeded())
    steps, losses = optimizer(reference.parameters()), []
    x, y = parts.train.images.double().div(255).float(), parts.train.labels
    for _ in range(6):
        loss = nn.functional.cross_entropy(reference(x), y)
        steps.zero_grad()
        loss.backward()
        if recipe.clip_gradient:
            nn.utils.clip_grad_norm_(reference.parameters(), recipe.clip_gradient)
        steps.step()
        losses.append(loss.item())
    torch.testing.assert_close(model[1].weight, reference[1].weight)
    torch.testing.assert_close(model[1].bias, reference[1].bias)
    assert history.column("train_loss")[1:] == pytest.approx(losses, rel=1e-5)
    assert history.column("epoch") == list(range(7))


def test_bfloat16_multiplies_coarsely_and_steps_and_measures_in_float32():
    parts, model, reference, exact = splits(), linear(), linear(), linear()
    recipe = Recipe(optimizer="sgd", lr=0.5, epochs=3, batch_size=24, keep="last", precision="bfloat16")
    history = fit(model, parts, recipe, generator=seeded())
    steps = torch.optim.SGD(reference.parameters(), 0.5, momentum=0.9)
    x, y = parts.train.images.double().div(255).float(), parts.train.labels
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(reference(x), y)
        steps.zero_grad()
        loss.backward()
        steps.step()
    torch.testing.assert_close(model[1].weight, reference[1].weight, rtol=1e-3, atol=1e-4)
    assert model[1].weight.dtype == torch.float32
    fit(exact, parts, dataclasses.replace(recipe, precision="float32"), generator=seeded())
    assert not torch.equal(model[1].weight, exact[1].weight)
    right = model(parts.val.pixels()).argmax(1) == parts.val.labels
    assert history.column("val_accuracy")[-1] == pytest.approx(float(right.float().mean()))


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(multiplies, monkeypatch):
    monkeypatch.setattr("steelman.recipe.multiplies_bfloat16", lambda: multiplies)
    recipe = Recipe(optimizer="sgd", lr=0.5, epochs=2, batch_size=24, keep="last", precision="auto")
    found, expected = linear(), linear()
    fit(found, splits(), recipe, generator=seeded())
    same = dataclasses.replace(recipe, precision="bfloat16" if multiplies else "float32")
    fit(expected, splits(), same, generator=seeded())
    assert torch.equal(found[1].weight, expected[1].weight)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_convolutions_train_as_in_a_plain_loop(optimizer):
    def network():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Conv2d(4, 3, (1, 2)), nn.Flatten())

    parts, model, reference = splits(), network(), network()
    fit(model, parts, Recipe(optimizer=optimizer, lr=0.01, epochs=5, batch_size=24, keep="last"), generator=seeded())
    kinds = {"adam": lambda p: torch.optim.Adam(p, 0.01), "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)}
    steps = kinds[optimizer](reference.parameters())
    for _ in range(5):
        steps.zero_grad()
        nn.functional.cross_entropy(reference(parts.train.pixels()), parts.train.labels).backward()
        steps.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_first_loss_of_zero_weights_is_log_of_the_number_of_classes():
    model = linear()
    nn.init.zeros_(model[1].weight)
    history = fit(model, splits(), Recipe(epochs=1, batch_size=24), generator=seeded())
    assert history.rows[1]["train_loss"] == pytest.approx(math.log(3), rel=1e-6)


def test_a_fresh_adam_moves_every_weight_by_lr_in_its_first_step():
    seen = weights_by_epoch(linear(), splits(), Recipe(epochs=4, batch_size=24, lr=0.01, fresh_optimizer=True))
    for before, after in itertools.pairwise(seen):
        torch.testing.assert_close((after - before).abs(), torch.full_like(after, 0.01), rtol=1e-3, atol=1e-6)
    kept = weights_by_epoch(linear(), splits(), Recipe(epochs=4, batch_size=24, lr=0.01))
    torch.testing.assert_close(kept[1], seen[1])
    assert not torch.allclose(kept[2], seen[2], rtol=1e-4)


def test_the_average_of_the_weights_in_closed_form():
    recipe = Recipe(epochs=5, batch_size=24, lr=0.05)
    raw = weights_by_epoch(linear(), splits(), recipe)
    model = linear()
    averaged = weights_by_epoch(model, splits(), Recipe(epochs=5, batch_size=24, lr=0.05, ema=0.7, keep="last"))
    for k in range(1, 6):  # the average starts at the weights after the first step
        expected = 0.7 ** (k - 1) * raw[1] + sum(0.3 * 0.7 ** (k - i) * raw[i] for i in range(2, k + 1))
        torch.testing.assert_close(averaged[k], expected)
    torch.testing.assert_close(model[1].weight.detach(), averaged[5])


def test_the_learning_rate_follows_the_schedule():
    parts = splits()
    history = fit(linear(), parts, Recipe(epochs=8, batch_size=8, schedule="step", lr=0.1), generator=seeded())
    assert history.column("lr") == pytest.approx([0.1] * 5 + [0.01] * 2 + [0.001] * 2)
    history = fit(linear(), parts, Recipe(epochs=2, batch_size=8, schedule="cosine", lr=0.1), generator=seeded())
    assert history.rows[2]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 5 / 6)))


@pytest.mark.parametrize(
    ("num", "size", "drop_last", "expected"),
    [
        (24, 8, False, [8, 8, 8]),
        (23, 8, False, [8, 8, 7]),
        (23, 8, True, [8, 8]),
        (17, 8, False, [8, 9]),
        (17, 8, True, [8, 8]),
        (3, 1, False, [1, 1, 1]),
        (5, 8, False, [5]),
        (1, 8, False, [1]),
    ],
)
def test_every_image_once_an_epoch_in_a_new_order(num, size, drop_last, expected):
    ids = torch.arange(num, dtype=torch.uint8).view(num, 1, 1, 1).expand(num, 1, 2, 3).contiguous()
    parts = Splits(Data(ids, torch.zeros(num).long(), ("a", "b", "c")), data(4), data(4))
    model, batches = linear(), []

    def note(module, inputs):
        if module.training:
            batches.append((inputs[0][:, 0, 0, 0] * 255).round().long().tolist())

    model.register_forward_pre_hook(note)
    fit(model, parts, Recipe(epochs=2, batch_size=size, drop_last=drop_last), generator=seeded())
    assert [len(batch) for batch in batches] == expected * 2
    half = len(expected)
    epochs = [list(itertools.chain(*part)) for part in (batches[:half], batches[half:])]
    for seen in epochs:
        assert len(set(seen)) == len(seen) == sum(expected)
    if num > 5:
        assert epochs[0] != epochs[1]


def test_with_val_all_images_are_trained_on():
    """The same as with the images of both as train: same weights, same accuracy on val."""
    whole = splits()
    joined = whole._replace(train=whole.train.followed_by(whole.val))
    recipe = Recipe(epochs=2, batch_size=8, keep="last")
    models, rows = [linear(), linear()], []
    for model, parts, one in zip(
        models, (whole, joined), (dataclasses.replace(recipe, with_val=True), recipe), strict=True
    ):
        history = fit(model, parts, one, generator=seeded())
        rows.append([row["val_accuracy"] for row in history.rows])
    assert rows[0] == rows[1]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("given", [{"keep": "best"}, {"keep": "last", "patience": 2}])
def test_with_val_nothing_is_left_to_choose_by(given):
    with pytest.raises(
        UsageError, match=r"with_val=True leaves no images to choose an epoch by\. Expected keep='last'"
    ):
        Recipe(with_val=True, **given)


def test_a_run_that_saw_val_says_so(tmp_path):
    run = train(Training(Linear1(width=4), Digits(), Recipe(epochs=1, keep="last", with_val=True)), tmp_path / "run")
    assert run.read_json("model")["notes"] == ["val was trained on as well"]
    asked = Measurement(FGSM(), Linf(0.1), runs=(str(run.path),), split="val", num=5)
    assert prepare(asked).notes == ("run was trained on val as well: it has seen these images",)
    begun = Training(Linear1(width=4), Digits(), Recipe(epochs=1), start=str(tmp_path / "run"))
    on = train(begun, tmp_path / "on")
    assert on.read_json("model")["notes"] == ["val was trained on as well"]
    assert load_run(on.path).notes("val") == ["was trained on val as well: it has seen these images"]
    about = run.read_json("model")
    run.write_json("model", {name: value for name, value in about.items() if name != "val_seen"})  # as runs once were
    assert load_run(run.path).notes("val") == ["was trained on val as well: it has seen these images"]
    few = Digits().splits().train.first(60)
    np.savez(tmp_path / "few.npz", images=few.images.numpy(), labels=few.labels.numpy())
    other = train(dataclasses.replace(begun, data=Arrays(str(tmp_path / "few.npz"))), tmp_path / "other")
    assert load_run(other.path).notes("val") == []  # other images
    assert prepare(dataclasses.replace(asked, split="test")).notes == ()


def test_what_a_stopped_training_left_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("steelman.fitting._TELL", 0.0)

    def stop(done, total, words):
        if "epoch 2" in words:
            raise KeyboardInterrupt

    training = Training(Linear1(width=4), Digits(), Recipe(epochs=3, keep="last"))
    with pytest.raises(Interrupted):
        train(training, tmp_path / "run", progress=stop)
    asked = Measurement(FGSM(), Linf(0.1), runs=(str(tmp_path / "run"),), num=5)
    assert prepare(asked).notes == ("run is of a training that was stopped: the weights of so far",)
    train(training, tmp_path / "run")
    assert prepare(asked).notes == ()


def test_one_image_has_no_variance():
    def model():
        return nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d(), nn.LazyLinear(3)).eval()

    parts, made = splits(), [model() for _ in range(2)]
    for one in made:
        one(parts.train.pixels(slice(0, 2)))
    with pytest.raises(UsageError, match="a batch of one image has no variance, which BatchNorm1d needs"):
        fit(made[0], parts, Recipe(epochs=1, batch_size=1), generator=seeded())
    fit(made[1], parts, Recipe(epochs=1, batch_size=1, eval_mode=True), generator=seeded())


def test_drop_last_needs_one_batch():
    with pytest.raises(UsageError, match=r"24 images fill no batch of 25\. Give a smaller batch_size"):
        fit(linear(), splits(), Recipe(batch_size=25, drop_last=True), generator=seeded())


# modes, freezing, measuring


def noisy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3))


def test_eval_mode_leaves_statistics_and_dropout_alone():
    model, plain = noisy(), noisy()
    plain[3] = nn.Identity()
    recipe = Recipe(epochs=2, batch_size=8, eval_mode=True, keep="last")
    fit(model, splits(), recipe, generator=seeded())
    fit(plain, splits(), recipe, generator=seeded())
    assert torch.equal(model[2].running_mean, torch.zeros(12))
    assert not torch.equal(model[2].weight, torch.ones(12))  # the affine part learns
    assert torch.equal(model[4].weight, plain[4].weight)


def test_training_mode_moves_statistics_and_drops():
    model, plain = noisy(), noisy()
    plain[3] = nn.Identity()
    recipe = Recipe(epochs=2, batch_size=8, keep="last")
    fit(model, splits(), recipe, generator=seeded())
    fit(plain, splits(), recipe, generator=seeded())
    assert int(model[2].num_batches_tracked) == 6
    assert not torch.equal(model[4].weight, plain[4].weight)


def test_the_network_is_measured_and_left_in_eval_mode():
    model, modes = noisy().train(), []
    fit(model, splits(), Recipe(epochs=2), generator=seeded(), on_epoch=lambda e, m: modes.append(m.training) or {})
    assert modes == [False, False, False]
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_keep_their_layout(layout):
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 3, (1, 2)), nn.Flatten(2), nn.Flatten(1))
    model.to(memory_format=layout)
    strides = [parameter.stride() for parameter in model.parameters()]
    inside = []
    fit(
        model,
        splits(),
        Recipe(epochs=1),
        generator=seeded(),
        on_epoch=lambda e, m: inside.append(m[1].weight.stride()) or {},
    )
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert set(inside) == {(8, 1, 8, 4)}  # channels are innermost


def test_frozen_parameters_stay():
    model = noisy()
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone()
    fit(model, splits(), Recipe(epochs=1, lr=0.1), generator=seeded())
    assert torch.equal(model[1].weight, before)
    assert not model[1].weight.requires_grad


def test_accuracy_is_the_share_of_right_answers():
    parts, model = splits(), linear()
    history = fit(model, parts, Recipe(epochs=1, keep="last"), generator=seeded())
    with torch.no_grad():
        right = [
            int(model(image[None] / 255.0).argmax()) == int(y)
            for image, y in zip(parts.val.images, parts.val.labels, strict=True)
        ]
    assert history.rows[1]["val_accuracy"] == sum(right) / 17


def test_predictions_of_many_slices(monkeypatch):
    model, part = linear(), data(23)
    whole = predicted(model.eval(), part)
    monkeypatch.setattr(fitting, "_SLICE", 5)
    assert torch.equal(predicted(model, part), whole)
    assert whole.shape == (23,)


def test_a_small_network_learns_digits(digits):
    model = Linear1(width=32)((1, 28, 28), 10, seeded())
    history = fit(model, digits, Recipe(epochs=6, lr=5e-3), generator=seeded())
    assert history.rows[0]["val_accuracy"] < 0.3
    assert history.rows[history.best_epoch]["val_accuracy"] > 0.9
    assert float((predicted(model, digits.test) == digits.test.labels).float().mean()) > 0.88


def test_adversarial_training_helps_against_its_attack(digits):
    def under_attack(model):
        part = digits.test.first(200)
        x_adv = FGSM()(model, part.pixels(), part.labels, Linf(0.1))
        return float((model(x_adv).argmax(1) == part.labels).float().mean())

    results = []
    for objective in (Standard(), Adversarial(FGSM(), Linf(0.1), mix=0.5)):
        model = Linear1(width=32)((1, 28, 28), 10, seeded())
        fit(model, digits, Recipe(objective, epochs=5, lr=5e-3), generator=seeded())
        results.append(under_attack(model))
    assert results[1] > results[0] + 0.1


# randomness


def test_same_seed_same_bits_and_the_global_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = []
    for seed in (0, 0, 1):
        model = noisy()
        torch.set_rng_state(before)
        fit(model, splits(), Recipe(epochs=3, batch_size=8), generator=seeded(seed))
        assert torch.equal(torch.get_rng_state(), before)
        models.append(model.state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert not torch.equal(models[0]["4.weight"], models[2]["4.weight"])


def test_the_global_generator_comes_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fit(noisy(), splits(), Recipe(), generator=seeded(), on_epoch=lambda e, m: {"x": 1 / (1 - e)})
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_changes_nothing():
    def draws(epoch, model):
        torch.rand(10)
        return {}

    first, second = noisy(), noisy()
    fit(first, splits(), Recipe(epochs=2, batch_size=8), generator=seeded())
    fit(second, splits(), Recipe(epochs=2, batch_size=8), generator=seeded(), on_epoch=draws)
    assert torch.equal(first[4].weight, second[4].weight)


# what is kept


def scripted(scores):
    return lambda epoch, model: {"score": scores[epoch], "sum": model[1].weight.sum().item()}


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 4)])
def test_patience_best_and_last(tmp_path, keep, kept):
    model, recipe = linear(), Recipe(epochs=9, patience=2, keep=keep, lr=0.1)
    with Run.open(tmp_path, "x") as run:
        history = fit(
            model,
            splits(),
            recipe,
            generator=seeded(),
            run=run,
            on_epoch=scripted([9, 1, 3, 3, 2, 9, 9]),  # the one before training does not count, the first highest does
            choose_by="score",
        )
    assert history.stopped_early
    assert history.best_epoch == 2
    assert len(history.rows) == 5
    sums = history.column("sum")
    assert model[1].weight.sum().item() == sums[kept]
    other, other_epoch = ("last", 4) if keep == "best" else ("best", 2)
    assert float(run.read_tensors("weights.safetensors")["1.weight"].sum()) == sums[kept]
    assert float(run.read_tensors(f"{other}.safetensors")["1.weight"].sum()) == sums[other_epoch]
    assert run.read_metadata("weights.safetensors") == {"epoch": str(kept)}
    assert run.read_log() == list(history.rows)
    assert not run.has("checkpoint.safetensors")


def test_without_patience_all_epochs_are_trained():
    history = fit(
        linear(), splits(), Recipe(epochs=3), generator=seeded(), on_epoch=scripted([9, 3, 2, 1]), choose_by="score"
    )
    assert (len(history.rows), history.best_epoch, history.stopped_early) == (4, 1, False)


def test_measures_must_have_names_of_their_own():
    with pytest.raises(UsageError, match="on_epoch gave lr, which a row has already"):
        fit(linear(), splits(), Recipe(), generator=seeded(), on_epoch=lambda e, m: {"lr": 1})


@pytest.mark.parametrize("value", [None, math.nan, "high"])
def test_choosing_needs_a_number(value):
    with pytest.raises(UsageError, match=r"epoch 0 has no number 'robust' to choose by\. Possible: val_accuracy"):
        fit(
            linear(),
            splits(),
            Recipe(),
            generator=seeded(),
            on_epoch=lambda e, m: {"robust": value},
            choose_by="robust",
        )


def test_progress_counts_steps(monkeypatch):
    monkeypatch.setattr(fitting, "_TELL", 0.0)
    calls = []
    fit(
        linear(),
        splits(),
        Recipe(epochs=2, batch_size=8),
        generator=seeded(),
        progress=lambda *call: calls.append(call),
    )
    assert [call[:2] for call in calls] == [(done, 6) for done in range(1, 7)]
    assert calls[3][2] == "training, epoch 2 of 2"


# what goes wrong


class Breaks(nn.Module):
    """A linear classifier whose logits are no numbers from some training pass on."""

    def __init__(self, good):
        super().__init__()
        self.inner, self.left = linear(), good

    def forward(self, x):
        self.left -= self.training
        return self.inner(x) * (1.0 if self.left >= 0 else math.nan)


def test_a_loss_that_is_no_number(tmp_path):
    model = Breaks(good=7)
    with (
        Run.open(tmp_path, "x") as run,
        pytest.raises(Diverged, match="the loss is no number in epoch 3, step 2 of 3") as info,
    ):
        fit(model, splits(), Recipe(epochs=5, batch_size=8, keep="last"), generator=seeded(), run=run)
    kept = run.read_tensors("weights.safetensors")
    assert f"The weights of epoch 2 are in {tmp_path / 'weights.safetensors'}." in str(info.value)
    assert "Try a lower lr" in str(info.value)
    twin = Breaks(good=99)
    fit(twin, splits(), Recipe(epochs=2, batch_size=8, keep="last"), generator=seeded())
    for key, value in twin.state_dict().items():
        assert torch.equal(kept[key], value)
        assert torch.equal(model.state_dict()[key], value)


def test_a_loss_that_is_no_number_at_once():
    model = Breaks(good=0)
    with pytest.raises(Diverged, match=r"epoch 1, step 1 of 1.*No epoch was finished"):
        fit(model, splits(), Recipe(), generator=seeded())
    assert torch.equal(model.inner[1].weight, linear()[1].weight)
    assert not model.training


def test_a_weight_that_is_no_number():
    with pytest.raises(Diverged, match="a weight is no number in epoch 1"):
        fit(linear(), splits(), Recipe(epochs=1, batch_size=24, optimizer="sgd", lr=1e300), generator=seeded())


def test_interrupted_without_a_run(monkeypatch):
    monkeypatch.setattr(fitting, "_TELL", 0.0)

    def stop(done, total, words):
        if done == 4:
            raise KeyboardInterrupt

    model = linear()
    with pytest.raises(
        Interrupted, match=r"stopped in epoch 2 of 10\. The network holds the weights of epoch 1\. Give a run"
    ):
        fit(model, splits(), Recipe(batch_size=8), generator=seeded(), progress=stop)
    twin = linear()
    fit(twin, splits(), Recipe(batch_size=8, epochs=1), generator=seeded())
    assert torch.equal(model[1].weight, twin[1].weight)


# whole trainings


def test_train_leaves_a_run_that_can_be_used_without_its_data(tmp_path, digits, monkeypatch):
    training = Training(Linear1(width=16), Digits(), Recipe(epochs=3, lr=5e-3), seed=1)
    run = train(training, tmp_path / "run", command="steelman train Linear1")
    assert run.finished
    assert run.spec_text == repr(training)
    assert len(run.read_log()) == 4
    assert run.read_json("history")["rows"] == run.read_log()
    trained = load_run(run.path)
    assert trained.training == training
    assert trained.shape == (1, 28, 28)
    assert trained.classes == tuple("0123456789")
    assert not trained.model.training
    with torch.no_grad():
        hits = trained.model(digits.test.pixels()).argmax(1) == digits.test.labels
    assert run.read_json("natural") == Share.of(hits).to_json()
    stored = run.read_tensors("examples/natural.safetensors")
    assert torch.equal(stored["predicted"] == stored["label"], hits)

    monkeypatch.setattr(training_module, "fit", None)  # whoever computes again, fails
    log = (run.path / "log.jsonl").read_bytes()
    assert train(training, tmp_path / "run").read_json("natural") == run.read_json("natural")
    assert (run.path / "log.jsonl").read_bytes() == log


def test_train_from_the_weights_of_a_run(tmp_path):
    first = train(Training(Linear1(width=16), Digits(), Recipe(epochs=2, keep="last")), tmp_path / "a")
    further = Training(Linear1(width=16), Digits(), Recipe(epochs=1), seed=5, start=str(first.path))
    second = train(further, tmp_path / "b")
    assert second.read_log()[0]["val_accuracy"] == first.read_log()[-1]["val_accuracy"]
    assert second.read_log()[1]["train_loss"] < first.read_log()[1]["train_loss"]
    with pytest.raises(WeightsError):
        train(Training(Linear1(width=8), Digits(), start=str(first.path)), tmp_path / "c")
    with pytest.raises(RunError, match="is no directory"):
        train(Training(Linear1(width=8), Digits(), start=str(tmp_path / "d")), tmp_path / "c")
    train(Training(Linear1(width=16), Digits(), Recipe(epochs=1), seed=9), tmp_path / "e")
    (first.path / "weights.safetensors").write_bytes((tmp_path / "e" / "weights.safetensors").read_bytes())
    with pytest.raises(RunError, match="was made with other data or weights"):  # the start is part of what a run is
        train(further, tmp_path / "b")


def test_a_start_beside_the_run_and_a_few_images(tmp_path):
    first = train(Training(Linear1(width=8), Digits(), Recipe(epochs=1, keep="last"), num=64), tmp_path / "a")
    calls = []
    beside = Training(Linear1(width=8), Digits(), Recipe(epochs=1, batch_size=50), start="../a", num=100)
    second = train(
        beside, tmp_path / "b", progress=lambda done, total, words: calls.append(total), on_epoch=lambda e, m: {"k": e}
    )
    assert second.read_log()[0]["val_accuracy"] == first.read_log()[1]["val_accuracy"]
    assert [row["k"] for row in second.read_log()] == [0, 1]
    assert calls[-1] == 2  # 100 images are two batches of 50
    with pytest.raises(UsageError, match=r"start is '\.\./a', which is found from the run's own directory"):
        train(beside)


def test_train_takes_the_architecture_s_recipe_and_a_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Linear1, "recipe", {"epochs": 1, "lr": 5e-3})
    run = train(Training(Linear1(width=8), Digits()))
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("linear1-digits-")
    assert len(run.read_log()) == 2
    assert run.read_log()[1]["lr"] == 5e-3


def test_train_says_before_computing_that_the_disk_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "DISK_SPACE", 10**18)
    monkeypatch.setattr(training_module, "fit", None)
    with pytest.raises(RunError, match="MB are needed"):
        train(Training(Linear1(), Digits()), tmp_path / "run")


def test_load_run_refuses_what_is_no_training(tmp_path):
    Run.open(tmp_path / "a", "FGSM()").close()
    with pytest.raises(RunError, match=r"is the run of FGSM\(\)\. Expected the run of a Training"):
        load_run(tmp_path / "a")
    Run.open(tmp_path / "b", "Training(Linear1(), Digits())").close()
    with pytest.raises(RunError, match=r"has no results/model\.json"):
        load_run(tmp_path / "b")
    for number, about in enumerate(({}, [], {"shape": [1, 2], "classes": ["a"]})):
        with Run.open(tmp_path / f"c{number}", "Training(Linear1(), Digits())") as run:
            run.write_json("model", about)
        with pytest.raises(RunError, match=r"model\.json is damaged\. Train again"):
            load_run(run.path)


def test_seeds_are_not_negative():
    with pytest.raises(UsageError, match=r"seed is -1\. Expected 0 or more"):
        Training(BasicCNN(), Digits(), seed=-1)


def test_no_image_is_no_training():
    with pytest.raises(UsageError, match=r"num is 0\. Expected at least one image"):
        Training(BasicCNN(), Digits(), num=0)
