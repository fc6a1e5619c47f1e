"""The study `resistance`: its courses, what it leaves on disk, what it says, and its finding on a saturated model."""

import csv
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks.auto_loss import AutoLoss
from steelman.attacks.gda import GDA
from steelman.data.digits import Digits
from steelman.data.mnist import MNIST
from steelman.defences.double_softmax import DoubleSoftmax
from steelman.errors import UsageError
from steelman.models.alexnet import AlexNetSmall
from steelman.models.mlp import MLP
from steelman.models.vgg import VGGSmall
from steelman.page import Lines, Matrix, Page, Samples, Table, Trust
from steelman.runs import Run
from steelman.spec import parse
from steelman.studies.resistance import Resistance, detect, held
from steelman.studies.resistance.course import FAILED, POINTS, follow
from steelman.studies.resistance.detect import methods
from steelman.studies.resistance.discriminate import Discriminator
from steelman.studies.resistance.held import nearest, nearest_linf
from steelman.studies.resistance.plan import ACCURACY, SCALES, SUCCESSES, name_of
from steelman.studies.resistance.work import counted
from steelman.studies.resistance.zoo import _log_odds_against
from steelman.threats import L2, Linf

TINY = Resistance(
    preset="published", models=(MLP(width=24), MLP("batchnorm", width=24)), subject=MLP(width=24), num=60, epochs=3
)
FEW = {"num_train": 300, "num_val": 30, "num_attacked": 2, "sphere": (4, 2), "steps": 50, "nearest": 5}
FEW |= {"num_finding": 2, "num_wrong": 10, "num_detect": 3, "queries": 5, "num_probe": 2}


class Plane(nn.Module):
    """Two classes on either side of mean brightness 1/2, with logits of any steepness."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = self.steepness * (x.flatten(1).mean(1) - 0.5)
        return torch.stack((-lead, lead), 1)


@pytest.fixture(scope="module")
def grey() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 16 pixels at different distances from the plane, and their classes."""
    levels = torch.tensor([0.1, 0.3, 0.45, 0.48, 0.55, 0.7, 0.9])
    return levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), (levels > 0.5).long()


@pytest.fixture(scope="module", autouse=True)
def _few(short_probes: None) -> Iterator[None]:
    """The scale "smoke" with fewer images and steps, and two of the attacks whose images are detected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", dataclasses.replace(SCALES["smoke"], **FEW))
        two = methods(TINY.plan(), 0.15)[0::3]
        patch.setattr(detect, "methods", lambda plan, eps: two)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "resistance"
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    told: list[float] = []
    TINY.run(out, progress=lambda done, total, words: told.append(done / total))
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1
    assert torch.equal(state, torch.get_rng_state())  # the global generators are left alone
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    return out


def _items(folder: Path) -> list:
    page = Page.load(folder / "results" / "page.json")
    return [item for section in page.sections for item in section.items]


class TestPlan:
    def test_published_trains_through_two_softmaxes_and_attacks_one(self) -> None:
        plan = Resistance(data=MNIST(), preset="published", scale="full").plan()
        assert plan.course() == GDA(p=2.0, on="softmax", steps=500, learning_rate=1e-3, halvings=0)
        recipe = plan.recipe(AlexNetSmall())
        assert (recipe.lr, recipe.epochs, recipe.objective, recipe.keep) == (5e-4, 100, DoubleSoftmax(), "best")
        assert (plan.recipe(MLP()).epochs, plan.recipe(MLP()).keep) == (30, "last")
        attacks = plan.attacks(2.0)
        assert (attacks["A"].steps, attacks["A"].learning_rate, attacks["A"].halvings) == (1000, 0.005, 12)
        assert attacks["B"] == AutoLoss(p=2.0, on="softmax", steps=500, learning_rate=1e-3, halvings=0)
        assert {name_of(model) for model in plan.models} == {name for data, name in ACCURACY if data == "MNIST"}
        assert set(SUCCESSES) < {name_of(model) for model in plan.models}

    def test_the_work_is_that_of_the_published_constants(self) -> None:
        plan, splits = Resistance(preset="published", scale="full", p=(2.0,)).plan(), Digits().splits()
        work, num_test = counted(plan, splits), len(splits.test)
        assert work.zoo[plan.models.index(AlexNetSmall())] == 100 * len(splits.train)
        assert work.attacks == 100 * (1000 * 12 + 500 + 500 + 200 + 200)  # A, B, C, DDN, FMN
        assert work.test == num_test * (500 + 200 + 100)  # C, DDN, FMN
        assert work.total > sum(work.zoo) + len(work.zoo) * work.attacks + work.test

    def test_corrected_follows_logits(self) -> None:
        plan = Resistance().plan()
        assert plan.on == "logits"
        assert plan.recipe(MLP()).keep == "best"
        assert plan.recipe(MLP()).objective != DoubleSoftmax()
        assert plan.attacks(2.0)["C"].on == "logits"

    def test_a_norm_without_a_reference_attack_has_none(self) -> None:
        assert set(Resistance().plan().attacks(3.0)) == {"A", "B", "C"}
        assert set(Resistance().plan().attacks(math.inf)) == {"A", "B", "C", "FMN"}

    def test_the_subject_joins_the_zoo(self) -> None:
        plan = Resistance(models=(MLP(),), subject=VGGSmall("batchnorm")).plan()
        assert [name_of(model) for model in plan.models] == ["MLP", "VGG_bn"]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"models": (MLP(), MLP(width=3))}, "two of the models are named MLP"),
            ({"p": (0.5,)}, "p is .0.5"),
            ({"steps": 10}, "steps is 10"),
            ({"num": 0}, "num is 0"),
        ],
    )
    def test_a_study_that_cannot_be_done_is_refused(self, fields: dict, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            Resistance(**fields)

    def test_its_repr_is_its_name(self) -> None:
        assert parse(repr(TINY), "study") == TINY
        assert parse("resistance", "study") == Resistance()


def test_double_softmax_cannot_fall_to_zero(generator: torch.Generator) -> None:
    """1.4612 for ten classes and 0.3133 for two, as the original's report says."""
    assert DoubleSoftmax.least(10) == pytest.approx(1.4612, abs=5e-5)
    assert DoubleSoftmax.least(2) == pytest.approx(0.3133, abs=5e-5)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(1, 10, bias=False))
    nn.init.constant_(sure[1].weight, 0)
    nn.init.constant_(sure[1].weight[3], 500)
    x, y = torch.ones(2, 1, 1, 1), torch.tensor([3, 3])
    loss = DoubleSoftmax()(sure, x, y, progress=0.0, generator=generator)
    assert float(loss.detach()) == pytest.approx(DoubleSoftmax.least(10), abs=1e-6)


class TestCourse:
    @pytest.mark.parametrize("attack", [GDA(p=2.0, on="softmax"), GDA(p=2.0), AutoLoss(p=2.0, on="softmax")])
    def test_it_is_the_attacks_own(self, grey, attack) -> None:
        attack = dataclasses.replace(attack, steps=POINTS, learning_rate=0.01)
        x, y = grey
        norms, confidences = attack.trace(Plane(6.0), x, y, L2(math.inf))
        course = follow(Plane(6.0), x, y, attack)
        assert torch.allclose(course.norms, norms.T, atol=1e-6)
        assert torch.allclose(course.confidences, confidences.T, atol=1e-6)
        low = confidences <= attack.thresholds[0]
        first = torch.where(low.any(0), low.int().argmax(0), -1)
        assert torch.equal(course.first, first)
        assert torch.equal(course.rival, torch.where(first < 0, -1, 1 - y))
        assert torch.all(course.peak >= norms.amax(0) - 1e-6)

    def test_resistances_are_those_of_the_original(self, grey) -> None:
        """Res_N the last norm, Res_max the peak, Res_min the first low step, 10000 where there is none."""
        x, y = grey
        course = follow(Plane(40.0), x, y, GDA(p=2.0, on="softmax", steps=60, learning_rate=0.02))
        failed = course.first < 0
        assert torch.equal(course.resistance("Res_min"), torch.where(failed, FAILED, course.first.float()))
        assert torch.equal(course.resistance("Res_N")[~failed], course.last[~failed])
        assert torch.equal(course.resistance("Res_max")[~failed], course.peak[~failed])
        assert (~failed).any()

    def test_images_do_not_depend_on_their_neighbours(self, grey) -> None:
        x, y = grey
        attack = GDA(p=2.0, on="softmax", steps=50, learning_rate=0.02)
        together, alone = follow(Plane(300.0), x, y, attack), follow(Plane(300.0), x[2:3], y[2:3], attack)
        assert torch.allclose(together.norms[2], alone.norms[0], atol=1e-6)
        assert torch.equal(together.first[2:3], alone.first)

    def test_the_distance_is_that_to_the_plane(self, grey) -> None:
        """|mean - 1/2| times the square root of the number of pixels."""
        x, y = grey
        distance, beyond = nearest(Plane(6.0), x, y, 40)
        expected = (x.flatten(1).mean(1) - 0.5).abs() * 4
        assert torch.allclose(distance, expected, rtol=0.02, atol=1e-3)
        assert torch.equal(beyond, 1 - y)
        linf = nearest_linf(Plane(6.0), x, y, 80)
        assert torch.allclose(linf, expected / 4, rtol=0.02, atol=1e-3)


class TestSaturation:
    """A model of known distance whose softmax is made exactly 1.0 in float32 by nothing but larger logits."""

    def test_steep_logits_make_resistance_infinite_and_nothing_else(self, grey) -> None:
        x, y = grey
        soft = GDA(p=2.0, on="softmax", steps=50, learning_rate=0.02)
        course = follow(Plane(2000.0), x, y, soft)
        far = (x.flatten(1).mean(1) - 0.5).abs() > 0.03  # exp(-2 * 2000 * 0.03) is 0 in float32
        assert course.sure.all()
        assert torch.equal(course.dead, far)
        assert torch.equal(course.reached, ~far)  # "infinite resistance" where the gradient is 0, nowhere else
        assert (course.peak[far] == 0).all()
        assert (course.resistance("Res_max")[far] == FAILED).all()
        hard = follow(Plane(2000.0), x, y, dataclasses.replace(soft, on="logits"))
        assert hard.reached.all()
        assert not hard.dead.any()
        distance, _ = nearest(Plane(2000.0), x, y, 40)
        assert torch.allclose(distance, nearest(Plane(6.0), x, y, 40)[0], rtol=0.02, atol=2e-3)

    def test_confidence_from_logits_orders_what_float32_calls_equal(self) -> None:
        logits = torch.tensor([[0.0, 30.0], [0.0, 300.0]])
        assert (logits.softmax(1)[:, 1] == 1).all()
        assert _log_odds_against(logits, torch.tensor([1, 1])).tolist() == [-30, -300]


def test_images_of_five_attacks_are_detected() -> None:
    found = {way.name: way for way in methods(Resistance().plan(), 0.2)}
    assert set(found) == {"FGSM", "PGD", "CW", "DDN", "Square"}
    for way in found.values():
        way.attack.check_norm(way.threat)
    assert {found[name].threat for name in ("FGSM", "PGD", "Square")} == {Linf(0.2)}


def test_the_discriminator_has_the_published_size() -> None:
    assert sum(parameter.numel() for parameter in Discriminator().parameters()) == 2252
    assert Discriminator()(torch.zeros(3, 1, POINTS)).shape == (3, 2)


class TestOnDisk:
    def test_the_page_has_all_it_promises(self, done: Path) -> None:
        items = _items(done)
        kinds = [type(item) for item in items]
        assert kinds.count(Trust) == 2
        assert kinds.count(Samples) == 2
        assert kinds.count(Matrix) == 2
        names = {item.name for item in items if isinstance(item, Lines)}
        assert {"norms", "resistances", "risk", "threshold"} <= names
        page = Page.load(done / "results" / "page.json")
        assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) for name in names)  # each becomes a file
        assert "MLP is right on" in page.headline
        assert len(page.findings) >= 4

    def test_the_zoo_is_compared_with_the_original_on_its_own_data_only(self, done: Path) -> None:
        table = next(item for item in _items(done) if isinstance(item, Table))
        assert [row[0] for row in table.rows] == ["MLP", "MLP_bn"]
        assert all(row[1] is None for row in table.rows)  # digits are not MNIST

    def test_an_attacker_who_knows_the_detector_is_caught_no_more_often(self, done: Path) -> None:
        facts = Run.existing(done).read_json("detection")
        assert [row["attack"] for row in facts["rows"]] == ["FGSM", "DDN"]
        for row in facts["rows"]:
            assert set(row["static"]) == set(row["adaptive"]) == set(facts["alarms"])
            for name, static in row["static"].items():
                adaptive = row["adaptive"][name]
                assert (adaptive["caught"]["value"] or 0) <= (static["caught"]["value"] or 0)
                if static["auroc"]:
                    assert adaptive["auroc"]["value"] <= static["auroc"]["value"]

    def test_every_attacked_image_is_in_the_table(self, done: Path) -> None:
        with (done / "results" / "attacks.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        num = TINY.plan().scale.num_attacked
        assert len(rows) == 2 * len(TINY.plan().attacks(2.0)) * num
        for row in rows:
            assert (row["norm"] != "") == (row["success"] == "1")
            assert (row["class"] != row["predicted"]) == (row["success"] == "1")

    def test_every_test_image_is_in_the_table(self, done: Path) -> None:
        with (done / "results" / "images.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 60
        for row in rows:
            assert float(row["Res_max"]) >= float(row["Res_N"])
            assert row["class beyond"] != row["predicted"]

    def test_what_is_finished_is_not_done_again(self, done: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in (done / "results").rglob("*.json")}
        TINY.run(done)
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_chunks_that_are_there_are_not_measured_again(self, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that lost its page, its results and one chunk comes to the same page without the other chunks' work."""
        before = (done / "results" / "resistance.json").read_text()
        for lost in ("finished", "results/page.json", "results/resistance.json", "parts/held/val-000000.safetensors"):
            (done / lost).unlink()
        asked: list[int] = []
        real = held.measured

        def counted(plan, model, x, y):
            asked.append(len(x))
            return real(plan, model, x, y)

        monkeypatch.setattr(held, "measured", counted)
        TINY.run(done)
        assert asked == [TINY.plan().scale.num_val]
        assert (done / "results" / "resistance.json").read_text() == before
