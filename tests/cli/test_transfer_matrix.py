"""`steelman transfer-matrix`: who breaks whom."""

import json

import pytest

from steelman.page import Matrix, Page
from steelman.spec import parse
from steelman.studies.transfer.matrix import craft

THREAT = ("--threat", "Linf(0.2)", "--num", "10")


def told(call, *words):
    code, out, err = call("transfer-matrix", *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_diagonal_is_white_box_and_a_page_is_kept(call, runs, tmp_path):
    words = (runs / "plain", runs / "other", *THREAT, "--attacks", "FGSM()", "--out", tmp_path / "m")
    facts = told(call, *words)
    (matrix,) = facts["matrices"]
    assert (matrix["rows"], matrix["columns"]) == (["no attack", "plain", "other"], ["plain", "other"])
    robust = [[cell["value"] for cell in row] for row in matrix["cells"]]
    assert {cell["n"] for row in matrix["cells"] for cell in row} == {10}
    assert all(robust[0][j] >= robust[i][j] for i in (1, 2) for j in (0, 1))
    evaluated = json.loads(call("attack", runs / "plain", "FGSM()", *THREAT, "--json")[1])
    assert robust[1][0] == evaluated["robust"]["value"]
    page = Page.load(tmp_path / "m" / "results" / "page.json")
    assert [type(item) for item in page.sections[0].items] == [Matrix]
    assert "FGSM() carries over best, from" in page.headline
    spec = (tmp_path / "m" / "spec.txt").read_text().strip()
    assert repr(parse(spec, "crossing")) == spec
    again = told(call, spec, "--out", tmp_path / "again")
    assert again["matrices"] == facts["matrices"]
    assert told(call, *words) == facts  # not computed again


def test_a_stopped_matrix_goes_on_with_the_sets_that_are_left(call, runs, tmp_path, monkeypatch):
    words = (runs / "plain", runs / "other", *THREAT, "--attacks", "FGSM()", "PGD(steps=2)", "--out")
    whole, made = told(call, *words, tmp_path / "whole"), []

    def stops(name, model, data, attack, threat, **options):
        made.append((name, repr(attack)))
        if len(made) == 3:
            raise KeyboardInterrupt
        return craft(name, model, data, attack, threat, **options)

    monkeypatch.setattr("steelman.crossing.craft", stops)
    assert call("transfer-matrix", *words, tmp_path / "m")[0] == 130
    assert told(call, *words, tmp_path / "m") == whole
    assert len(made) == 5
    assert made[2] == made[3] == ("other", "FGSM()")


def test_nothing_stands_beside_a_spec(call, refused, runs, tmp_path):
    words = (runs / "plain", runs / "other", *THREAT, "--attacks", "FGSM()", "--out", tmp_path / "m")
    told(call, *words)
    spec = (tmp_path / "m" / "spec.txt").read_text().strip()
    assert "--attacks was given beside it" in refused("transfer-matrix", spec, "--attacks", "PGD()")
    assert "--skip-bad was given beside it" in refused("transfer-matrix", spec, "--skip-bad")


def test_a_saved_set_is_judged(call, runs, tmp_path, refused):
    assert call("attack", runs / "plain", "FGSM()", *THREAT, "--save", tmp_path / "set")[0] == 0
    facts = told(call, runs / "other", *THREAT, "--sets", tmp_path / "set.safetensors")
    own = told(call, runs / "other", "--num", "10", "--sets", tmp_path / "set")  # within the threat of the set
    assert (own["threat"], own["matrices"]) == (facts["threat"], facts["matrices"])
    assert facts["matrices"][0]["rows"] == ["no attack", "set"]
    both = (runs / "plain", *THREAT, "--attacks", "FGSM()", "--sets", tmp_path / "set")
    assert call("attack", runs / "plain", "FGSM()", *THREAT, "--save", tmp_path / "plain")[0] == 0
    named = told(call, *both, tmp_path / "plain")["matrices"][0]  # a set that is called as the run is
    assert named["rows"] == ["no attack", "set", "plain (saved)", "plain"]
    words = (runs / "other", "--threat", "Linf(0.2)", "--num", "8", "--sets", tmp_path / "set")
    assert "the set set holds 10 other images than the 8" in refused("transfer-matrix", *words)


def test_a_set_that_aimed_at_one_class_is_of_other_images(call, runs, tmp_path, refused):
    words = ("attack", runs / "plain", "FGSM()", *THREAT, "--save", tmp_path / "set", "--target")
    assert call(*words, "1")[0] == 0
    said = refused("transfer-matrix", runs / "other", "--num", "10", "--sets", tmp_path / "set")
    assert "the set set aimed at one class and left that class's images out" in said
    assert call(*words, "next")[0] == 0
    facts = told(call, runs / "other", "--num", "10", "--sets", tmp_path / "set")
    assert all("struck anew" in panel["subject"] for panel in facts["trust"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sets", "nowhere"), "cannot read the outcome"),
        ((), "1 runs and 0 sets were given. Expected two runs or more"),
        (("other", "--attacks", "FGSM()", "FGSM()"), "an attack was given twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(refused, runs, words, expected):
    places = [runs / word if word == "other" else word for word in words]
    assert expected in refused("transfer-matrix", runs / "plain", *places, *THREAT)


def test_the_usual_attacks_are_those_of_the_norm_and_others_are_refused_before_anything(call, runs, tmp_path):
    words = (runs / "plain", runs / "other", "--threat", "L1(3)", "--num", "2")
    attacks = [item["caption"] for item in told(call, *words)["matrices"]]
    assert any("FGSM()" in one for one in attacks)
    assert not any("MIFGSM()" in one for one in attacks)
    code, _, err = call("transfer-matrix", *words, "--attacks", "FGSM()", "MIFGSM()", "--out", tmp_path / "m")
    assert code == 2
    assert "MIFGSM() does not search in L1" in err
    assert not (tmp_path / "m").exists()
