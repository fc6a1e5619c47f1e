"""`steelman compare`: one table of attacks, sorted, with ties, failures and costs."""

import json
import math
import re
import shlex
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from steelman.attacks.bim import BIM
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.comparison import Comparison
from steelman.errors import RunError, UsageError
from steelman.evaluate import Outcome, strike
from steelman.measurement import Measurement
from steelman.page import Page
from steelman.threats import Linf
from steelman.train import load_run

LINF, NEAREST = ("--threat", "Linf(0.1)"), ("--threat", "L2(inf)")
PEER = "Foreign('torchattacks.FGSM()')"


@pytest.fixture
def peer(monkeypatch):
    """A torchattacks of one attack, FGSM."""

    class Step:
        def __init__(self, model, eps=0.03):
            self.model, self.eps = model, eps

        def __call__(self, x, y):
            x = x.clone().requires_grad_()
            nn.functional.cross_entropy(self.model(x), y).backward()
            return (x + self.eps * x.grad.sign()).clamp(0, 1).detach()

    module = ModuleType("torchattacks")
    module.FGSM = Step
    monkeypatch.setitem(sys.modules, "torchattacks", module)


def told(call, *words):
    code, out, err = call("compare", *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_within_a_limit_the_strongest_leaves_the_fewest(call, runs, peer):
    facts = told(call, runs / "plain", *LINF, "--attacks", "Noise()", "FGSM()", PEER, "PGD(steps=10)")
    rows = facts["attacks"]
    shares = [row["robust"]["value"] for row in rows]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert rows[-1]["attack"] == "Noise()"
    by_name = {row["attack"]: row for row in rows}
    ours, theirs = by_name["FGSM()"], by_name[PEER]
    for name in ("robust", "success", "rank", "tied", "forwards", "backwards", "rejected"):
        assert ours[name] == theirs[name]
    assert ours["tied"]
    assert (theirs["forwards"], theirs["backwards"]) == (2, 1)
    assert all(row["optimality"] is None and not row["error"] for row in rows)
    model, threat = load_run(runs / "plain").model, Linf(0.1)
    data = load_run(runs / "plain").training.data.splits(None).test
    alone = strike(model, data, PGD(steps=10), threat, generator=torch.Generator().manual_seed(0))
    assert by_name["PGD(steps=10)"]["robust"] == alone.robust.to_json()


def test_without_a_limit_they_are_sorted_by_optimality(call, runs):
    attacks = ("DDN(steps=3)", "Bisect()", "DDN(steps=30)", "FMN(steps=20)")
    facts = told(call, runs / "plain", *NEAREST, "--attacks", *attacks)
    values = [row["optimality"] for row in facts["attacks"]]
    assert values == sorted(values, reverse=True)
    assert facts["unlimited"]
    assert [row["rank"] for row in facts["attacks"]] == [1, 2, 3, 4]
    by_name = {row["attack"]: row for row in facts["attacks"]}
    assert by_name["DDN(steps=30)"]["optimality"] > by_name["DDN(steps=3)"]["optimality"]
    assert by_name["DDN(steps=30)"]["success"]["value"] == 1
    assert math.isfinite(by_name["DDN(steps=30)"]["median"])


def test_the_table_shows_rank_ties_costs_and_failures(call, runs, peer):
    words = ("--attacks", "FGSM()", PEER, "DDN()", "Foreign('torchattacks.FGSM(step=1)')", *LINF, "--num", "10")
    code, out, err = call("compare", runs / "plain", *words)
    assert (code, err) == (0, "")
    head, natural, columns, *rows = out.splitlines()
    assert natural.startswith("natural  ")
    assert natural.endswith("n = 10")
    assert head.startswith("plain within Linf(0.1), 10 images of Arrays(")
    assert columns.split() == ["rank", "attack", "robust", "forwards", "backwards", "seconds"]
    assert [row.split()[0] for row in rows[:2]] == ["1=", "1="]
    assert all("n = 10" in row for row in rows[:2])
    assert all("failed" in row for row in rows[2:4])
    assert rows[4].startswith("failed   DDN(): DDN() does not search in Linf, only in L2.")
    assert rows[5].startswith("failed   Foreign('torchattacks.FGSM(step=1)'): unknown field of FGSM 'step'.")


def test_without_a_limit_the_table_has_distances(call, runs):
    out = call("compare", runs / "plain", *NEAREST, "--attacks", "DDN(steps=20)", "Noise()", "--num", "9")[1]
    assert out.splitlines()[2].split() == [
        *("rank", "attack", "success", "median", "distance", "optimality"),
        *("forwards", "backwards", "seconds"),
    ]
    assert "1.000" in out.splitlines()[3]


def test_the_strongest_attacks_number_is_examined(call, runs):
    """A comparison of weak attacks says that none is strong: PGD leaves far fewer."""
    words = (runs / "plain", *LINF, "--attacks", "Noise(tries=1)", "Noise(tries=2)")
    checks = {check["name"]: check for check in told(call, *words)["trust"]}
    assert checks["attack strength"]["verdict"] == "fail"
    lines = call("compare", *words)[1].splitlines()
    assert "of the strongest attack, Noise(tries=2):" in lines
    assert next(line for line in lines if line.startswith("trust")).startswith("trust    fail: attack strength")


def test_a_bug_in_one_attack_does_not_stop_the_others(call, runs, monkeypatch):
    def fails(self, problem):
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr(BIM, "search", fails)
    facts = told(call, runs / "plain", *LINF, "--attacks", "BIM()", "FGSM()")
    assert [row["attack"] for row in facts["attacks"]] == ["FGSM()", "BIM()"]
    assert facts["attacks"][1]["error"].endswith("in fails, raised ZeroDivisionError: a bug of two lines")
    assert facts["attacks"][1]["rank"] == 0
    assert facts["attacks"][1]["robust"] is None


def test_when_no_attack_is_for_the_threat_it_is_wrong_use(call, runs):
    code, out, err = call("compare", runs / "plain", *LINF, "--attacks", "DDN()")
    assert (code, out) == (2, "")
    assert err.startswith("steelman: no attack could be run. DDN(): DDN() does not search in Linf")


def test_when_every_attack_fails_it_says_why(call, runs, monkeypatch):
    monkeypatch.setattr(Noise, "search", lambda *_, **__: 1 / 0)
    code, out, err = call("compare", runs / "plain", *LINF, "--attacks", "DDN()", "Noise()")
    assert (code, out) == (1, "")
    assert err.startswith("steelman: no attack could be run. DDN(): DDN() does not search in Linf")


def test_a_stopped_comparison_goes_on_with_the_attacks_that_are_left(call, runs, tmp_path, monkeypatch):
    words = ("compare", runs / "plain", *LINF, "--attacks", "FGSM()", "PGD(steps=3)", "--out")
    whole = told(call, *words[1:], tmp_path / "whole")
    struck = []

    def once_only(model, data, attack, threat, **options):
        struck.append(repr(attack))
        if struck == ["FGSM()", "PGD(steps=3)"]:
            raise KeyboardInterrupt
        return strike(model, data, attack, threat, **options)

    monkeypatch.setattr("steelman.evaluate.strike", once_only)
    code, out, err = call(*words, tmp_path / "c")
    assert (code, out) == (130, "")
    assert "Run the same command again to go on: what was finished is kept" in err
    resumed = told(call, *words[1:], tmp_path / "c")
    assert struck == ["FGSM()", "PGD(steps=3)", "PGD(steps=3)"]
    for row in (*whole["attacks"], *resumed["attacks"]):
        row.pop("seconds")
    assert whole == resumed


def test_attacks_on_a_random_model_meet_the_same_draws(call, arrays, tmp_path, monkeypatch):
    """Right and wrong before the attacks are then the same images, without which they could not be compared."""
    (tmp_path / "noisy_nets_for_compare.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Noisy(nn.Module):\n"
        "    def __init__(self, size, classes):\n"
        "        super().__init__()\n"
        "        self.layer, self.own = nn.Linear(size, classes), torch.Generator()\n"
        "    def forward(self, x):\n"
        "        clean = self.layer(x.flatten(1))\n"
        "        return clean + 0.3 * torch.randn(clean.shape, generator=self.own)\n"
        "def make(shape, classes):\n"
        "    return Noisy(shape[0] * shape[1] * shape[2], classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("--model", "noisy_nets_for_compare:make", "--data", arrays, "--attacks", "DDN(steps=5)", "PGD(steps=3)")
    assert len(told(call, *words, *NEAREST, "--out", tmp_path / "n")["attacks"]) == 2
    assert len(told(call, *words[:-2], "FGSM()", "PGD(steps=3)", *LINF, "--out", tmp_path / "l")["attacks"]) == 2


def test_no_room_for_an_outcome_is_no_failure_of_its_attack(call, runs, tmp_path, monkeypatch):
    def full(*_):
        raise RunError("the disk is full.")

    monkeypatch.setattr(Outcome, "save", full)
    code, _, err = call("compare", runs / "plain", *LINF, "--attacks", "FGSM()", "PGD()", "--out", tmp_path / "c")
    assert (code, err) == (2, "steelman: the disk is full.\n")


def test_with_out_everything_is_kept_and_computed_once(call, runs, tmp_path, monkeypatch, peer):
    words = ("compare", runs / "plain", *NEAREST, "--attacks", "DDN(steps=5)", "Bisect()", PEER, "--num", "12")
    code, out, _ = call(*words, "--out", tmp_path / "c")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "c"))
    outcome = Outcome.load(tmp_path / "c" / "examples" / "outcome-1")  # of the second attack that was named
    page = Page.load(tmp_path / "c" / "results" / "page.json")
    (table,) = page.sections[0].items
    assert repr(outcome.attack) == table.rows[0][1]
    assert table.rows[-1][1] == PEER
    assert any("FGSM searches in Linf" in one for one in page.findings)
    (figure,) = page.sections[1].items
    series = {one.label: one for one in figure.panels[0].series}
    assert list(series) == [table.rows[0][1], table.rows[1][1], "all together"]
    assert all(list(one.y) == sorted(one.y, reverse=True) for one in series.values())
    together = zip(*(series[name].y for name in series), strict=True)
    assert all(last <= min(others) for *others, last in together)
    assert page.rerun.startswith("steelman compare ")
    assert call("report", tmp_path / "c")[0] == 0
    assert "<svg" in (tmp_path / "c" / "report.html").read_text()
    first = json.loads((tmp_path / "c" / "results" / "comparison.json").read_text())

    def failed_only(model, data, attack, threat, **options):
        assert repr(attack) == PEER, "computed twice"
        return strike(model, data, attack, threat, **options)

    monkeypatch.setattr("steelman.evaluate.strike", failed_only)
    assert told(call, *words[1:], "--out", tmp_path / "c") == first


def test_the_command_on_the_page_does_it_again(call, runs, tmp_path):
    words = ("compare", runs / "plain", *LINF, "--attacks", "FGSM()", "PGD(steps=3)", "--seed", "3", "--split", "val")
    assert call(*words, "--out", tmp_path / "c")[0] == 0
    command = shlex.split(Page.load(tmp_path / "c" / "results" / "page.json").rerun)
    again = [word if word != str(tmp_path / "c") else str(tmp_path / "again") for word in command[1:]]
    assert call(*again)[0] == 0
    first, second = (
        json.loads((tmp_path / name / "results" / "comparison.json").read_text()) for name in ("c", "again")
    )
    for one in (*first["attacks"], *second["attacks"]):
        one.pop("seconds")
    assert first == second
    assert first["split"] == "val"


def test_a_model_from_a_file_is_compared_alike(call, runs, arrays):
    weights = runs / "plain" / "weights.safetensors"
    model = ("--model", "Linear1(width=16)", "--weights", weights, "--data", arrays)
    file = told(call, *model, *LINF, "--attacks", "FGSM()", "PGD(steps=3)")
    run = told(call, runs / "plain", *LINF, "--attacks", "FGSM()", "PGD(steps=3)")
    assert [row["robust"] for row in file["attacks"]] == [row["robust"] for row in run["attacks"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attacks", "FGSM()"), "no threat was given"),
        ((*LINF,), "--attacks names none. Expected one or more"),
        ((*LINF, "--attacks", "FGSN()"), "unknown attack 'FGSN'. Did you mean FGSM?"),
        ((*LINF, "--attacks", "FGSM()", "Foreign('foolbox.Bob()')"), "unknown attack of foolbox 'Bob'"),
        ((*LINF, "--attacks", "FGSM()", "FGSM()"), "FGSM() was given twice. Name each attack once."),
    ],
)
def test_wrong_use_is_said_in_one_line(refused, runs, words, said):
    assert said in refused("compare", runs / "plain", *words)


def test_attacks_are_compared_on_one_model(refused, runs, arrays):
    weights = runs / "plain" / "weights.safetensors"
    model = ("--model", "Linear1(width=16)", "--weights", weights, "--data", arrays)
    said = refused("compare", runs / "plain", *model, *LINF, "--attacks", "FGSM()")
    assert "2 models were given (" in said
    assert "no model was given" in refused("compare", *LINF, "--attacks", "FGSM()")
    with pytest.raises(UsageError, match=r"no attacks were given\. Say which with --attacks"):
        Comparison((), Measurement(PGD(), Linf(0.1), runs=("a",)))


def test_what_failed_is_tried_again(call, runs, tmp_path, peer):
    """A library that was not there may be there now; what was done is not done again."""
    kept = sys.modules.pop("torchattacks")
    sys.modules["torchattacks"] = None
    words = (runs / "plain", *LINF, "--attacks", "FGSM()", PEER, "--out", tmp_path / "out")
    first = told(call, *words)
    assert [bool(row["error"]) for row in first["attacks"]] == [False, True]
    sys.modules["torchattacks"] = kept
    again = told(call, *words)
    assert not any(row["error"] for row in again["attacks"])
    page = Page.load(tmp_path / "out" / "results" / "page.json")
    titles = [section.title for section in page.sections]  # within a limit distances say nothing
    assert titles == ["Result", "Can the strongest attack's number be trusted?"]


def test_where_no_image_is_right_nothing_is_told(call, tmp_path):
    from safetensors.torch import save_file

    from steelman.models.linear import Linear1

    model = Linear1()((1, 28, 28), 10, torch.Generator().manual_seed(0))
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    weights[next(name for name in weights if name.endswith("bias") and len(weights[name]) == 10)][3] = 1.0
    save_file(weights, tmp_path / "bad.safetensors")
    given = ("--model", "Linear1", "--weights", tmp_path / "bad.safetensors", "--data", "digits", "--num", "1")
    code, out, err = call("compare", *given, *NEAREST, "--attacks", "DDN(steps=2)", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "none, n = 0" in out


def test_a_peers_images_outside_the_threat_are_told(call, runs, peer, tmp_path):
    """Of a search for the nearest success they are no news."""
    far = "Foreign('torchattacks.FGSM(eps=0.3)')"
    told(call, runs / "plain", *LINF, "--attacks", far, "FMN(steps=10)", "--out", tmp_path / "out")
    findings = Page.load(tmp_path / "out" / "results" / "page.json").findings
    outside = [finding for finding in findings if "candidates outside" in finding]
    assert len(outside) == 1
    assert outside[0].startswith(f"{far} showed ")
    assert outside[0].endswith(" candidates outside Linf(0.1): none was counted.")


def test_the_text_of_a_spec_does_it_again(call, refused, runs, tmp_path):
    words = (runs / "plain", *LINF, "--attacks", "FGSM()", "--num", "12", "--seed", "3")
    facts = told(call, *words, "--out", tmp_path / "out")
    spec = (tmp_path / "out" / "spec.txt").read_text()
    again = told(call, spec)
    assert again["attacks"][0]["robust"] == facts["attacks"][0]["robust"]
    assert again["n"] == 12
    assert "the comparison says everything, and --threat was given beside it" in refused("compare", spec, *LINF)


def test_a_comparison_of_before_gets_its_trust_without_another_attack(call, runs, tmp_path, monkeypatch):
    words = (runs / "plain", *LINF, "--attacks", "FGSM()", "PGD(steps=3)", "--out", tmp_path / "out")
    facts = told(call, *words)
    path = tmp_path / "out" / "results" / "comparison.json"
    path.write_text(json.dumps({name: value for name, value in facts.items() if name != "trust"}))
    monkeypatch.setattr("steelman.evaluate.strike", None)  # of the attacks; the probes have their own
    again = told(call, *words)
    assert again["trust"] == facts["trust"]
    assert again["attacks"] == facts["attacks"]


def test_a_models_own_error_is_told_with_its_place(call, arrays, tmp_path, monkeypatch):
    (tmp_path / "shy_model.py").write_text(SHY)
    monkeypatch.chdir(tmp_path)
    words = ("compare", "--model", "shy_model:make", "--data", arrays, *LINF, "--attacks", "Noise()", "FGSM()")
    code, out, _ = call(*words)
    assert code == 0
    assert "fail: probes – The checks that ask the model again failed: " in out
    assert re.search(r"failed   FGSM\(\): \S*shy_model\.py:7, in forward, raised KeyError: 'no gradients'", out)


SHY = """
from torch import nn
class Shy(nn.Module):
    def __init__(self):
        super().__init__(); self.linear = nn.Linear(64, 3)
    def forward(self, x):
        if x.requires_grad: raise KeyError("no gradients")
        return self.linear(x.flatten(1))
def make():
    return Shy()
"""
