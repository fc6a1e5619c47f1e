"""The page's sections about saturation, the distribution of resistances, and "the classifier is wrong here"."""

from typing import Any

import numpy as np
import torch

from steelman.page import Cell, Item, Lines, Panel, Section, Series, Table
from steelman.studies.resistance.done import Done, Words
from steelman.studies.resistance.scores import auroc, risk_coverage, thinned
from steelman.studies.resistance.show_attacks import histogram
from steelman.studies.resistance.verdicts import DISTANCE, DISTANCE_LINF, LEVELS

DRAWN = (  # the scores whose risk is drawn
    ("Res_max", "published"),
    (DISTANCE, "other"),
    ("confidence, float32", "fgsm"),
    ("confidence, from logits", "natural"),
    ("ensemble", "pgd"),
)


def sections(done: Done, words: Words) -> tuple[Section, ...]:
    """Saturation, quantiles, wrong here."""
    saturation = (
        "Attack C fails where the softmax is exactly 1.0: the gradient is 0, or so small that no step is left of it; "
        "and where the confidence hangs between 0.9 and 0.2, where its loss pulls back to the image. "
        "Below are the images of “infinite resistance” and the others, then the same infinite ones under the same "
        "attack both ways and under a reference attack.",
    )
    resistances = (
        "Res_N is the norm after the last step of attack C, Res_max the largest norm, Res_min the first step of low "
        "confidence, infinite where the attack failed. The distance is the L2 norm of the nearest image of another "
        "class that DDN finds; in L-inf, FMN. Each is measured from the network's own prediction, right or wrong.",
    )
    wrong = (
        "Suspicion is low resistance, or little confidence. AUROC: the chance that a wrong image is more suspect than "
        "a right one, ties count half, with its 95 % interval; p compares it with that of Res_N. Area under "
        "risk: the mean error rate over all coverages. Errors: wrong verdicts at the best threshold in hindsight; "
        f"calling every image right costs {int(done.judged.wrong.sum())}. Equal: the share of images whose score is "
        "no score of their own. The ensemble is the mean softmax of the zoo.",
        *_norms(done),
    )
    return (
        Section(_head(done), saturation, tuple(_saturation(done))),
        Section("How far each image holds", resistances, (_quantiles(done, words), *_histograms(done))),
        Section("Is the classifier wrong here?", wrong, (_wrong(done, words), *_risks(done), *_conf2(words))),
    )


def _norms(done: Done) -> tuple[str, ...]:
    """Which norm of the distance val would choose."""
    by_norm = {name: auroc(done.val.suspicion(name), done.val.wrong) for name in (DISTANCE, DISTANCE_LINF)}
    l2, linf = (one["value"] if one else None for one in by_norm.values())
    if l2 is None or linf is None:
        return ()
    better = "L-inf" if linf > l2 else "L2"
    return (
        f"The distance's norm is a choice, to be made on val: AUROC {l2:.3f} in L2, {linf:.3f} in L-inf on "
        f"{len(done.val.wrong)} images, {int(done.val.wrong.sum())} of them wrong, so {better}.",
    )


def _head(done: Done) -> str:
    """The finding, where it is one: most images of infinite resistance begin with a confidence of exactly 1.0."""
    found = (done.saturation["sure_infinite"]["value"] or 0) > 0.5
    return "Infinite resistance is a saturated softmax" if found else "Infinite resistance: where attack C fails"


def _saturation(done: Done) -> list[Item]:
    facts = done.saturation
    names = {
        "sure": "confidence exactly 1.0 at the start",
        "dead": "gradient exactly 0 at the start",
        "pulled": "confidence below 0.9 at some step, where the norm pulls back",
        "stuck": "|r| below 0.001 at every step",
    }
    rows = tuple((words, facts[f"{key}_infinite"], facts[f"{key}_finite"]) for key, words in names.items())
    old = f" The original's attack failed on {done.reported.failed}." if done.reported else ""
    caption = f"Attack C on the softmax fails on {_share(facts['infinite'])}.{old}"
    items: list[Item] = [Table(caption, ("images", "of infinite resistance", "others"), rows)]
    if "table" in facts:
        cells = tuple(
            (
                row["attack"],
                row["broken"],
                row["median"],
                *(f"{100 * row[key]:.1f} %" for key in ("saturated", "gradient_zero", "gradient_dead", "never_moved")),
            )
            for row in facts["table"]
        )
        columns = (
            "attack", "broken", "median L2", "softmax 1.0", "gradient entries 0", "images without gradient",
            "images never moved",
        )  # fmt: skip
        caption = (
            "Gradient health on images of infinite resistance. Of all of them "
            f"{_share(facts['broken'])} break under DDN, followed where needed by a longer search."
        )
        items.append(Table(caption, columns, cells))
    return items


def _quantiles(done: Done, words: Words) -> Table:
    columns = ("measure", "images", *(f"{100 * level:g} %" for level in LEVELS), "infinite")
    rows: list[tuple[Cell, ...]] = []
    for row in words.quantiles:
        at = row["at"] or [None] * len(LEVELS)
        infinite = row["infinite"] if row["infinite"]["n"] else None
        rows.append((row["measure"], row["group"], *at, infinite))
    caption = "Quantiles: this share of the images has at most this resistance."
    if done.reported:
        old = done.reported
        caption += (
            f" Published: {old.quantile} % of 500 right images above {_three(old.right_above)}, {old.quantile} % of "
            f"the wrong ones below {_three(old.wrong_below)} (Res_N, Res_max, Res_min)."
        )
    return Table(caption, columns, tuple(rows))


def _histograms(done: Done) -> list[Item]:
    """Shares of right and of wrong images, a panel a measure; infinite values are left out."""
    panels: list[Panel] = []
    for name in ("Res_max", DISTANCE):
        values = done.judged.resistance[name]
        finite = values < 10_000
        top = float(np.quantile(values[finite], 0.99)) if finite.any() else 1.0
        series: list[Series] = []
        for group, role, chosen in (("right", "natural", ~done.judged.wrong), ("wrong", "fgsm", done.judged.wrong)):
            counts = histogram(group, role, torch.from_numpy(values[chosen & finite]), top, bins=24)
            total = max(1, int(chosen.sum()))
            shares = tuple(None if y is None else y / total for y in counts.y)
            series.append(Series(group, role, counts.x, shares))  # type: ignore[arg-type]
        panels.append(Panel(name, tuple(series)))
    caption = "Shares of the right and of the wrong images over their resistance; infinite values lie beyond."
    return [Lines("resistances", caption, "L2", "share", tuple(panels), drawn="steps")]


def _wrong(done: Done, words: Words) -> Table:
    published: dict[str, float] = {}
    if done.reported:
        names = ("Res_N", "Res_max", "Res_min", "confidence, float32")
        published = dict(zip(names, done.reported.auroc, strict=True))
    columns = ("score", "AUROC, published", "AUROC", "p", "AUPR", "area under risk", "errors", "equal")
    rows: list[tuple[Cell, ...]] = []
    for row in words.wrong_here:
        p = None if row["score"] == "Res_N" else f"{row['p']:.2g}"
        equal = f"{100 * row['ties']:.0f} %"
        cells = (auroc_words(row["auroc"]), p, row["aupr"], row["aurc"], row["errors"], equal)
        rows.append((row["score"], published.get(row["score"]), *cells))
    return Table(f"How well each score finds the wrong among {len(done.test)} test images.", columns, tuple(rows))


def _risks(done: Done) -> list[Item]:
    series: list[Series] = []
    for name, role in DRAWN:
        coverage, risk = risk_coverage(done.judged.suspicion(name), done.judged.wrong)
        series.append(Series(name, role, *thinned(coverage, 100 * risk)))  # type: ignore[arg-type]
    caption = "Error rate among the images that are kept, over the share that is kept, least suspect first."
    panels = (Panel("", tuple(series)),)
    return [Lines("risk", caption, "coverage", "errors, %", panels, percent=False)]


def _conf2(words: Words) -> list[Item]:
    if not words.trusted:
        return []
    rows = tuple((row["measure"], row["k"], row["right"], row["wrong"], row["accuracy"]) for row in words.trusted)
    columns = ("measure", "K", "right images trusted", "wrong images trusted", "accuracy of the trusted")
    caption = (
        "Conf2 = (Res / K) / (1 + Res / K), trusted above 1/2; K is the median over val's wrong images and as many "
        "right ones."
    )
    return [Table(caption, columns, rows)]


def auroc_words(found: dict[str, Any] | None) -> str | None:
    """An AUROC with its interval, as text."""
    return None if found is None else f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _three(values: tuple[float, float, float]) -> str:
    return " / ".join(f"{value:g}" for value in values)


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "none of 0"
    return f"{100 * share['value']:.2f} % [{100 * share['low']:.2f}, {100 * share['high']:.2f}] of {share['n']}"
