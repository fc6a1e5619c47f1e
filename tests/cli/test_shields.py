"""`evaluate` with a shield and with repaired gradients: both numbers, never the one alone."""

import json

from steelman.spec import parse

WORDS = ("--threat", "Linf(0.15)", "--attack", "PGD(steps=3)", "--num", "12")


def test_a_shield_is_reported_static_and_adaptive(call, runs, tmp_path):
    out = tmp_path / "out"
    options = (*WORDS, "--shield", "BitDepth(bits=2)", "--repair-gradients", "--out", out)
    code, text, _ = call("evaluate", runs / "plain", *options)
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "BitDepth(bits=2): the shares above are those of the defended model" in lines["shield"]
    assert "images made for the undefended model" in lines["static"]
    assert "PGD(steps=3) through the shield" in lines["adaptive"]
    assert "with finite surrogates" in lines["repaired"]
    code, text, _ = call("evaluate", runs / "plain", *options, "--json")
    facts = json.loads(text)
    shield = facts["shield"]
    assert shield["adaptive"] == facts["robust"]
    assert shield["natural"] == facts["natural"]
    assert shield["static"]["value"] >= shield["adaptive"]["value"]
    assert shield["static"]["n"] == facts["repaired"]["worst"]["n"] == 12
    assert any(check["name"] == "repaired gradients" for check in facts["trust"])
    page = json.loads((out / "results" / "page.json").read_text())
    (table,) = next(section["items"] for section in page["sections"] if section["title"] == "Beside it")
    assert [row[1].partition(":")[0] for row in table["rows"]][:3] == [
        "without the shield, same attack",
        "BitDepth(bits=2), static",
        "BitDepth(bits=2), adaptive",
    ]
    asked = parse((out / "spec.txt").read_text(), "measurement")
    assert (repr(asked.shield), asked.repair) == ("BitDepth(bits=2)", True)


def test_a_random_shield_has_its_accuracy_over_draws_and_two_models_a_line_each(call, runs):
    shield = "RandomisedSmoothing(sigma=0.2, votes=3)"
    code, text, _ = call("evaluate", runs / "plain", runs / "other", *WORDS, "--shield", shield)
    assert code == 0
    for name in ("plain", "other"):
        assert f"{shield} of {name}" in text
        assert f"natural of {name}: " in text
        assert "by vote of 21" in text
    code, _, err = call("evaluate", runs / "plain", *WORDS, "--shield", "JPG")
    assert code == 2
    assert "unknown shield 'JPG'" in err
