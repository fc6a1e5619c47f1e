"""The study's conclusions in words, each with the paired test that it rests on."""

from typing import Any

from steelman.runs import Run
from steelman.studies.transfer.measure import paired
from steelman.studies.transfer.plan import Arm, Plan, part_name
from steelman.wording import p_text, percent, share_text

LEVEL = 0.01  # of McNemar's p, below which a difference is said to be more than chance

Found = dict[str, list[dict[str, Any]]]  # by arm, one entry a seed


def headline(run: Run, plan: Plan, found: Found, guess: float) -> str:
    """Which copies hold more than base B beyond chance, under each one's own FGSM.

    `guess` is the share of right answers of who always names the commonest class.
    """
    if "base" in (idle := guessing(found, guess)):
        able = [name for name in found if name not in idle]
        return (
            f"Base B has learned nothing here ({_value(found, 'base', 'natural')}; a guess is right in "
            f"{percent(guess)}): compare {', '.join(able) if able else 'nothing'} with each other, not with it."
        )
    sure = _sure(run, plan, found)
    who = ", ".join(sure) if sure else "No copy of A's blocks"
    verb = "hold" if len(sure) > 1 else "holds"
    base = _value(found, "base", "fgsm")
    return f"{who} {verb} more than base B ({base}) under their own FGSM at eps {plan.threat.eps:g}, beyond chance."


def guessing(found: Found, guess: float) -> tuple[str, ...]:
    """The networks whose natural accuracy, first seed, is not above that of a guess beyond chance."""
    return tuple(name for name, seeds in found.items() if seeds[0]["natural"]["low"] <= guess)


def findings(run: Run, plan: Plan, found: Found, guess: float) -> tuple[str, ...]:
    """What can be said, and what cannot."""
    words: list[str] = []
    if names := guessing(found, guess):
        words.append(
            f"{', '.join(names)}: no better than a guess, {percent(guess)}. What an attack takes from a network "
            "that has learned nothing says nothing about robustness; more images or epochs are needed "
            "(--scale full)."
        )
    if plan.init == "pretrained":
        words.append(
            "Every network starts from A's weights, base B included, as in the original, where “random” layers were "
            "pretrained: AnB+ is one and the same start for every n, and base B is it as well."
        )
    for sign, said in (("", "and frozen"), ("+", "and trained on")):
        words += _ends(run, plan, found, sign, said)
    words += _against_base(run, plan, found)
    words += _best_depth(run, plan, found)
    words += _surrogate(plan, found)
    words += _controls(run, plan, found)
    words += _remedies(run, plan, found)
    return tuple(words)


def _ends(run: Run, plan: Plan, found: Found, sign: str, said: str) -> list[str]:
    """From the shallowest to the deepest copy: natural accuracy."""
    arms = [f"A{n}B{sign}" for n in plan.cuts if f"A{n}B{sign}" in found]
    if len(arms) < 2:
        return []
    p = _p_of(run, plan, arms[0], arms[-1], "natural")
    change = found[arms[-1]][0]["natural"]["value"] - found[arms[0]][0]["natural"]["value"]
    verdict = _verdict(p, "falls" if change < 0 else "rises", "does not change beyond chance")
    return [
        f"With A's blocks copied {said}, natural accuracy {verdict} from {arms[0]} {_value(found, arms[0], 'natural')} "
        f"to {arms[-1]} {_value(found, arms[-1], 'natural')} (same images, McNemar {p_text(p)})."
    ]


def _against_base(run: Run, plan: Plan, found: Found) -> list[str]:
    arms = [f"A{n}B+" for n in plan.cuts if f"A{n}B+" in found]
    said: list[str] = []
    for arm in arms[-1:]:
        for key, words in (("natural", "natural accuracy"), ("fgsm", "its own FGSM")):
            p = _p_of(run, plan, arm, "base", key)
            more = found[arm][0][key]["value"] > found["base"][0][key]["value"]
            verdict = _verdict(p, "better than" if more else "worse than", "not told apart from")
            said.append(
                f"{arm} is {verdict} base B in {words}: {_value(found, arm, key)} against "
                f"{_value(found, 'base', key)} (McNemar {p_text(p)})."
            )
    return said


def _best_depth(run: Run, plan: Plan, found: Found) -> list[str]:
    """Which number of copied blocks is best for AnB+, judged as the original did, and whether that means anything."""
    arms = [f"A{n}B+" for n in plan.cuts if f"A{n}B+" in found]
    if len(arms) < 2:
        return []
    ranked = sorted(arms, key=lambda arm: found[arm][0]["of_a"]["value"], reverse=True)
    best, rival = ranked[0], ranked[-1]
    one, other = (found[arm][0]["of_a"] for arm in (best, rival))
    error = ((one["value"] * (1 - one["value"]) + other["value"] * (1 - other["value"])) / one["n"]) ** 0.5
    pairs = len(arms) * (len(arms) - 1) // 2
    gap, p = one["value"] - other["value"], min(1.0, pairs * _p_of(run, plan, best, rival, "of_a"))
    in_errors = f", {gap / error:.1f} standard errors" if error else ""
    times = f"{pairs} times, the best and the worst being chosen" if pairs > 1 else "one pair"
    ends = "a difference beyond chance" if p < LEVEL else f"so “{best} is best” says nothing"
    words = (
        f"Of the AnB+, {best} keeps most images under FGSM of A, {share_text(one)}, and {rival} fewest, "
        f"{share_text(other)}: {100 * gap:.1f} points{in_errors} (McNemar {p_text(p)}, {times}), {ends}."
    )
    if type(plan.network).__name__ == "MobileNetV2":
        words += " The original's “16 blocks is best”, 26.13 against 25.83 %, is below one standard error (0.57 points)"
        words += " and is not supported."
    return [words]


def _surrogate(plan: Plan, found: Found) -> list[str]:
    """How much of the frozen trend under A's images is how well A stands in for the network."""
    arms = [f"A{n}B" for n in plan.cuts if f"A{n}B" in found]
    if len(arms) < 2:
        return []
    first, last = (found[arm][0] for arm in (arms[0], arms[-1]))
    gaps = [one["of_a"]["value"] - one["fgsm"]["value"] for one in (first, last)]
    return [
        f"FGSM of A flatters {arms[0]} by {100 * gaps[0]:.1f} points over its own FGSM and {arms[-1]} by "
        f"{100 * gaps[1]:.1f}: the more blocks a frozen network shares with A, the closer A's images come to a "
        "white-box attack, and a trend under A's images alone mixes this with robustness."
        if gaps[0] > gaps[1]
        else f"FGSM of A leaves {100 * gaps[0]:.1f} points more than its own FGSM on {arms[0]} and "
        f"{100 * gaps[1]:.1f} on {arms[-1]}."
    ]


def _controls(run: Run, plan: Plan, found: Found) -> list[str]:
    pairs = [(f"A{n}B", f"B{n}B") for n in plan.cuts if f"B{n}B" in found and f"A{n}B" in found]
    said: list[str] = []
    for a, b in pairs[-1:]:
        p = _p_of(run, plan, a, b, "natural")
        more = found[a][0]["natural"]["value"] > found[b][0]["natural"]["value"]
        verdict = _verdict(p, "better" if more else "worse", "not told apart")
        said.append(
            f"Frozen blocks of A against frozen blocks of base B: {a} {_value(found, a, 'natural')}, {b} "
            f"{_value(found, b, 'natural')}, {verdict} (McNemar {p_text(p)})."
        )
    return said


def _remedies(run: Run, plan: Plan, found: Found) -> list[str]:
    if "AFT" not in found:
        return []
    rest = [arm.name for arm in plan.arms if arm.name != "AFT"]
    rival = max(rest, key=lambda name: found[name][0]["pgd"]["value"])
    p = min(1.0, len(rest) * _p_of(run, plan, "AFT", rival, "pgd"))  # the best of so many
    more = found["AFT"][0]["pgd"]["value"] > found[rival][0]["pgd"]["value"]
    verdict = _verdict(p, "holds more than" if more else "holds fewer than", "is not told apart from")
    return [
        f"Under PGD, adversarial fine-tuning (AFT) {_value(found, 'AFT', 'pgd')} {verdict} the best of "
        f"{len(rest)} others, {rival} {_value(found, rival, 'pgd')} (McNemar {p_text(p)}, so many "
        f"counted); its natural accuracy is {_value(found, 'AFT', 'natural')}."
    ]


def _sure(run: Run, plan: Plan, found: Found) -> list[str]:
    """Arms that keep more images than base B under their own FGSM, beyond chance, so many being tried."""
    base, others = found["base"][0]["fgsm"]["value"], [name for name in found if name != "base"]
    return [
        name
        for name in others
        if found[name][0]["fgsm"]["value"] > base and len(others) * _p_of(run, plan, name, "base", "fgsm") < LEVEL
    ]


def _p_of(run: Run, plan: Plan, first: str, second: str, key: str) -> float:
    one, other = (part_name(Arm(name, "base", 0), plan.seeds[0]) for name in (first, second))
    return paired(run, one, other, key)


def _verdict(p: float, sure: str, unsure: str) -> str:
    return sure if p < LEVEL else unsure


def _value(found: Found, name: str, key: str) -> str:
    return share_text(found[name][0][key])
