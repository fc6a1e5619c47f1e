"""Text to value and back; text is data and never evaluated."""

import dataclasses
import math
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelman import spec
from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.strongest import Strongest
from steelman.errors import SpecError, UsageError
from steelman.spec import Spec, catalogue, parse
from steelman.threats import L2, Linf

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


# ---- the way back


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("PGD", PGD()),
        ("PGD()", PGD()),
        ("pgd(steps=100, loss='margin')", PGD(steps=100, loss="margin")),
        ('PGD(20, 0.1, 3, False, "dlr")', PGD(20, 0.1, 3, False, "dlr")),
        ("PGD(step_size=None)", PGD()),
        ("  FGSM ( random_start = True )  ", FGSM(random_start=True)),
        ("Strongest((FGSM, PGD(steps=5)))", Strongest((FGSM(), PGD(steps=5)))),
        ("Strongest(members=[FGSM(), Noise(3)])", Strongest((FGSM(), Noise(3)))),
        ("strongest((STRONGEST((fgsm,)),))", Strongest((Strongest((FGSM(),)),))),
    ],
)
def test_text_names_an_attack(text, value):
    assert parse(text, "attack") == value
    assert parse(repr(value), "attack") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Linf(0.3)", Linf(0.3)),
        ("linf(eps=8/255)", Linf(8 / 255)),
        ("Linf(-8/-255)", Linf(8 / 255)),
        ("Linf(.5/2/2)", Linf(0.125)),
        ("Linf(1)", Linf(1.0)),
        ("L2(inf)", L2(math.inf)),
        ("L2(1e400)", L2(math.inf)),
        ("L2(1.5, clip=False)", L2(1.5, clip=False)),
    ],
)
def test_text_names_a_threat(text, value):
    assert parse(text, "threat") == value


def test_without_a_kind_every_name_is_known(monkeypatch):
    monkeypatch.setattr(spec, "KINDS", {kind: spec.KINDS[kind] for kind in ("attack", "threat")})
    assert parse("Linf(0.1)") == Linf(0.1)
    assert parse("FGSM") == FGSM()
    with pytest.raises(SpecError, match=r"unknown name 'Lint'\. Did you mean Linf\? Possible: APGD, .*Linf"):
        parse("Lint(0.1)")


@QUICK
@given(eps=st.floats(0, allow_nan=False), clip=st.booleans())
def test_any_radius_comes_back_as_the_very_same_float(eps, clip):
    assert parse(repr(Linf(eps, clip)), "threat") == Linf(eps, clip)
    assert len(repr(Linf(eps))) <= len(f"Linf({eps!r})")


@QUICK
@given(levels=st.integers(1, 255))
def test_levels_of_255_are_written_as_such_where_that_is_shorter(levels):
    threat = Linf(levels / 255)
    assert repr(threat) == min(f"Linf({levels}/255)", f"Linf({levels / 255!r})", key=len)
    assert parse(repr(threat), "threat") == threat


@QUICK
@given(
    steps=st.integers(1, 10**6),
    size=st.none() | st.floats(0, exclude_min=True, allow_infinity=True),
    start=st.booleans(),
    loss=st.sampled_from(["cross_entropy", "margin", "dlr"]),
)
def test_any_attack_comes_back(steps, size, start, loss):
    attack = Strongest((PGD(steps=steps, step_size=size, random_start=start, loss=loss), FGSM(loss=loss)))
    assert parse(repr(attack), "attack") == attack


# ---- names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (PGD(), "PGD()"),
        (PGD(steps=100), "PGD(steps=100)"),
        (PGD(steps=40), "PGD()"),
        (Linf(0.3), "Linf(0.3)"),
        (Linf(8 / 255), "Linf(8/255)"),
        (L2(1.5, clip=False), "L2(1.5, clip=False)"),
        (L2(math.inf), "L2(inf)"),
        (L2(1234567.0), "L2(1234567.0)"),
        (L2(1.5e306), "L2(1.5e+306)"),
        (Strongest((FGSM(),)), "Strongest((FGSM(),))"),
        (Strongest((FGSM(random_start=True, step_size=1.25), PGD())),
         "Strongest((FGSM(random_start=True, step_size=1.25), PGD()))"),
    ],
)  # fmt: skip
def test_a_value_prints_as_its_constructor_call(value, text):
    assert repr(value) == str(value) == f"{value}" == text


def test_equal_values_print_equally():
    assert repr(PGD(step_size=1 / 4)) == repr(PGD(step_size=0.25))
    assert repr(parse("FGSM(step_size=1)", "attack")) == repr(FGSM(step_size=1.0)) == "FGSM()"
    assert {FGSM(): "same"}[parse("FGSM(step_size=1)", "attack")] == "same"


def test_whole_numbers_given_for_floats_become_floats():
    @dataclasses.dataclass(frozen=True, repr=False)
    class Example(Spec):
        size: float
        count: int = 1
        perhaps: float | None = None

    example = Example(1, 2, 3)
    assert [type(field) for field in (example.size, example.count, example.perhaps)] == [float, int, float]
    assert repr(example) == "Example(1.0, count=2, perhaps=3.0)"


def test_true_and_one_are_not_the_same_name():
    @dataclasses.dataclass(frozen=True, repr=False)
    class Example(Spec):
        count: int | bool = 1

    assert repr(Example(True)) == "Example(count=True)"
    assert repr(Example()) == "Example()"


def test_a_value_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGD().steps = 3  # type: ignore[misc]


# ---- the catalogue


def test_the_catalogue_holds_final_classes_sorted():
    names = list(catalogue("attack"))
    assert {"FGSM", "Noise", "PGD", "Strongest"} <= set(names)
    assert names == sorted(names, key=str.lower)
    assert catalogue("attack")["PGD"] is PGD
    assert "Attack" not in names
    assert set(catalogue("threat")) >= {"Linf", "L2"}
    assert not {"Ball", "Threat"} & set(catalogue("threat"))


def test_two_of_one_name_are_an_error(monkeypatch):
    twin = dataclasses.make_dataclass("fgsm", [], bases=(Spec,), frozen=True, repr=False)
    monkeypatch.setattr(spec, "_finals", lambda base: [FGSM, twin])
    with pytest.raises(SpecError, match=r"two of kind attack are named fgsm: in steelman\.attacks\.fgsm and .*Rename"):
        catalogue("attack")


# ---- what is refused, in one line


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("PDG", "attack", r"unknown attack 'PDG'\. Did you mean PGD\? Possible: APGD, .*VMIFGSM"),
        ("Linf(0.3)", "attack", r"unknown attack 'Linf'"),
        ("PGD(step=3)", "attack", r"unknown field of PGD 'step'\. Did you mean steps\? Possible: loss, random_start"),
        ("PGD(**{'steps': 3})", "attack", r"unknown field of PGD '\*\*'"),
        ("PGD(40, steps=40)", "attack", r"PGD was given steps twice"),
        ("FGSM('margin', True, 1.0, 4)", "attack", r"FGSM takes at most 3 values, 4 were given"),
        ("Linf", "threat", r"Linf needs eps: write Linf\(eps=\.\.\.\)"),
        ("PGD(steps=2.5)", "attack", r"PGD\.steps is 2\.5\. Expected a whole number"),
        ("PGD(steps=True)", "attack", r"PGD\.steps is True\. Expected a whole number"),
        ("PGD(steps='3')", "attack", r"PGD\.steps is '3'\. Expected a whole number"),
        ("PGD(steps=None)", "attack", r"PGD\.steps is None\. Expected a whole number"),
        ("PGD(step_size='x')", "attack", r"PGD\.step_size is 'x'\. Expected a number such as 0\.3 or 8/255 or None"),
        ("PGD(random_start=1)", "attack", r"PGD\.random_start is 1\. Expected True or False"),
        ("PGD(loss='hinge')", "attack", r"PGD\.loss is 'hinge'\. Expected one of 'cross_entropy', 'margin', 'dlr'"),
        ("PGD(loss=margin)", "attack", r"PGD\.loss is margin\. Expected one of 'cross_entropy'"),
        ("PGD(step_size=1/0)", "attack", r"PGD\.step_size is 1 / 0: a division by zero\. Expected a number such as"),
        ("PGD(step_size=True/2)", "attack", r"PGD\.step_size is True\. Expected a number"),
        ("PGD(step_size=-'a')", "attack", r"PGD\.step_size is 'a'\. Expected a number"),
        ("Strongest(FGSM())", "attack", r"Strongest\.members is FGSM\(\)\. Expected a tuple such as \(one of APGD"),
        ("Strongest(('FGSM',))", "attack", r"Strongest\.members is 'FGSM'\. Expected one of APGD, .*FGSM, .*Noise"),
        ("Strongest((Linf(0.3),))", "attack", r"unknown attack 'Linf'"),
        ("Linf((0.3,))", "threat", r"Linf\.eps is \(0\.3,\)\. Expected a number"),
        ("Linf(Linf(0.3))", "threat", r"Linf\.eps is Linf\(0\.3\)\. Expected a number"),
        ("attacks.PGD()", "attack", r"'attacks\.PGD\(\)' is not a plain name"),
        ("PGD()()", "attack", r"'PGD\(\)\(\)' is not a plain name"),
        ("", None, r"cannot read '' as a spec\. Expected a name or a call such as PGD\(steps=40\)"),
        ("PGD(", None, r"cannot read 'PGD\(' as a spec"),
        ("PGD;FGSM", None, r"cannot read 'PGD;FGSM' as a spec"),
        ("PGD(\x00)", None, r"cannot read 'PGD\(\\x00\)' as a spec"),
        ("3", None, r"'3' names nothing"),
        ("PGD() or FGSM()", None, r"names nothing"),
        ("(PGD(), FGSM())", None, r"names nothing"),
    ],
)
def test_what_does_not_fit_is_named_with_what_does(text, kind, words):
    with pytest.raises(SpecError, match=words) as caught:
        parse(text, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "2 * 0.1", "0.1 + 0.2", "2 ** 3", "1 if True else 0", "[0.1][0]", "(lambda: 0.1)()", "open('x')", "f'{1}'",
        "__import__('os')", "{'a': 1}", "{1}", "b'1'", "1j", "...", "0.1 .real", "not True", "~1", "+1", "(x := 0.1)",
        "[x for x in (1,)]", "*(0.1,)", "1 < 2", "1 and 2", "exec('1')", "8 // 255", "8 % 255",
    ],
)  # fmt: skip
def test_text_is_never_evaluated(expression):
    with pytest.raises(SpecError):
        parse(f"Linf({expression})", "threat")


def test_numbers_beyond_all_floats_and_endless_nesting_are_refused():
    for text in (f"Linf({'9' * 400})", f"Linf({'9' * 400}/3)", f"Linf({'-' * 900}1)"):
        with pytest.raises(SpecError, match="cannot read"):
            parse(text, "threat")
    with pytest.raises(SpecError):
        parse("Strongest((" * 5000 + "))" * 5000, "attack")


def test_a_negative_radius_is_read_and_then_refused_by_the_threat():
    with pytest.raises(UsageError, match=r"Linf: eps is -0\.3"):
        parse("Linf(-0.3)", "threat")
    with pytest.raises(UsageError, match=r"Linf: eps is nan"):
        parse("Linf(nan)", "threat")
    with pytest.raises(UsageError, match=r"L2: eps is -inf"):
        parse("L2(-inf)", "threat")


def test_annotations_of_every_sort_are_compared(monkeypatch):
    @dataclasses.dataclass(frozen=True, repr=False)
    class Wide(Spec):
        any: object = None
        words: tuple[str, ...] = ()
        either: Literal["a", 1] = "a"
        attack: Attack | None = None

    monkeypatch.setattr(spec, "catalogue", lambda kind: {"attack": {"PGD": PGD, "Wide": Wide}}.get(kind, {}))
    wide = parse("Wide(any='x', words=('p', 'q'), either=1, attack=PGD(steps=2))", "attack")
    assert wide == Wide("x", ("p", "q"), 1, PGD(steps=2))
    assert parse(repr(wide), "attack") == wide
    assert parse("Wide(attack=None)", "attack") == Wide()
    for text, words in [
        ("Wide(either=2)", r"Wide\.either is 2\. Expected one of 'a', 1"),
        ("Wide(words=(1,))", r"Wide\.words is 1\. Expected a quoted text"),
        ("Wide(words='p')", r"Wide\.words is 'p'\. Expected a tuple such as \(a quoted text, \.\.\.\)"),
        ("Wide(attack=3)", r"Wide\.attack is 3\. Expected one of PGD, Wide or None"),
    ]:
        with pytest.raises(SpecError, match=words):
            parse(text, "attack")
