"""`certify`, `harden` and `evaluate --certifier` on small images: what is proven, what was gained, what it cost."""

import json
import shlex

import numpy as np
import pytest
from scipy import stats

from steelman.attacks.pgd import PGD
from steelman.certification import Certification
from steelman.certify.interval import Interval
from steelman.cli import inputs
from steelman.data.arrays import Arrays
from steelman.data.mnist import MNIST
from steelman.defences.guarded import Guarded
from steelman.errors import UsageError
from steelman.hardening import choices, plan
from steelman.measurement import Measurement
from steelman.models.fast_cnn import FastCNN
from steelman.page import Page, Samples, Trust
from steelman.recipes import RECIPES
from steelman.spec import parse
from steelman.threats import L2, Linf
from steelman.train import Training

QUICK = ("--attack", "PGD(steps=5)")


@pytest.fixture(autouse=True)
def quick_attack(monkeypatch):
    """Before and after are measured by a short attack."""
    monkeypatch.setattr("steelman.cli.inputs.usual_attack", lambda threat: "PGD(steps=5)")


def test_certified_true_and_attacked_are_in_this_order(runs, call):
    code, out, _ = call(
        "evaluate", runs / "plain", "--threat", "Linf(0.02)", *QUICK, "--certifier", "Interval", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert 0 < found["certified"]["value"] <= found["robust"]["value"] <= found["natural"]["value"]
    assert found["certified"]["n"] == found["robust"]["n"]
    assert {check["name"]: check["verdict"] for check in found["trust"]}["certificates"] == "ok"


def test_a_curve_with_certificates_is_a_band(runs, call, tmp_path):
    words = (
        "--threat",
        "Linf(0.02)",
        *QUICK,
        "--certifier",
        "Interval",
        "--curve",
        "0.01,0.02",
        "--out",
        tmp_path / "e",
    )
    code, out, _ = call("evaluate", runs / "plain", *words)
    assert code == 0
    assert "certified <= true <= robust" in out
    table = out[out.index("\neps") + 1 :].splitlines()
    assert table[0].split()[-1] == "certified"
    assert [line.count("%") for line in table[1:3]] == [2, 2]  # robust and certified at each radius
    page = json.loads((tmp_path / "e" / "results" / "page.json").read_text())
    lines = [item for section in page["sections"] for item in section["items"] if item["kind"] == "lines"]
    attacked, proven = lines[0]["panels"][0]["series"]
    assert attacked["x"] == proven["x"] == [0, 0.01, 0.02]
    assert all(low <= high for low, high in zip(proven["y"], attacked["y"], strict=True))


def test_certify_says_what_is_proven_at_each_radius_and_computes_it_once(runs, call, refused, tmp_path, monkeypatch):
    words = ("certify", runs / "plain", "--threat", "Linf(0.04)", "--radii", "4", "--out", tmp_path / "c", "--json")
    code, out, _ = call(*words)
    found = json.loads(out)
    shares = [found["natural"]["value"], *(point["certified"]["value"] for point in found["points"])]
    assert code == 0
    assert shares == sorted(shares, reverse=True)
    assert [point["eps"] for point in found["points"]] == [0.01, 0.02, 0.03, 0.04]
    assert "At least" in (tmp_path / "c" / "report.html").read_text()
    spec = (tmp_path / "c" / "spec.txt").read_text()
    assert json.loads(call("certify", spec, "--json")[1])["points"] == found["points"]
    said = call("certify", spec, "--radii", "4")[2]
    assert "the certification says everything, and --radii was given beside it. Change its text." in said
    said = refused("certify", spec, "--split", "test", "--seed", "0")  # as the defaults are, the spec may say others
    assert "--split, --seed was given beside it" in said
    monkeypatch.setattr("steelman.certification.certify", None)
    assert json.loads(call(*words)[1]) == found


def test_smoothing_certifies_the_model_under_noise(runs, call, tmp_path):
    words = ("--certifier", "Smoothing(0.1, n=200)", "--threat", "L2(0.2)", "--radii", "0.1,0.2", "--num", "5")
    code, out, _ = call("certify", runs / "plain", *words, "--out", tmp_path / "s")
    assert code == 0
    assert "Smoothing(0.1, n=200) of the model under noise" in out.replace("sigma=", "")
    assert len((tmp_path / "s" / "examples" / "smoothed.jsonl").read_text().splitlines()) == 6  # who, and five images


def test_certify_takes_one_model(runs, refused):
    assert "2 models were given" in refused(
        "certify", runs / "plain", "--model", "Linear1(width=16)", "--weights", "w.safetensors", "--threat", "Linf(0.1)"
    )


def test_harden_shows_before_and_after(runs, call, tmp_path):
    words = ("harden", runs / "plain", "--threat", "Linf(0.3)", "--minutes", "0.05", "--out", tmp_path / "h", "--json")
    code, out, _ = call(*words)
    found = json.loads(out)
    before, after = found["models"]
    assert code == 0
    assert after["robust"]["value"] > before["robust"]["value"]
    assert 0 <= after["paired"]["p"] <= 1
    assert "Trained on by" in (tmp_path / "h" / "evaluation" / "report.html").read_text()
    assert (tmp_path / "h" / "trained" / "weights.safetensors").is_file()
    assert json.loads(call(*words)[1]) == found  # nothing is computed twice
    for model in (before, after):
        assert f"[{100 * model['robust']['low']:.1f}, {100 * model['robust']['high']:.1f}] of " in found["words"]
    page = Page.load(tmp_path / "h" / "evaluation" / "results" / "page.json")
    items = [item for section in page.sections for item in section.items]
    panels = [item.subject for item in items if isinstance(item, Trust)]
    assert [" on before within " in panels[0], " on after within " in panels[1]] == [True, True]
    assert all(item.caption.startswith(("before: ", "after: ")) for item in items if isinstance(item, Samples))


def test_a_directory_holds_one_hardening(runs, call, tmp_path):
    words = ("harden", runs / "plain", "--minutes", "0.02", "--num", "20", "--out", tmp_path / "h")
    assert call(*words, "--threat", "Linf(0.1)")[0] == 0
    code, _, err = call(*words, "--threat", "Linf(0.2)")
    assert code == 2
    assert "holds the hardening of" in err


def test_more_time_buys_a_stronger_method(runs, monkeypatch):
    monkeypatch.setattr("steelman.hardening._seconds_per_step", lambda model, splits, objective: 1.0)
    found = [type(plan(runs / "plain", Linf(0.1), minutes).training.recipe.objective) for minutes in (0.005, 1000.0)]
    assert found == [Guarded, type(choices(Linf(0.1))[0].objective)]
    few = plan(runs / "plain", Linf(0.1), 0.005).training
    assert few.recipe.epochs == 1
    assert few.num is None or few.num >= 1


def test_a_run_that_took_some_blocks_is_trained_on_from_all_its_weights(arrays, call, tmp_path):
    words = ("--data", arrays, "--epochs", "1", "--out")
    assert call("train", "Linear3(width=8)", *words, tmp_path / "first")[0] == 0
    whole = (tmp_path / "first" / "spec.txt").read_text().strip()
    spec = whole.removesuffix(")") + f", start={str(tmp_path / 'first')!r}, blocks=1)"
    assert call("train", spec, "--out", tmp_path / "part")[0] == 0
    assert plan(tmp_path / "part", Linf(0.1), 1.0).training.blocks is None


def test_each_way_trains_within_its_threat():
    for threat in (Linf(0.1), L2(1.0)):
        assert all(choice.objective.ball() == threat for choice in choices(threat))


@pytest.mark.parametrize(
    ("minutes", "threat", "words"),
    [
        (0.0, Linf(0.1), "minutes is 0. Expected the time"),
        (1.0, Linf(float("inf")), "Expected a finite radius above 0"),
    ],
)
def test_neither_no_time_nor_no_limit_makes_a_plan(runs, minutes, threat, words):
    with pytest.raises(UsageError, match=words):
        plan(runs / "plain", threat, minutes)


def test_harden_needs_a_ball(runs, refused):
    assert "no threat was given" in refused("harden", runs / "plain")
    assert "Expected a ball" in refused("harden", runs / "plain", "--threat", "Groups()")


# ---- recipes with a name


@pytest.mark.parametrize("named", RECIPES, ids=lambda named: named.name)
def test_a_named_recipe_is_the_text_of_a_recipe_and_says_what_to_expect(named):
    assert parse(repr(named.recipe), "recipe") == named.recipe
    assert parse(repr(named.architecture), "architecture") == named.architecture
    assert "seed" in named.expected
    assert named.recipe.keep == "last"  # the best natural accuracy on val is the least robust


def test_recipes_are_listed_with_what_to_expect(call):
    found = json.loads(call("list", "recipes", "--json")[1])
    assert {one["name"] for one in found} == {named.name for named in RECIPES}
    assert all(one["expected"] and one["minutes"] for one in found)


def test_a_recipe_is_for_its_data_and_another_network_is_warned_of(refused, capsys):
    assert "is a recipe for MNIST, the data are Digits()" in refused(
        "train", "FastCNN", "--data", "digits", "--recipe", "certified-linf-0.3"
    )
    assert "unknown recipe 'certified'. " in refused("train", "FastCNN", "--recipe", "certified")
    inputs.check_named(RECIPES[0], Training(FastCNN(), MNIST()))
    assert "was measured on FastCNN(batch_norm=True" in capsys.readouterr().err


def test_certificates_and_repaired_gradients_go_together(runs, call):
    words = ("--threat", "Linf(0.02)", *QUICK, "--num", "9", "--certifier", "Interval", "--repair-gradients", "--json")
    code, out, err = call("evaluate", runs / "plain", *words)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["certified"]["n"] == found["repaired"]["worst"]["n"] == 9


def test_what_is_certified_is_said_of_the_radius_it_holds_at(runs, call):
    words = ("certify", runs / "plain", "--threat", "Linf(0.1)", "--num", "9", "--json")
    narrow = json.loads(call(*words, "--radii", "0.01")[1])
    assert narrow["threat"] == "Linf(0.01)"
    assert narrow["certified"] == json.loads(call(*words[:3], "Linf(0.01)", *words[4:])[1])["certified"]


def test_the_recorded_command_certifies_the_same(runs, call, tmp_path):
    words = ("certify", runs / "plain", "--threat", "Linf(8/255)", "--radii", "2/255,8/255", "--num", "9")
    code, out, _ = call(*words, "--out", tmp_path / "c")
    recorded = shlex.split(json.loads((tmp_path / "c" / "env.json").read_text())["command"])
    assert code == 0
    assert call(*recorded[1:]) == (0, out, "")


def test_mistakes_are_told_before_a_training_and_its_time_is_its_own(runs, call, tmp_path, monkeypatch, capsys):
    code, _, err = call("harden", runs / "plain", "--threat", "Linf(0.02)", "--num", "0", "--out", tmp_path / "h")
    assert (code, "num is 0. Expected 1 image or more" in err) == (2, True)
    assert not (tmp_path / "h" / "trained").exists()
    monkeypatch.setattr("steelman.cli.hardened.train", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(pytest.fail.Exception):
        call("harden", runs / "plain", "--threat", "Linf(8)", "--num", "9", "--out", tmp_path / "far")
    assert capsys.readouterr().err.count("eps 8 is beyond the pixel range") == 1
    minutes = float(plan(runs / "plain", Linf(0.02), 10_000.0).words.rpartition("about ")[2].split()[0])
    assert minutes < 100  # thirty epochs of some dozen images


def test_a_number_of_radii_needs_a_limit(runs, refused):
    words = ("certify", runs / "plain", "--threat", "L2(inf)", "--radii", "3")
    assert "Expected 1 to 1000 up to a finite eps, or the radii themselves: --radii 0.5" in refused(*words)


def test_one_is_how_many_radii_and_that_is_said(runs, call):
    words = ("certify", runs / "plain", "--threat", "Linf(0.02)", "--num", "9", "--json", "--radii")
    code, out, err = call(*words, "1")
    assert (code, [point["eps"] for point in json.loads(out)["points"]]) == (0, [0.02])
    assert "--radii 1 is one radius, the threat's 0.02. For the radius 1 write --radii 1.0." in err
    out, err = call(*words, "1.0")[1:]
    assert ([point["eps"] for point in json.loads(out)["points"]], err) == ([1.0], "")


def test_the_recorded_command_of_a_spec_certifies_the_same_data(runs, call, tmp_path):
    x, y = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8), np.arange(40) % 3
    np.savez(tmp_path / "set.npz", images=x, labels=y)
    measurement = Measurement(PGD(), Linf(0.001), runs=(str(runs / "plain"),), data=Arrays(str(tmp_path / "set.npz")))
    asked = Certification(Interval(), measurement, (0.001,))
    code, out, _ = call("certify", repr(asked), "--out", tmp_path / "c")
    recorded = shlex.split(json.loads((tmp_path / "c" / "env.json").read_text())["command"])
    again = [word if word != str(tmp_path / "c") else str(tmp_path / "again") for word in recorded[1:]]
    assert code == 0
    assert call(*again)[1].replace("again", "c") == out
    assert "set.npz" in out


def test_what_smoothing_says_is_said_with_its_probability_and_its_limit(runs, call):
    words = ("certify", runs / "plain", "--certifier", "Smoothing(n=20, n0=5)", "--threat", "L2(0.9)", "--num", "2")
    out = call(*words)[1]
    assert "each image's certificate, from 20 draws, is true with probability 99.9 %" in out
    most = 0.25 * stats.norm.ppf(0.001 ** (1 / 20))  # all draws of one class
    assert f"20 draws of sigma 0.25 prove no more than {most:.3g} in L2 of any image, and L2(0.9) is not within" in out
    assert "no more than" not in call(*words[:5], f"L2({most / 2:.3f})", *words[6:])[1]


def test_a_damaged_plan_is_named(runs, refused, tmp_path):
    (tmp_path / "plan.json").write_text('{"asked": 1}')
    error = refused("harden", runs / "plain", "--threat", "Linf(0.02)", "--num", "9", "--out", tmp_path)
    assert "plan.json is damaged: no plan of a hardening" in error
