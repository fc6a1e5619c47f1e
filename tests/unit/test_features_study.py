"""The study `features`: its plan, one tiny run and what it leaves, its words, and the four questions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steelman.attacks.reliable import Reliable
from steelman.data.arrays import Arrays
from steelman.data.digits import Digits
from steelman.data.mnist import MNIST
from steelman.defences.worst_group import WorstGroup
from steelman.errors import UsageError
from steelman.evaluate import accuracy
from steelman.features.mean_gauss_newton import MeanGaussNewton
from steelman.features.normalised_gradient import NormalisedGradient
from steelman.models.blind_cnn import BlindCNN
from steelman.models.convnet import ConvNet
from steelman.page import Bars, Grid, Lines, Page, Table, Trust
from steelman.progress import Stages, silent
from steelman.runs import Run
from steelman.spec import catalogue, parse
from steelman.studies.features import (
    Features,
    FeaturesBlind,
    FeaturesLines,
    FeaturesReadable,
    FeaturesSynthesis,
    making,
    telling,
    why_lines,
)
from steelman.studies.features import plan as planning
from steelman.studies.features.collect import reconstructions, write_sets
from steelman.studies.features.figures import class_grid
from steelman.studies.features.networks import Network
from steelman.studies.features.plan import PUBLISHED, Scale
from steelman.threats.groups import Groups
from steelman.train import load_run

TINY = Features(architecture=BlindCNN(), num=60)
SHORT = Reliable(steps=5, rounds=1, polish=0, queries=0, audit=0)
SCALE = Scale(1, 1, 1, 60, 40, 6, 60, 1, 1, 6, 20, SHORT)
QUESTIONS = (FeaturesLines, FeaturesSynthesis, FeaturesBlind, FeaturesReadable)


pytestmark = pytest.mark.usefixtures("short_probes")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, short_probes: None) -> Path:
    out = tmp_path_factory.mktemp("study") / "features"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(planning.SCALES, "smoke", SCALE)
        TINY.run(out)
    return out


def share(value: float, n: int = 500) -> dict:
    return {"value": value, "low": max(0.0, value - 0.04), "high": min(1.0, value + 0.04), "n": n}


class TestPlan:
    def test_published_is_the_originals_protocol(self):
        plan = Features(data=MNIST(), preset="published", scale="full").plan()
        standard, robust, warm = plan.standard_recipe(), plan.robust_recipe(), plan.warm_recipe()
        assert (standard.lr, standard.epochs, standard.batch_size) == (3e-5, 6, 32)
        assert (robust.epochs, robust.batch_size, robust.eval_mode) == (3, 128, True)
        assert isinstance(robust.objective, WorstGroup)
        assert robust.objective.threat == Groups(fixed=True)
        assert (warm.optimizer, warm.lr, warm.epochs) == ("sgd", 4e-4, 2)
        assert plan.inversion == NormalisedGradient(steps=100, step_size=1.0, decay=0.996, change=1e-3)
        assert (plan.retrained.conv_dropout, plan.retrained.head_dropout) == (0.4, 0.4)
        assert plan.groups.seed == 0x1A2B3C4D
        assert (plan.scale.num_features, plan.scale.retrain_epochs) == (None, 8)

    def test_corrected_draws_anew_and_inverts_fast(self):
        plan = Features().plan()
        assert isinstance(plan.objective, WorstGroup)
        assert not plan.objective.threat.fixed
        assert plan.groups.fixed  # the test is the same for every network
        assert isinstance(plan.inversion, MeanGaussNewton)

    def test_fields_overrule_the_preset(self):
        plan = Features(num=30, seeds=2, seed=3, eps=0.1, tolerance=0.5, start="grey", denoising="components").plan()
        assert (plan.scale.num_features, plan.seeds, plan.threat.eps) == (30, (3, 4), 0.1)
        assert (plan.tolerance, plan.start, plan.denoising) == (0.5, "grey", "components")

    def test_the_published_standard_net_is_worst_on_horizontal_lines(self):
        order = sorted(range(5), key=PUBLISHED["standard"].__getitem__)
        assert [number + 1 for number in order] == [2, 4, 3, 1, 5]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"seeds": 0}, "seeds is 0"),
            ({"num": 5}, "num is 5"),
            ({"tolerance": -1.0}, "tolerance"),
            ({"eps": 5.0}, r"eps is 5\. Expected above 0 and up to 1.* such as 8/255"),
        ],
    )
    def test_a_study_that_cannot_be_done_is_refused(self, fields, words):
        with pytest.raises(UsageError, match=words):
            Features(**fields)

    def test_an_unknown_layer_is_refused_before_any_training(self, tmp_path):
        with pytest.raises(UsageError, match=r"unknown layer of BlindCNN 'nope'\. Possible: features, features\.0"):
            replace(TINY, layer="nope").run(tmp_path / "run")
        with pytest.raises(UsageError, match=r"the network has no ReLU layer\. Name the layer to invert"):
            replace(TINY, architecture=ConvNet(activation="tanh")).run(tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_the_study_and_its_questions_have_names(self):
        assert parse(repr(TINY), "study") == TINY
        assert parse("features", "study") == Features()
        assert {cls.__name__ for cls in QUESTIONS} | {"Features"} <= set(catalogue("study"))


class TestOnDisk:
    def test_the_page_has_all_it_promises(self, done):
        page = Page.load(done / "results" / "page.json")
        items = [item for section in page.sections for item in section.items]
        kinds = [type(item) for item in items]
        assert kinds.count(Trust) == 2
        assert kinds.count(Grid) >= 3
        assert [item.drawn for item in items if isinstance(item, Lines)] == ["steps"] * 3
        groups = next(item for item in items if isinstance(item, Table))
        assert [row[1] for row in groups.rows[:5]] == ["82.9 %", "54.9 %", "80.8 %", "72.7 %", "97.7 %"]
        for item in items:
            if isinstance(item, Grid):
                num = len(Run.existing(done).read_tensors(item.file)["x"])
                assert num % item.columns == 0
                assert len(item.heads) == item.columns
        retrained = next(item for item in items if isinstance(item, Table) and item.columns[0] == "learned from")
        assert sum("published" not in row[0] and "±" not in row[0] for row in retrained.rows) == 7

    def test_shares_are_those_of_the_stored_networks(self, done):
        run = Run.existing(done)
        model, test = load_run(done / "parts" / "robust-0").model, Digits().splits().test.first(40)
        plan = TINY.plan()
        for number, stored in enumerate(run.read_json("robust-0-groups")["shares"]):
            hits = accuracy(model, (plan.groups.apply(number, test.pixels()), test.labels))
            assert stored["value"] == pytest.approx(hits.float().mean().item())

    def test_sets_hold_the_reconstructions_with_the_original_labels(self, done):
        originals = Digits().splits().train.first(60)
        stored = Run.existing(done).read_tensors("examples/robust-00000.safetensors")
        splits = Arrays(str(done / "sets" / "robust.safetensors")).splits()
        assert torch.equal(splits.train.labels, originals.labels)
        assert torch.equal(splits.train.images, (stored["x"] * 255).round().byte())
        following = Arrays(str(done / "sets" / "d-det.safetensors")).splits().train.labels
        assert torch.equal(following, (originals.labels + 1) % 10)
        assert (done / "sets" / "nonrobust" / "x_9.npy").is_file()

    def test_published_reconstructs_val_too_and_keeps_a_tenth_apart(self, done, tmp_path):
        study = Features(architecture=BlindCNN(), preset="published", start="grey")
        splits, standard = (
            Digits().splits(),
            Network("standard", 0, done, load_run(done / "parts" / "standard-0").model),
        )
        plan = replace(
            study.plan(),
            inversion=MeanGaussNewton(steps=1),
            scale=replace(study.plan().scale, num_features=None),
        )
        assert plan.retrain_recipe().keep == "last"
        with Run.open(tmp_path, repr(study), splits.digest) as run:
            made = reconstructions(run, plan, (standard, standard), splits, Stages(silent, 2))
            write_sets(run, plan, made, standard, splits)
            class_grid(run, made)
            sheet = run.read_tensors("examples/classes.safetensors")["x"][3 * 5]  # row 3, column "original"
        images = torch.cat((splits.train.images, splits.val.images))
        assert torch.equal(made.originals.images, images)
        mine = made.originals.pixels()[made.originals.labels == 3]
        assert torch.allclose(sheet[:, :28, 29:57], mine[1])  # as made, not as shuffled for a training
        split = Arrays(str(tmp_path / "sets" / "original.safetensors")).splits()
        assert len(split.val) == len(made.originals) // 10
        kept = torch.cat((split.train.images, split.val.images)).flatten(1)
        assert torch.equal(kept.sum(1).sort()[0], made.originals.images.flatten(1).sum(1).sort()[0])

    def test_a_sheet_shows_25_images_of_a_class_row_by_row(self, done):
        originals = Digits().splits().train.first(60)
        mine = originals.pixels()[originals.labels == 3]
        sheet = Run.existing(done).read_tensors("examples/classes.safetensors")["x"][3 * 5]  # row 3, column "original"
        assert sheet.shape == (1, 5 * 28 + 4, 5 * 28 + 4)
        assert torch.allclose(sheet[:, :28, 29:57], mine[1])
        assert (sheet[:, 28] == 0.5).all()
        last = len(mine) - 1
        row, column = 29 * (last // 5), 29 * (last % 5)
        assert torch.allclose(sheet[:, row : row + 28, column : column + 28], mine[last])

    def test_what_is_finished_is_not_done_again(self, done):
        before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.suffix in (".json", ".safetensors")}
        TINY.run(done)
        assert {path: path.stat().st_mtime_ns for path in before} == before

    @pytest.mark.parametrize("question", QUESTIONS, ids=lambda cls: cls.__name__)
    def test_every_question_is_answered_in_words_and_a_figure(self, done, question, tmp_path, monkeypatch):
        scale = Scale(1, 1, 1, 60, 40, 6, 40, 1, 1, 6, 20, SHORT)
        monkeypatch.setitem(planning.SCALES, "smoke", scale)
        monkeypatch.setattr(planning, "FC100", lambda **_: BlindCNN())
        question(networks=str(done)).run(tmp_path / "out")
        page = Page.load(tmp_path / "out" / "results" / "page.json")
        items = [item for section in page.sections for item in section.items]
        assert page.headline
        assert page.findings
        assert any(isinstance(item, Lines | Bars) for item in items)

    def test_networks_that_are_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(planning, "FC100", lambda **_: BlindCNN())
        with pytest.raises(UsageError, match="holds no standard-0"):
            FeaturesBlind(networks=str(tmp_path)).run(tmp_path / "out")

    def test_networks_of_other_data_or_scale(self, done, tmp_path):
        with pytest.raises(
            UsageError, match=r"standard-0 is BlindCNN\(\) on .* Give networks= a run of study features"
        ):
            FeaturesBlind(networks=str(done)).run(tmp_path / "out")


class TestWords:
    def _cells(self, flat: float, upright: float, p: float) -> dict:
        cells = {f"0-{count}": share(flat) for count in (5, 7)} | {f"90-{count}": share(upright) for count in (5, 7)}
        return cells | {"p-5": p, "p-7": p}

    @pytest.mark.parametrize(
        ("digits", "turned", "words"),
        [
            ((0.5, 0.8, 1e-6), (0.8, 0.5, 1e-6), "It is the digits"),
            ((0.5, 0.8, 1e-6), (0.5, 0.8, 1e-6), "not the digits' orientation"),
            ((0.5, 0.8, 1e-6), (0.7, 0.6, 0.4), "neither orientation does beyond chance"),
            ((0.5, 0.52, 0.3), (0.5, 0.5, 1.0), "Undecided"),
        ],
    )
    def test_lines(self, digits, turned, words):
        crossed = {"digits": self._cells(*digits), "transposed digits": self._cells(*turned)}
        flat, upright, _ = digits
        swept = {"digits": [{"angle": 0, "value": flat}, {"angle": 90, "value": upright}]}
        assert words in why_lines.headline(crossed, swept)

    def test_lines_of_which_only_one_layout_is_sure_and_says_the_opposite_of_the_mean(self):
        cells = {
            "0-5": share(0.5),
            "90-5": share(0.6),
            "0-7": share(0.9),
            "90-7": share(0.75),
            "p-5": 1e-4,
            "p-7": 0.06,
        }
        assert why_lines.headline(dict.fromkeys(("digits", "transposed digits"), cells), {}).startswith("Undecided")

    def test_lines_that_hurt_equally_at_equal_coverage_are_not_put_down_to_orientation(self):
        crossed = {name: self._cells(0.5, 0.8, 1e-6) for name in ("digits", "transposed digits")}
        swept = {"digits": [{"angle": 0, "value": 0.6}, {"angle": 90, "value": 0.61}]}
        assert why_lines.headline(crossed, swept).startswith("Not the orientation alone")

    def test_lines_of_the_sweep_have_equal_coverage_and_distance(self):
        x = Digits().splits().test.pixels(slice(0, 20))
        for angle in (0.0, 30.0, 90.0):
            lines = why_lines.matched(angle, x)
            pattern = lines.pattern(28, 28)
            assert pattern.mean() == pytest.approx(why_lines.COVERAGE, abs=0.01)
            change = ((x + lines.strength * pattern).clamp(0, 1) - x).flatten(1).norm(dim=1).mean()
            assert change == pytest.approx(why_lines.DISTANCE, rel=0.01)

    def _rows(self, **values: tuple[float, float]) -> dict:
        return {name: {"right": share(value), "nearest": far} for name, (value, far) in values.items()}

    @pytest.mark.parametrize(
        ("pgd", "words"),
        [((0.95, 4.0), "Yes, on the PGD-robust net"), ((0.95, 9.0), "Only for a network"), ((0.2, 9.0), "No:")],
    )
    def test_synthesis(self, pgd, words):
        rows = self._rows(standard=(0.2, 10.0), robust=(0.3, 10.0), pgd=pgd, real=(0.99, 3.0))
        assert making.synthesis_headline(rows).startswith(words)

    def test_readable(self):
        rows = self._rows(standard=(0.2, 9.0), robust=(0.4, 9.0), pgd=(0.9, 9.0))
        assert making.readable_headline(rows, 10).startswith("Yes, those of the PGD-robust net")
        dull = self._rows(standard=(0.2, 9.0), robust=(0.2, 9.0), pgd=(0.2, 9.0))
        assert making.readable_headline(dull, 4).startswith("Hardly")
        assert making.readable_headline(dull, 4).endswith("chance is 25 %.")

    def test_a_grid_shows_the_first_image_of_each_class(self, tmp_path):
        """Of classes with unequally many images, one with none."""
        labels = torch.tensor([0, 0, 0, 1, 3, 3])
        x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 2)
        with Run.open(tmp_path / "run", "Test()") as run:
            grid = making._grid(run, {"standard": x}, ("a", "b", "c", "d"), labels, "made")
            shown = run.read_tensors("examples/made.safetensors")["x"]
        assert grid.heads == ("a", "b", "d")
        assert shown[:, 0, 0, 0].tolist() == [0, 3, 4]

    @pytest.mark.parametrize(
        ("area", "words"), [((0.95, 0.93, 0.97), "Yes: x"), ((0.3, 0.2, 0.4), "Only in part"), ((0.5, 0.4, 0.6), "No:")]
    )
    def test_blind(self, area, words):
        value, low, high = area
        assert telling.headline({"x": {"value": value, "low": low, "high": high}}, 100).startswith(words)


def test_a_transposed_set_is_transposed_twice_the_same():
    data = Digits().splits().test.first(3)
    assert torch.equal(why_lines.transposed(why_lines.transposed(data)).images, data.images)
    assert not torch.equal(why_lines.transposed(data).images, data.images)
