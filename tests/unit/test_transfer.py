"""The study `transfer`: what it plans, what it leaves on disk, and what it says."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from steelman import probes
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.data import Data
from steelman.data.digits import Digits
from steelman.defences.adversarial import Adversarial
from steelman.errors import ThreatViolation, UsageError
from steelman.evaluate import accuracy
from steelman.models.cuts import divided
from steelman.models.fast_cnn import FastCNN
from steelman.models.mobilenet import MobileNetV2
from steelman.page import Grid, Lines, Matrix, Page, Table, Trust
from steelman.runs import Run
from steelman.spec import parse
from steelman.studies.transfer import Transfer, _halves, words
from steelman.studies.transfer import plan as plans
from steelman.studies.transfer.matrix import AdversarialSet, craft, fits, held, judged
from steelman.studies.transfer.plan import PUBLISHED, Arm, Scale, arms_of, part_name, usual_cuts
from steelman.threats import Linf
from steelman.train import load_run

TEN = tuple("0123456789")
TINY = Transfer(cuts=(1, 3), treatments=("base", "AnB", "AnB+", "LP-FT"), epochs=2)
PHOTOS = Transfer(network=MobileNetV2(pretrained="weights.safetensors"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "transfer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plans.TWIN_SCALES, "smoke", Scale(2, 1, 120, 40, 20, 4, (FGSM(),), PGD(steps=2)))
        patch.setattr(probes, "SHORT", PGD(steps=2))
        patch.setattr(probes, "LONG", PGD(steps=3, loss="margin"))
        patch.setattr(probes, "SCORES", Square(queries=5))
        TINY.run(out)
    return out


@pytest.fixture(scope="module")
def few() -> Data:
    return Digits().splits().test.first(12)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return FastCNN()((1, 28, 28), 10, torch.Generator().manual_seed(0))


def _part(done: Path, name: str) -> torch.nn.Module:
    return load_run(done / "parts" / name).model


def _prefix(model: torch.nn.Module, blocks: int) -> list[torch.Tensor]:
    return list(divided(model, blocks)[0].state_dict().values())


def _equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


class TestPlan:
    def test_published_arms_all_start_from_the_same_weights(self) -> None:
        """The original's flaw: what should be drawn at random came from A as well, in base B, too."""
        plan = dataclasses.replace(PHOTOS, preset="published", scale="full").plan(TEN, (3, 64, 64))
        assert plan.cuts == (4, 8, 12, 16)
        starts = {(step.start, step.blocks) for arm in plan.arms for step in plan.trainings(arm, 0)[:1]}
        assert starts == {("../A", 16)}
        plus = [arm for arm in plan.arms if arm.treatment == "AnB+"]
        first, *others = [plan.trainings(arm, 0)[0] for arm in plus]
        assert len(plus) == 4
        assert all(other == first for other in others)
        meant = PHOTOS.plan(TEN, (3, 64, 64))
        assert {(meant.trainings(arm, 0)[0].start, meant.trainings(arm, 0)[0].blocks) for arm in meant.arms} == {
            (None, None),
            *(("../A", n) for n in (8, 16)),
            *(("../base-0", n) for n in (8, 16)),
        }

    def test_published_is_the_originals_protocol(self) -> None:
        plan = dataclasses.replace(PHOTOS, preset="published", scale="full").plan(TEN, (3, 64, 64))
        assert (plan.threat, plan.eps_from) == (Linf(0.005), "original")  # 0.01 of [-1, 1]
        assert Transfer(eps=0.1).plan(TEN, (1, 28, 28)).eps_from == "asked"
        assert {arm.name for arm in plan.arms} == set(PUBLISHED)
        adam, second = plan.trainings(Arm("A8B+", "AnB+", 8), 0)
        assert (adam.recipe.optimizer, adam.recipe.lr, adam.recipe.epochs) == ("adam", 1e-4, 2)
        assert (second.recipe.optimizer, second.recipe.lr, second.recipe.epochs) == ("rmsprop", 1e-5, 2)
        (frozen,) = plan.trainings(Arm("A8B", "AnB", 8, 8), 0)
        assert (frozen.recipe.frozen, frozen.recipe.lr, frozen.recipe.epochs) == (8, 1e-4, 4)

    def test_controls_and_remedies(self) -> None:
        plan = Transfer().plan(TEN, (1, 28, 28))
        by_name = {arm.name: plan.trainings(arm, 5) for arm in plan.arms}
        assert by_name["B3B"][0].start == "../base-5"
        assert (by_name["B3B"][0].blocks, by_name["B3B"][0].recipe.frozen) == (3, 3)
        assert by_name["B3B+"][0].recipe.frozen == 0
        probe, tuning = by_name["LP-FT"]
        assert (probe.recipe.frozen, tuning.recipe.frozen, tuning.start) == (3, 0, "../LP-FT-5-1")
        assert isinstance(by_name["AFT"][0].recipe.objective, Adversarial)
        assert set(plan.a.data.keep) | set(plan.b.keep) == set(TEN)
        assert not set(plan.a.data.keep) & set(plan.b.keep)

    def test_a_stands_by_even_when_its_arm_was_not_asked_for(self) -> None:
        plan = Transfer(treatments=("base",)).plan(TEN, (1, 28, 28))
        assert [arm.name for arm in plan.arms] == ["base"]
        assert [arm.name for arm in plan.every_arm] == ["base", "A3B"]

    def test_usual_cuts_end_with_the_deepest(self) -> None:
        assert usual_cuts(tuple(range(1, 17)), None) == (4, 8, 12, 16)
        assert usual_cuts(tuple(range(1, 17)), 2) == (8, 16)
        assert usual_cuts((1, 2, 3), 2)[-1] == 3

    def test_names(self) -> None:
        arms = arms_of(("base", "AnB", "BnB+"), (4,), 16)
        assert [(arm.name, arm.blocks, arm.frozen) for arm in arms] == [("base", 0, 0), ("A4B", 4, 4), ("B4B+", 4, 0)]
        assert part_name(arms[2], 1) == "B4Bplus-1"
        assert parse(repr(TINY), "study") == TINY

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"treatments": ("AnB", "base", "XnB")}, "unknown treatment 'XnB'"),
            ({"treatments": ("AnB",)}, "Expected 'base' among them"),
            ({"seeds": 0}, "seeds is 0"),
        ],
    )
    def test_a_study_that_cannot_be_done_is_refused(self, fields: dict, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            Transfer(**fields)

    def test_a_cut_that_does_not_exist_names_the_choices(self) -> None:
        with pytest.raises(UsageError, match=r"no cut behind 7 blocks\. Possible: 1, 2, 3\."):
            Transfer(cuts=(7,)).plan(TEN, (1, 28, 28))

    def test_too_few_classes_to_split(self) -> None:
        with pytest.raises(UsageError, match=r"has 3 classes\. Expected at least 4"):
            _halves(Digits(), ("a", "b", "c"), 0)


class TestOnDisk:
    def test_frozen_blocks_are_those_of_a_to_the_bit(self, done: Path) -> None:
        for blocks, name in ((1, "A1B-0"), (3, "A3B-0")):
            assert _equal(_prefix(_part(done, name), blocks), _prefix(_part(done, "A"), blocks))
        assert not _equal(_prefix(_part(done, "A1B-0"), 3), _prefix(_part(done, "A"), 3))
        assert not _equal(_prefix(_part(done, "A1Bplus-0"), 1), _prefix(_part(done, "A"), 1))

    def test_every_network_and_epoch_is_in_the_table(self, done: Path) -> None:
        with (done / "results" / "epochs.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        epochs = {(row["network"], row["epoch"]) for row in rows}
        names = ("base", "A1B", "A3B", "A1B+", "A3B+", "LP-FT")
        assert epochs == {(name, epoch) for name in names for epoch in "012"}
        assert all(float(row["val_low"]) <= float(row["val_accuracy"]) <= float(row["val_high"]) for row in rows)

    def test_the_natural_accuracy_is_that_of_the_kept_network(self, done: Path) -> None:
        run = Run.existing(done)
        trained = load_run(done / "parts" / "A3B-0")
        test = trained.training.data.splits().test.first(40)
        assert run.read_json("A3B-0")["natural"]["value"] == pytest.approx(
            accuracy(trained.model, test).float().mean().item()
        )

    def test_on_the_diagonal_the_images_of_a_are_its_own(self, done: Path) -> None:
        found = Run.existing(done).read_json("A3B-0")
        assert found["of_a"]["value"] == pytest.approx(found["fgsm"]["value"])  # A3B stands for A

    def test_the_page_has_all_it_promises(self, done: Path) -> None:
        page = Page.load(done / "results" / "page.json")
        items = [item for section in page.sections for item in section.items]
        kinds = [type(item) for item in items]
        assert kinds.count(Lines) == 3
        assert kinds.count(Trust) == 6
        matrix = next(item for item in items if isinstance(item, Matrix))
        assert matrix.rows == ("no attack", *matrix.columns)
        assert [cell["n"] for cell in matrix.cells[0]] == [20] * len(matrix.columns)
        strip = next(item for item in items if isinstance(item, Grid))
        shown = Run.existing(done).read_tensors(strip.file)["x"]
        assert len(shown) == len(strip.words)
        assert len(shown) % strip.columns == 0
        table = next(item for item in items if isinstance(item, Table))
        assert [row[0] for row in table.rows] == ["base", "A1B", "A3B", "A1B+", "A3B+", "LP-FT"]
        assert any("standard error" in words for words in page.findings)

    def test_a_network_that_only_guesses_is_said_to(self, done: Path) -> None:
        rows = {"base": (0.14, 0.10), "A1B": (0.60, 0.55), "A3B": (0.20, 0.143)}
        found = {
            name: [{"natural": {"value": value, "low": low, "high": 1.0, "n": 100}}]
            for name, (value, low) in rows.items()
        }
        assert words.guessing(found, 1 / 7) == ("base",)
        assert words.guessing(found, 0.2) == ("base", "A3B")
        said = words.headline(Run.existing(done), Transfer().plan(tuple("0123456789"), (1, 28, 28)), found, 1 / 7)
        assert said.startswith("Base B has learned nothing here (14.0 %")
        assert "compare A1B, A3B with each other" in said

    def test_eps_is_the_first_at_which_base_b_keeps_half_of_its_val_images(self, done: Path) -> None:
        """By its own FGSM, written out: x + eps sign(gradient of the cross-entropy), pixels in [0, 1]."""
        tried = Run.existing(done).read_json("eps")
        assert all(one["kept"]["value"] < 0.5 <= tried[-1]["kept"]["value"] for one in tried[:-1])
        assert tried[0]["eps"] == Digits.usual_eps
        trained = load_run(done / "parts" / "base-0")
        val = trained.training.data.splits().val
        x = val.pixels().requires_grad_()
        logits = trained.model(x)
        torch.nn.functional.cross_entropy(logits, val.labels, reduction="sum").backward()
        assert x.grad is not None
        right = logits.argmax(1) == val.labels
        moved = (x + tried[-1]["eps"] * x.grad.sign()).clamp(0, 1)
        kept = (trained.model(moved).argmax(1) == val.labels)[right].float().mean().item()
        assert kept == pytest.approx(tried[-1]["kept"]["value"])
        page = Page.load(done / "results" / "page.json")
        assert page.facts["threat"] == repr(Linf(tried[-1]["eps"]))
        assert "shape and texture" not in page.facts  # digits are nobody's shape

    def test_what_is_finished_is_not_done_again(self, done: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in done.rglob("*.json")}
        TINY.run(done)
        assert before == {path: path.stat().st_mtime_ns for path in before}


class TestMatrix:
    def test_all_images_are_attacked_within_the_threat(self, few: Data, model: torch.nn.Module) -> None:
        made = craft("m", model, few, FGSM(), Linf(0.1), generator=torch.Generator())
        assert (Linf(0.1).distance(made.x_adv, few.pixels()) > 0.09).all()  # also those that it got wrong
        fits(made, few, Linf(0.1))
        assert not (held(model, few, made) & ~accuracy(model, few)).any()

    def test_an_attack_that_leaves_the_threat_is_refused(self, few: Data, model: torch.nn.Module, monkeypatch) -> None:
        monkeypatch.setattr(FGSM, "perturb", lambda self, model, x, *_, **__: (x + 0.5).clamp(0, 1))
        with pytest.raises(ThreatViolation, match=r"FGSM\(\) returned 12 of 12 images that Linf\(0\.1\) forbids"):
            craft("m", model, few, FGSM(), Linf(0.1), generator=torch.Generator())

    def test_a_random_model_is_crafted_on_and_judged_the_same_each_time(self, few: Data) -> None:
        model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(few.pixels()[0].numel(), len(few.classes)))
        model[0].forward = lambda x: nn.functional.dropout(x, 0.5, training=True)
        state = torch.get_rng_state()
        found = [
            judged({"m": model}, few, [craft("m", model, few, FGSM(), Linf(0.1), generator=torch.Generator())])
            for _ in range(2)
        ]
        assert torch.equal(*(one["FGSM()", "m", "m"] for one in found))
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_set_of_other_images_or_another_threat_is_refused(self, few: Data) -> None:
        own = AdversarialSet("s", "FGSM()", few.pixels(), few.labels)
        with pytest.raises(UsageError, match=r"the set s holds 12 other images than the 5 of"):
            fits(own, few.first(5), Linf(0.1))
        moved = AdversarialSet("s", "FGSM()", (few.pixels() + 0.5).clamp(0, 1), few.labels)
        with pytest.raises(UsageError, match=r"12 of 12 images of the set s are not within Linf\(0\.1\)"):
            fits(moved, few, Linf(0.1))
