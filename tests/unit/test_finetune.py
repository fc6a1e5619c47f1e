"""The study `finetune`: what it plans, what it leaves on disk, and what it says."""

import csv
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.data.digits import Digits
from steelman.data.mnist import MNIST
from steelman.errors import UsageError
from steelman.evaluate import accuracy, adversarial_accuracy
from steelman.models.convnet import ConvNet
from steelman.models.linear import Linear1
from steelman.models.v_one import VOne
from steelman.page import Bars, Grid, Lines, Page, Samples, Table, Trust
from steelman.report import write_report
from steelman.runs import Run
from steelman.spec import parse
from steelman.studies.finetune import Finetune
from steelman.studies.finetune.front_end import Front
from steelman.studies.finetune.front_pages import front_findings
from steelman.studies.finetune.plan import PUBLISHED, PUBLISHED_FRONTS, SCALES, Fronts, label
from steelman.studies.finetune.words import Arm, findings, headline, verdict
from steelman.train import load_run

TINY = Finetune(models=(Linear1(width=32),), epochs=2, finetune_epochs=2, seeds=2, eps_list=(0.1,))


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "epochs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def _few(short_probes: None) -> Iterator[None]:
    """The scale "smoke" with fewer images where PGD-40 and the trust checks look, and all that FGSM looks at."""
    with pytest.MonkeyPatch.context() as patch:
        few = {"num_train": 600, "num_pgd": 16, "num_final": 40, "num_probe": 8}
        patch.setitem(SCALES, "smoke", dataclasses.replace(SCALES["smoke"], **few))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "finetune"
    state = torch.get_rng_state()
    TINY.run(out)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone
    return out


def test_what_could_not_be_kept_or_shown_is_refused():
    with pytest.raises(UsageError, match=r"was given as a plain model\. Expected it in fronts="):
        Finetune(models=(VOne(ConvNet()),))
    with pytest.raises(UsageError, match=r"two attacks to fine-tune against are PGD\. Expected one of each kind"):
        Finetune(against=(PGD(steps=1), PGD(steps=2)))


def _share(value: float, n: int = 1000) -> dict:
    return {"value": value, "low": max(0.0, value - 0.03), "high": min(1.0, value + 0.03), "n": n}


def _arm(attack, natural: float, fgsm: float, pgd: float, images: float | None = None, p: float = 1e-9) -> Arm:
    after = {"natural": _share(natural), "fgsm": _share(fgsm), "pgd": _share(pgd)}
    after |= {"fgsm_images": _share(fgsm if images is None else images), "p": {"natural": p, "pgd": p, "leak": p}}
    return Arm("ConvNet", 0, attack, ({}, {}), after, after)


class TestPlan:
    def test_published_is_the_originals_protocol(self) -> None:
        plan = Finetune(data=MNIST(), preset="published", scale="full").plan()
        assert plan.threat.eps == 0.35
        assert not plan.threat.clip  # images may leave [0, 1]
        assert plan.against == (FGSM(),)
        assert plan.mix == 1
        trained, tuned = (plan.train_recipe(plan.models[0]), plan.finetune_recipe(FGSM()))
        assert (trained.lr, trained.epochs, trained.batch_size) == (1e-3, 10, 64)
        assert (tuned.lr, tuned.epochs, tuned.batch_size) == (1e-4, 29, 64)
        assert trained.eval_mode
        assert tuned.eval_mode
        assert tuned.fresh_optimizer
        assert {type(model).__name__ for model in plan.models} == set(PUBLISHED)

    def test_corrected_clips_and_adds_a_remedy(self) -> None:
        plan = Finetune().plan()
        assert plan.threat.clip
        assert plan.threat.eps == Digits.usual_eps
        assert any(isinstance(attack, PGD) for attack in plan.against)
        assert not plan.finetune_recipe(FGSM()).eval_mode

    def test_fields_overrule_the_preset(self) -> None:
        plan = Finetune(preset="published", eps=0.1, mix=0.5, clip=True, seed=3, seeds=2, lr=1e-2).plan()
        assert (plan.threat.eps, plan.mix, plan.threat.clip, plan.seeds, plan.lr) == (0.1, 0.5, True, (3, 4), 1e-2)

    def test_full_holds_the_originals_networks_behind_a_front_end(self) -> None:
        plan = Finetune(data=MNIST(), preset="published", scale="full").plan()
        names = {label(one) for one in (*plan.tuned, *plan.controls)}
        assert names - {"VOneBasicCNN-32-learned", "VOneBasicCNN-32-random"} == set(PUBLISHED_FRONTS)
        assert all((one.image_size, one.derivative, one.sf_max) == (224, "published", 6) for one in plan.tuned)
        corrected = Finetune(data=MNIST(), scale="full").plan()
        assert all((one.image_size, one.derivative) == (None, "smooth") for one in corrected.tuned)
        assert not Finetune().plan().tuned  # smoke has none
        assert not Finetune(models=(Linear1(),), scale="full").plan().tuned

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"fronts": (Linear1(),)}, "has no V1 front end"),
            ({"models": (ConvNet(), ConvNet(activation="tanh"))}, "two networks of the study are called ConvNet"),
            ({"eps_list": ()}, "eps_list is empty"),
            ({"mix": 1.5}, "mix is 1.5"),
            ({"eps": 5.0}, r"eps is 5\. Expected above 0 and up to 1"),
            ({"eps_list": (0.1, 0.0)}, r"eps is 0\. Expected above 0 and up to 1"),
            ({"seeds": 0}, "seeds is 0"),
            ({"seed": -1}, r"seed is -1\. Expected 0 or more, and less than 2\^63"),
        ],
    )
    def test_a_study_that_cannot_be_done_is_refused(self, fields: dict, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            Finetune(**fields)

    def test_its_repr_is_its_name(self) -> None:
        assert parse(repr(TINY), "study") == TINY
        assert parse("finetune", "study") == Finetune()


class TestOnDisk:
    def test_every_network_arm_and_epoch_is_in_the_table(self, done: Path) -> None:
        rows = _rows(done)
        assert len(rows) == 2 * 2 * 3  # seeds, arms, epochs 0 to 2
        assert {(row["seed"], row["against"], row["epoch"]) for row in rows} == {
            (seed, against, epoch) for seed in "01" for against in ("FGSM", "PGD") for epoch in "012"
        }
        for row in rows:
            assert float(row["natural_low"]) <= float(row["natural_value"]) <= float(row["natural_high"])
            assert float(row["pgd_value"]) <= float(row["natural_value"]) + 0.2  # on fewer images
            assert float(row["fgsm_value"]) <= float(row["natural_value"])

    def test_the_last_row_is_what_the_kept_network_does(self, done: Path) -> None:
        rows = [row for row in _rows(done) if row["seed"] == "0"]
        last = next(row for row in rows if row["against"] == "FGSM" and row["epoch"] == "2")
        model = load_run(done / "parts" / "Linear1-0-FGSM").model
        test, threat = Digits().splits().test, TINY.plan().threat
        natural = accuracy(model, test)
        assert float(last["natural_value"]) == pytest.approx(natural.float().mean().item())
        fgsm = adversarial_accuracy(model, test, FGSM(), threat)
        assert float(last["fgsm_images_value"]) == pytest.approx(fgsm.float().mean().item())

    def test_fine_tuning_starts_from_the_trained_network(self, done: Path) -> None:
        rows = _rows(done)
        starts = {row["natural_value"] for row in rows if row["epoch"] == "0" and row["seed"] == "0"}
        model = load_run(done / "parts" / "Linear1-0-base").model
        natural = accuracy(model, Digits().splits().test).float().mean().item()
        assert len(starts) == 1
        assert float(starts.pop()) == pytest.approx(natural)

    def test_the_page_has_all_it_promises(self, done: Path) -> None:
        page = Page.load(done / "results" / "page.json")
        kinds = [type(item) for section in page.sections for item in section.items]
        assert kinds.count(Trust) == 3  # before, and after each arm
        assert kinds.count(Samples) == 3
        assert kinds.count(Lines) == 4
        table = next(item for section in page.sections for item in section.items if isinstance(item, Table))
        over_seeds = table.columns.index("mean ± sd, 2 seeds")
        assert all(row[over_seeds]["n"] == 2 for row in table.rows)  # mean and sd over two seeds
        assert "Linear1" in page.headline
        text = re.sub("</?span[^>]*>", "", write_report(done).read_text().replace("\N{NO-BREAK SPACE}", " "))
        assert page.headline in text

    def test_samples_are_fgsm_images_within_the_threat(self, done: Path) -> None:
        tensors = Run.existing(done).read_tensors("examples/Linear1-0-before-samples.safetensors")
        threat = TINY.plan().threat
        assert threat.contains(tensors["x_adv"], tensors["x"]).all()
        assert tensors["label"].tolist() == sorted(set(tensors["label"].tolist()))  # one of each class

    def test_what_is_finished_is_not_done_again(self, done: Path) -> None:
        before = {
            path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file() and path.suffix == ".json"
        }
        TINY.run(done)
        after = {path: path.stat().st_mtime_ns for path in before}
        assert after == before

    def test_an_interrupted_study_goes_on_to_the_same_numbers(self, done: Path, tmp_path: Path) -> None:
        """And one seed alone to those that it has among others."""

        class Stop(Exception):
            pass

        calls = 0

        def stop(done: int, total: int, words: str) -> None:
            nonlocal calls
            calls += 1
            if "PGD" in words and calls > 5:
                raise Stop

        out, alone = tmp_path / "finetune", dataclasses.replace(TINY, seeds=1)
        with pytest.raises(Stop):
            alone.run(out, progress=stop)
        alone.run(out)
        assert _rows(out) == [row for row in _rows(done) if row["seed"] == "0"]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one tiny network alone and behind a front end, and of a control, on a few images."""
    plain = Linear1(width=8)
    front = VOne(plain, simple=2, complex=2, ksize=9, bottleneck=1, noise=None)
    small = dataclasses.replace(SCALES["smoke"], num_train=64, num_test=40, num_pgd=8, num_final=40, num_probe=4)
    control = dataclasses.replace(front, filters="random")
    fewest = Fronts((), (), 1, 1, 64, 40, 8)
    out = tmp_path_factory.mktemp("study") / "fronts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", dataclasses.replace(small, fronts=fewest))
        study = dataclasses.replace(TINY, models=(plain,), seeds=1, epochs=1, finetune_epochs=1, against=(FGSM(),))
        dataclasses.replace(study, fronts=(front,), controls=(control,)).run(out)
    return out


class TestFrontEnd:
    def test_the_same_images_are_attacked_through_both_derivatives(self, behind: Path) -> None:
        run = Run.existing(behind)
        ways = run.read_json("VOneLinear1-1-0-both-ways")
        held = run.read_tensors("examples/VOneLinear1-1-0-both-ways-images.safetensors")
        for row in ways["rows"]:
            for way in ("published", "smooth", "averaged", "plain"):
                share = held[f"{way} {row['eps']:g}"].float().mean().item()
                assert row[way]["robust"]["value"] == pytest.approx(share)
                assert row[way]["robust"]["n"] == 40
            assert row["smooth"]["gradient_nan"] == row["averaged"]["gradient_nan"] == row["plain"]["gradient_nan"] == 0
            assert row["published"]["pixels_moved"] <= row["smooth"]["pixels_moved"]
            # without noise the mean of many draws is one of them
            assert torch.equal(held[f"averaged {row['eps']:g}"], held[f"smooth {row['eps']:g}"])
            assert (row["published"]["watched"], row["averaged"]["watched"]) == (40, 4)
            names = [check["name"] for check in row["published"]["trust"]]
            assert "gradient NaN" in names
        pictures = run.read_tensors("examples/VOneLinear1-1-0-both-ways-pictures.safetensors")["x"]
        assert len(pictures) == len(ways["words"]) == 24

    def test_its_page_shows_curves_bars_pictures_and_both_numbers(self, behind: Path) -> None:
        page = Page.load(behind / "results" / "page.json")
        section = next(one for one in page.sections if one.title.startswith("Behind a front end"))
        kinds = [type(item) for item in section.items]
        assert {Bars, Lines, Grid, Table, Trust} <= set(kinds)
        both, table = (item for item in section.items if isinstance(item, Table))
        assert [row[0] for row in both.rows] == [
            f"VOneLinear1-1{kind}, eps {eps}" for kind in ("", "-random") for eps in ("0.1", "0.35")
        ]
        assert {row[0] for row in table.rows} == {"VOneLinear1-1", "VOneLinear1-1-random"}
        assert any("through the published derivative" in words for words in page.findings)
        assert {row["model"] for row in _rows(behind)} == {"Linear1", "VOneLinear1-1"}

    def test_a_gap_between_derivatives_is_called_by_its_name(self) -> None:
        published = {"robust": _share(0.85), "gradient_nan": 0.9, "still": _share(0.5)}
        row = {"eps": 0.35, "published": published, "smooth": {"robust": _share(0.01)}, "p": {"published": 1e-9}}
        row["averaged"] = {"robust": _share(0.004)}
        front = Front("VOneBasicCNN-32", VOne(), {}, {"rows": [row]})
        plan = Finetune(scale="full").plan()
        assert front_findings(plan, [front])[0].endswith("the robustness was a gradient that was not there.")
        alike = {**row, "smooth": {"robust": _share(0.84)}, "p": {"published": 0.4}}
        other = [dataclasses.replace(front, ways={"rows": [alike]})]
        assert front_findings(plan, other)[0].endswith("both say the same.")
        plain = {**row, "plain": {"robust": _share(0.3)}, "p": {"published": 1e-9, "plain": 1e-9}}
        fewer = [dataclasses.replace(front, ways={"rows": [plain]})]
        assert front_findings(plan, fewer)[1].endswith("on fewer images than without the front end.")
        quick = front_findings(Finetune(scale="quick").plan(), fewer)[1]
        assert quick.endswith("It was trained for 4 epochs, the plain one for 6.")

    def test_epochs_that_are_given_are_those_behind_a_front_end_as_well(self) -> None:
        for scale, given in (("full", {}), ("quick", {}), ("smoke", {"fronts": (VOne(),)})):
            behind = Finetune(scale=scale, epochs=1, finetune_epochs=2, **given).plan().behind().scale
            assert (behind.epochs, behind.finetune_epochs) == (1, 2)
        behind = Finetune(fronts=(VOne(),)).plan().behind().scale
        assert (behind.epochs, behind.finetune_epochs) == (3, 2)


class TestWords:
    def test_fgsm_far_above_pgd_after_fgsm_training_is_the_attack_learned(self) -> None:
        assert verdict(_arm(FGSM(), 0.9, 0.9, 0.1)) == "it learned the attack, not the task"

    def test_a_gap_within_chance_is_no_finding(self) -> None:
        assert verdict(_arm(FGSM(), 0.9, 0.9, 0.79, p=0.2)) != "it learned the attack, not the task"

    def test_pgd_training_is_not_said_to_have_learned_one_step(self) -> None:
        assert "FGSM shows too much" in verdict(_arm(PGD(), 0.9, 0.9, 0.5))
        few = verdict(_arm(PGD(), 0.9, 0.7, 0.66))  # beyond chance, and yet few
        assert few == "it holds against both, and FGSM shows 4.0 points too much"
        assert verdict(_arm(PGD(), 0.9, 0.7, 0.65, p=0.2)) == "it holds against both, not told apart"
        assert verdict(_arm(PGD(), 0.9, 0.65, 0.7)) == "it holds against both, not told apart"

    def test_a_network_at_chance_is_said_to_guess(self) -> None:
        """One that names the most frequent class for every image holds against anything."""
        arm = dataclasses.replace(_arm(FGSM(), 0.113, 0.113, 0.113), chance=0.1135)
        assert verdict(arm) == "it only guesses, so nothing is said of how it holds"
        assert headline(TINY.plan(), [arm]).endswith("test images are right: it only guesses.")
        assert "guess" not in verdict(dataclasses.replace(_arm(FGSM(), 0.9, 0.9, 0.9), chance=0.1135))

    def test_nothing_learned_is_said(self) -> None:
        assert verdict(_arm(FGSM(), 0.9, 0.05, 0.0)) == "it did not learn to hold"

    def test_label_leaking_is_said(self) -> None:
        leaking = _arm(FGSM(), 0.68, 0.6, 0.0, images=0.99)
        assert any("tells it the label" in words for words in findings(TINY.plan(), [leaking]))
        honest = dataclasses.replace(leaking, after={**leaking.after, "fgsm_images": _share(0.6)})
        assert not any("tells it the label" in words for words in findings(TINY.plan(), [honest]))
