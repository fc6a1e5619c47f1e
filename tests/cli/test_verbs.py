"""What the verbs print and keep, read back independently."""

import json
import shlex

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from steelman.attacks.pgd import PGD
from steelman.evaluate import Outcome, strike
from steelman.page import Page
from steelman.runs import Run
from steelman.train import load_run
from steelman.trust import examine

LINF = ("--threat", "Linf(0.2)")


def told(call, *words):
    """The one JSON value on stdout."""
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def interval(share):
    """Clopper and Pearson's, by scipy."""
    hits = round(share["value"] * share["n"])
    return stats.binomtest(hits, share["n"]).proportion_ci(0.95, "exact")


# train


def test_train_prints_the_natural_share_and_the_run_last(call, arrays, tmp_path):
    words = ("train", "Linear1(width=4)", "--data", arrays, "--epochs", "2", "--out", tmp_path / "r")
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("natural  ")
    assert "n = 18" in lines[0]
    assert lines[-1] == str(tmp_path / "r")
    again = told(call, *words)
    saved = load_file(tmp_path / "r/examples/natural.safetensors")
    assert again["natural"]["value"] * 18 == pytest.approx(int((saved["predicted"] == saved["label"]).sum()))
    assert (again["natural"]["low"], again["natural"]["high"]) == pytest.approx(tuple(interval(again["natural"])))
    assert again["epochs"] == 2


def test_train_again_from_a_spec_gives_the_same_weights(call, runs, tmp_path):
    spec = (runs / "plain" / "spec.txt").read_text()
    assert call("train", spec, "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "spec.txt").read_text() == spec
    first, second = (load_file(path / "weights.safetensors") for path in (runs / "plain", tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_train_changes_what_is_given_and_nothing_else(call, arrays, tmp_path, runs):
    options = ("--recipe", "Recipe(lr=0.02, epochs=9)", "--epochs", "2", "--batch-size", "16", "--optimizer", "sgd")
    options += ("--objective", "Adversarial(FGSM(), Linf(0.1))", "--start", runs / "plain", "--seed", "3")
    words = ("train", "Linear1(width=16)", "--data", arrays, *options, "--out", tmp_path / "r")
    training = load_run(Run(tmp_path / "r").path).training if call(*words)[0] == 0 else None
    assert repr(training.recipe) == (
        "Recipe(objective=Adversarial(FGSM(), Linf(0.1)), optimizer='sgd', lr=0.02, epochs=2, batch_size=16)"
    )
    assert training.seed == 3
    assert training.start == str(runs / "plain")


def test_train_changes_a_whole_training(call, runs, tmp_path):
    spec = (runs / "plain" / "spec.txt").read_text()
    assert call("train", spec, "--epochs", "1", "--seed", "7", "--out", tmp_path / "r")[0] == 0
    before, after = load_run(runs / "plain").training, load_run(tmp_path / "r").training
    assert (after.seed, after.recipe.epochs, after.recipe.lr) == (7, 1, before.recipe.lr)
    assert after.data == before.data


def test_train_defaults_to_digits_in_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("train", "Linear1(width=4)", "--epochs", "1")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("linear1-digits-")
    assert (run / "spec.txt").read_text() == "Training(Linear1(width=4), Digits(), recipe=Recipe(epochs=1))\n"


# attack


def test_attack_saves_what_it_prints(call, runs, tmp_path):
    facts = told(call, "attack", runs / "plain", "PGD(steps=10)", *LINF, "--save", tmp_path / "sets" / "pgd")
    outcome = Outcome.load(tmp_path / "sets" / "pgd")
    model, x = load_run(runs / "plain").model, outcome.x_adv
    with torch.no_grad():
        held = (model(x).argmax(1) == outcome.y) & outcome.right
    assert facts["robust"]["value"] * facts["n"] == pytest.approx(int(held.sum()))
    assert facts["robust"]["value"] < facts["natural"]["value"]
    assert (facts["robust"]["low"], facts["robust"]["high"]) == pytest.approx(tuple(interval(facts["robust"])))
    assert outcome.attack == PGD(steps=10)
    assert facts["saved"] == f"{tmp_path / 'sets' / 'pgd'}.safetensors"
    assert {"name", "verdict", "value", "words", "remedy"} == set(facts["trust"][0])
    assert "gradients against scores" in [check["name"] for check in facts["trust"]]


def test_attack_prints_shares_trust_and_where_it_saved(call, runs, tmp_path):
    words = ("attack", runs / "plain", "FGSM()", "--threat", "Linf(0.1)", "--save", tmp_path / "set.safetensors")
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    natural, robust, *rest = out.splitlines()
    assert natural.startswith("natural ")
    assert robust.startswith("robust  ")
    assert robust.endswith("under FGSM() within Linf(0.1)")
    assert natural.index("%") == robust.index("%")
    assert rest[0].startswith("trust    ")
    assert "label leaking" in out
    assert rest[-1] == f"saved    {tmp_path / 'set'}.safetensors"
    assert (tmp_path / "set.json").exists()


def test_attack_takes_reliable_where_none_is_given_and_the_model_from_a_file(call, runs, arrays):
    run = told(call, "attack", runs / "plain", *LINF)
    weights = runs / "plain" / "weights.safetensors"
    model = ("--model", "Linear1(width=16)", "--weights", weights, "--data", arrays)
    file = told(call, "attack", "Reliable()", *model, *LINF)
    assert run["attack"] == file["attack"] == "Reliable()"
    assert run["robust"] == file["robust"]
    assert (run["model"], file["model"]) == ("plain", "Linear1(width=16) of weights.safetensors")


def test_a_targeted_attack_leaves_the_target_s_own_images_out(call, runs, arrays, tmp_path):
    labels = load_file(runs / "plain/examples/natural.safetensors")["label"]
    facts = told(call, "attack", runs / "plain", *LINF, "--target", "1", "--save", tmp_path / "set")
    assert facts["n"] == int((labels != 1).sum())
    outcome = Outcome.load(tmp_path / "set")
    assert (outcome.after[outcome.broken] == 1).all()
    assert outcome.broken.any()
    out = call("attack", runs / "plain", *LINF, "--target", "1")[1]
    assert "aimed at class 1" in out
    assert f"note     left out {int((labels == 1).sum())} images of the target class itself" in out


def test_a_target_is_chosen_for_every_image(call, runs, tmp_path):
    for kind, words in (("least-likely", "the least likely class"), ("random", "a random other class")):
        path = tmp_path / kind
        facts = told(call, "attack", runs / "plain", *LINF, "--target", kind, "--save", path)
        outcome = Outcome.load(path)
        assert (facts["target"], facts["n"]) == (kind, 18)
        assert (outcome.target != outcome.y).all()
        assert torch.equal(outcome.broken, outcome.right & (outcome.after == outcome.target))
        assert f"aimed at {words}" in call("attack", runs / "plain", *LINF, "--target", kind)[1]
    facts = told(call, "evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--target", "next")
    assert facts["target"] == "next"


# export


def test_exported_images_are_those_that_were_attacked(call, runs, arrays, tmp_path):
    words = ("attack", runs / "plain", "FGSM()", *LINF, "--save", tmp_path / "set", "--export", tmp_path / "set.npz")
    facts = told(call, *words)
    assert facts["exported"] == str(tmp_path / "set.npz")
    arrays, outcome = np.load(tmp_path / "set.npz"), Outcome.load(tmp_path / "set")
    assert np.array_equal(arrays["x_adv"], outcome.x_adv.numpy())
    assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 0.2 + 1e-6
    assert np.array_equal(arrays["broken"], outcome.broken.numpy())
    with torch.no_grad():
        guess = load_run(runs / "plain").model(torch.from_numpy(arrays["x"])).argmax(1)
    assert np.array_equal(arrays["before"], guess.numpy())


def test_pictures_that_lost_their_effect_are_warned_of(call, runs, tmp_path, monkeypatch):
    code, out, err = call("attack", runs / "plain", "FGSM()", *LINF, "--export", tmp_path / "fine")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"exported {tmp_path / 'fine'}"
    assert len(list((tmp_path / "fine").glob("*.png"))) == 18
    survive = Outcome.robust.fget

    def none_survives(self):
        self.survives.zero_()
        return survive(self)

    monkeypatch.setattr(Outcome, "robust", property(none_survives))
    code, out, err = call("attack", runs / "plain", "FGSM()", *LINF, "--export", tmp_path / "lost")
    assert code == 0
    assert err.startswith("steelman: warning: 100.0 % of the ")
    assert "broken images are not broken as 8-bit PNG: see the column survives of" in err
    assert err.count("\n") == 1


def test_a_factory_of_the_user_is_attacked(call, arrays, tmp_path, monkeypatch):
    (tmp_path / "my_nets_for_cli.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    facts = told(call, "evaluate", "--model", "my_nets_for_cli:make", "--data", arrays, *LINF)
    assert facts["model"] == "my_nets_for_cli:make"
    assert facts["n"] == 18


# evaluate


def test_evaluate_compares_models_on_the_same_images(call, runs, tmp_path):
    names = [runs / "plain", runs / "other"]
    facts = told(call, "evaluate", *names, *LINF, "--attack", "FGSM()", "--out", tmp_path / "e")
    assert [model["model"] for model in facts["models"]] == ["plain", "other"]
    held = [Outcome.load(tmp_path / "e" / "examples" / f"outcome-{index}") for index in range(2)]
    first, second = (outcome.right & ~outcome.broken for outcome in held)
    only = int((first & ~second).sum()), int((second & ~first).sum())
    paired = facts["models"][1]["paired"]
    assert (paired["only_first"], paired["only_second"]) == only
    expected = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert paired["p"] == pytest.approx(expected)
    assert "paired" not in facts["models"][0]
    for index, outcome in enumerate(held):
        assert facts["models"][index]["robust"] == json.loads(json.dumps(outcome.robust.to_json()))


def test_a_stopped_evaluation_goes_on_with_what_is_left(call, runs, tmp_path, monkeypatch):
    words = ("evaluate", runs / "plain", runs / "other", "--threat", "Linf(0.02)", "--attack", "PGD(steps=3)")
    words += ("--certifier", "BranchAndBound()", "--curve", "0.01,0.02", "--out")
    whole = told(call, *words, tmp_path / "whole")
    struck, examined = [], []

    def watched(*args, **options):
        struck.append(args[2])
        return strike(*args, **options)

    def stops_once(*args, **options):
        examined.append(args[2].attack)
        if len(examined) == 2:
            raise KeyboardInterrupt
        return examine(*args, **options)

    monkeypatch.setattr("steelman.evaluate.strike", watched)
    monkeypatch.setattr("steelman.measured.examine", stops_once)
    assert call(*words, tmp_path / "e")[0] == 130
    assert struck.count(PGD(steps=3)) == 2
    resumed = told(call, *words, tmp_path / "e")
    assert struck.count(PGD(steps=3)) == 2  # both attacks were done when it stopped
    for model in (*whole["models"], *resumed["models"]):
        model.pop("seconds")
    assert whole == resumed


def test_a_page_says_what_the_attack_aims_at(call, runs, tmp_path):
    words = ("evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--target", "next", "--out", tmp_path / "e")
    assert call(*words)[0] == 0
    page = Page.load(tmp_path / "e" / "results" / "page.json")
    aim = "aimed at the next class"
    assert aim in page.title
    assert page.question.startswith("How many images are right and not taken for the next class under FGSM()")
    assert page.facts["target"] == "the next class"
    (panel,) = page.sections[-2].items if page.sections[-1].title == "Images" else page.sections[-1].items
    assert aim in panel.subject


def test_the_commands_that_runs_record_name_where_data_lie(call, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = ("--data-root", arrays.parent)
    assert call("train", "Linear1(width=4)", "--data", arrays, "--epochs", "1", *root, "--out", "r")[0] == 0
    assert call("evaluate", "r", *LINF, "--attack", "FGSM()", *root, "--out", "e")[0] == 0
    for run in ("r", "e"):
        page = Page.load(tmp_path / run / "results" / "page.json")
        assert page.rerun == Run.existing(tmp_path / run).command
        words = shlex.split(page.rerun)
        assert words[words.index("--data-root") + 1] == str(arrays.parent)
        assert words[words.index("--out") + 1] == run


def test_evaluate_prints_a_row_a_model(call, runs):
    code, out, _ = call("evaluate", runs / "plain", runs / "other", *LINF, "--attack", "FGSM()", "--num", "7")
    head, columns, first, second = out.splitlines()
    assert code == 0
    assert head.startswith("FGSM() within Linf(0.2), 7 images of Arrays(")
    assert columns.split() == ["model", "natural", "robust", "p", "against", "the", "first", "trust"]
    assert (first.split()[0], second.split()[0]) == ("plain", "other")
    assert first.count("n = 7") == 2


def test_one_model_has_its_shares_at_the_top_level(call, runs):
    facts = told(call, "evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--split", "val")
    assert set(facts["natural"]) == {"value", "low", "high", "n"}
    assert (facts["split"], facts["n"]) == ("val", 18)
    assert "models" not in facts
    assert call("evaluate", runs / "plain", *LINF)[1].startswith("natural ")


def test_a_kept_evaluation_is_computed_once_and_again_from_its_spec(call, runs, tmp_path, monkeypatch):
    words = ("evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--out")
    code, out, _ = call(*words, tmp_path / "e")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "e"))
    spec = (tmp_path / "e" / "spec.txt").read_text()
    again = told(call, "evaluate", spec, "--out", tmp_path / "again")
    assert again["robust"]["n"] == 18
    monkeypatch.setattr("steelman.evaluate.strike", lambda *_, **__: pytest.fail("computed twice"))
    third = told(call, *words, tmp_path / "e")
    assert third["robust"] == again["robust"]


def test_models_whose_directories_have_one_name_keep_their_paths(call, runs, tmp_path):
    (tmp_path / "plain").symlink_to(runs / "other")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plain").mkdir()
    for file in (runs / "other").rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            target = tmp_path / "deep" / "plain" / file.relative_to(runs / "other")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    facts = told(call, "evaluate", runs / "plain", tmp_path / "deep" / "plain", *LINF, "--attack", "FGSM()")
    assert [model["model"] for model in facts["models"]] == [str(runs / "plain"), str(tmp_path / "deep" / "plain")]


def test_classes_are_matched_by_name_and_else_by_position(call, runs, arrays, tmp_path):
    content = np.load(arrays)
    order = np.array([2, 0, 1])  # the same images, classes numbered otherwise
    swapped = tmp_path / "swapped.npz"
    names = np.array(["0", "1", "2"])[np.argsort(order)]
    np.savez(swapped, images=content["images"], labels=order[content["labels"]], classes=names)
    first = told(call, "evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--split", "train")
    second = told(call, "evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--split", "train", "--data", swapped)
    assert first["natural"]["value"] > 0.9
    assert second["natural"]["value"] > 0.9
    strange = tmp_path / "strange.npz"
    np.savez(strange, images=content["images"], labels=content["labels"], classes=np.array(["a", "b", "c"]))
    third = told(call, "evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--split", "train", "--data", strange)
    assert third["natural"]["value"] > 0.9
    assert third["notes"] == ["classes are matched by position: a, b, c in the data, 0, 1, 2 in the model"]


def test_a_curve_of_two_models(call, runs, tmp_path):
    names, radii = (runs / "plain", runs / "other"), ("--curve", "3", "--nearest", "FMN(steps=10)")
    words = ("evaluate", *names, *LINF, "--attack", "PGD(steps=5)", *radii, "--out", tmp_path / "e")
    facts = told(call, *words)
    for index, model in enumerate(facts["models"]):
        found, rows = model["curve"], load_file(tmp_path / "e" / "examples" / f"curve-{index}.safetensors")
        values = [point["robust"]["value"] for point in found["points"]]
        assert [point["eps"] for point in found["points"]] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
        assert values == sorted(values, reverse=True)
        assert values[-1] <= model["robust"]["value"]
        held = rows["right"] & ~(rows["distance"] <= 0.2 + 1e-6)
        assert values[-1] * 18 == pytest.approx(int(held.sum()))
        assert found["points"][0]["robust"]["low"] == pytest.approx(interval(found["points"][0]["robust"])[0])
        assert found["attacks"][:2] == ["FMN(steps=10)", "PGD(steps=5)"]
    page = Page.load(tmp_path / "e" / "results" / "page.json")
    (section,) = (section for section in page.sections if section.title == "Over eps")
    lines, radii, table = section.items
    assert [one.label for one in lines.panels[0].series] == ["plain", "other"]
    assert lines.panels[0].series[0].x[0] == 0
    assert lines.panels[0].series[0].y[0] == facts["models"][0]["natural"]["value"]
    assert sum(radii.series[1].y) == pytest.approx(1)
    assert [row[0] for row in table.rows] == ["plain", "other"]
    assert call("report", tmp_path / "e")[0] == 0
    assert (tmp_path / "e" / "figures" / "curve.svg").stat().st_size > 1000
    assert "Over eps" in (tmp_path / "e" / "report.html").read_text()


def test_a_curve_is_printed_as_a_table(call, runs):
    words = ("evaluate", runs / "plain", *LINF, "--attack", "PGD(steps=5)", "--curve", "0.05,0.5")
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    at = lines.index("")
    assert lines[at + 1].startswith("curve    robust accuracy over eps: FMN(), checked by PGD(steps=5)")
    assert lines[at + 2].split() == ["eps", "plain"]
    assert [line.split()[0] for line in lines[at + 3 : at + 5]] == ["0.05", "0.5"]
    assert "n = 18" in lines[at + 3]
    assert any(line.startswith("median radius") for line in lines)
    assert lines[-1].startswith("cost     plain: ")
    assert "gradients" in lines[-1]


# report


def test_report_draws_the_page_of_an_evaluation_and_a_training(call, runs, tmp_path):
    assert call("evaluate", runs / "plain", *LINF, "--attack", "FGSM()", "--out", tmp_path / "e")[0] == 0
    for path in (tmp_path / "e", runs / "plain"):
        code, out, err = call("report", path)
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == str(path / "report.html")
        assert "<html" in (path / "report.html").read_text()
    page = Page.load(tmp_path / "e" / "results" / "page.json")
    assert "FGSM()" in page.question
    assert told(call, "report", runs / "plain") == {"report": str(runs / "plain" / "report.html"), "figures": []}


def test_report_makes_the_page_of_a_training_that_has_none(call, arrays, tmp_path):
    words = ("train", "Linear1(width=4)", "--data", arrays, "--epochs", "2", "--out", tmp_path / "r")
    assert call(*words)[0] == 0
    page = tmp_path / "r" / "results" / "page.json"
    before = page.read_text()
    page.unlink()
    assert call("report", tmp_path / "r")[0] == 0
    assert page.read_text() == before


def test_an_evaluation_without_a_broken_image_has_no_sheet(call, runs, tmp_path):
    words = ("--threat", "Linf(0)", "--attack", "FGSM()", "--out", tmp_path / "e")
    assert call("evaluate", runs / "plain", *words)[0] == 0
    page = Page.load(tmp_path / "e" / "results" / "page.json")
    assert "Images" not in [section.title for section in page.sections]


# study


def test_study_passes_everything_on_and_prints_the_report_last(call, tmp_path, monkeypatch):
    from steelman.studies.finetune import Finetune

    asked = []

    def run(self, out, root=None, progress=None, *, command=""):
        asked.append((self, out, root, command))
        (out / "results").mkdir(parents=True, exist_ok=True)
        Page("Title", "Question?", "It was broken.", ("First finding.",)).save(out / "results" / "page.json")

    monkeypatch.setattr(Finetune, "run", run)
    monkeypatch.chdir(tmp_path)
    options = ("--preset", "published", "--scale", "quick", "--seed", "4", "--data", "mnist", "--data-root", tmp_path)
    code, out, err = call("study", "finetune", *options)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["It was broken.", "- First finding.", "out/finetune/report.html"]
    value, where, root, command = asked[0]
    assert (value.preset, value.scale, value.seed, repr(value.data)) == ("published", "quick", 4, "MNIST()")
    assert (str(where), root) == ("out/finetune", tmp_path)
    assert command.startswith("steelman study ")
    facts = told(call, "study", repr(value), "--out", tmp_path / "s")
    assert asked[1][0] == value
    assert facts["report"] == str(tmp_path / "s" / "report.html")
    assert facts["headline"] == "It was broken."


# list


@pytest.mark.parametrize("what", ["attacks", "threats", "models", "data", "studies", "objectives"])
def test_lists_name_what_parse_knows(call, what):
    from steelman.cli.listing import KINDS
    from steelman.spec import catalogue

    found = told(call, "list", what)
    assert [one["name"] for one in found] == list(catalogue(KINDS[what]))
    code, out, _ = call("list", what)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [one["name"] for one in found]


def test_the_list_of_attacks_says_norm_needs_cost_and_paper(call):
    attacks = {one["name"]: one for one in told(call, "list", "attacks")}
    assert attacks["PGD"]["norms"] == ["Linf", "L2", "L1", "L0"]
    assert attacks["PGD"]["needs"] == "gradients"
    assert attacks["PGD"]["cost"].startswith("40 gradients")
    assert "1706.06083" in attacks["PGD"]["paper"]
    assert attacks["PGD"]["fields"]["steps"] == "40"
    assert attacks["Strongest"]["fields"]["members"] is None
    assert attacks["Noise"]["needs"] == "decisions"
