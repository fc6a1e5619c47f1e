"""What the study says of networks behind a V1 front end."""

from dataclasses import replace
from typing import Any

from steelman.page import Cell, Check, Grid, Item, Section, Table, Trust
from steelman.studies.finetune import figures
from steelman.studies.finetune.front_end import AVERAGED, NUM_SHOWN, Front
from steelman.studies.finetune.plan import Plan
from steelman.studies.finetune.words import Arm
from steelman.wording import p_text, percent, share_text

__all__ = ["Front", "front_findings", "front_section"]

_TEXT = (
    "A bank of Gabor filters, simple and complex cells and noise as in primary visual cortex stand before the network. "
    "A complex cell takes a square root, whose derivative at 0 is infinite. On black ground that makes NaN of the "
    "gradient, and the sign of NaN is 0: FGSM leaves those pixels as they are. “Published” keeps that derivative; "
    "“smooth” makes it finite and changes nothing else: same weights, same images, same outputs.",
    "The noise is drawn anew at each pass. Each gradient follows one draw of it, or is the mean of as many as the "
    f"column says ({AVERAGED!r}, expectation over transformation). An attack's last image counts.",
)


def front_findings(plan: Plan, fronts: list[Front]) -> tuple[str, ...]:
    """A verdict on each network behind a front end, by paired tests on the same images."""
    said = [sentence for front in fronts for sentence in (_artefact(front), _against_plain(plan, front))]
    return tuple(sentence for sentence in said if sentence)


def front_section(plan: Plan, fronts: list[Front]) -> tuple[Section, ...]:
    """The original's figures 12 and 13, both derivatives side by side, and the images that were left as they were."""
    if not fronts:
        return ()
    behind = plan.behind()
    arms = [arm for front in fronts for arm in front.arms]
    everyone = [_untuned(behind, front) for front in fronts]
    items: list[Item] = [
        figures.bars(behind, everyone, "before-front"),
        _both(fronts),
        *(_grid(front) for front in fronts if front.arms),
        *figures.curves(behind, arms, "epochs-front"),
        _table(behind, fronts),
        *(panel for front in fronts if front.arms for panel in _panels(plan, front)),
    ]
    return (Section("Behind a front end like V1", _TEXT, tuple(items)),)


def _artefact(front: Front) -> str:
    row = front.ways["rows"][-1]
    published, smooth = row["published"], row["smooth"]
    said = (
        f"{front.model} at eps {row['eps']:g}: through the published derivative {share_text(published['robust'])} hold "
        f"against FGSM; {percent(published['gradient_nan'])} of the gradient's entries are NaN and "
        f"{share_text(published['still'])} images are not changed at all. Through a finite derivative, on the same "
        f"weights and images, {share_text(smooth['robust'])} hold ({p_text(row['p']['published'])}), on the mean of "
        f"{AVERAGED.samples} gradients {share_text(row['averaged']['robust'])}: "
    )
    gap = published["robust"]["value"] - smooth["robust"]["value"]
    hidden = gap > 0.05 and row["p"]["published"] < 0.01
    return said + ("the robustness was a gradient that was not there." if hidden else "both say the same.")


def _against_plain(plan: Plan, front: Front) -> str:
    row = front.ways["rows"][0]
    if "plain" not in row:
        return ""
    own, plain, p = row["averaged"]["robust"], row["plain"]["robust"], row["p"]["plain"]
    better = "more" if own["value"] > plain["value"] else "fewer"
    verdict = f"on {better} images than without the front end" if p < 0.01 else "no difference beyond chance"
    epochs, epochs_plain = plan.behind().scale.epochs, plan.scale.epochs
    longer = "" if epochs == epochs_plain else f" It was trained for {epochs} epochs, the plain one for {epochs_plain}."
    return (
        f"{front.model} at eps {row['eps']:g}: {share_text(own)} hold against FGSM with finite, averaged gradients, "
        f"{share_text(plain)} without the front end on the same images ({p_text(p)}): {verdict}.{longer}"
    )


def _both(fronts: list[Front]) -> Table:
    columns = ("network", "published derivative", "gradient NaN", "images not moved", "smooth derivative", "p")
    averaged, plain = f"smooth, mean of {AVERAGED.samples}", ("without front end", "p, against the mean")
    rows: list[tuple[Cell, ...]] = []
    for front in fronts:
        for row in front.ways["rows"]:
            published, p = row["published"], row["p"]
            own = (f"{front.model}, eps {row['eps']:g}", published["robust"], percent(published["gradient_nan"]))
            twin = (row["plain"]["robust"], p_text(p["plain"])) if "plain" in row else (None, None)
            smooth = (row["smooth"]["robust"], p_text(p["published"]), row["averaged"]["robust"])
            rows.append((*own, published["still"], *smooth, *twin))
    caption = "Robust accuracy under FGSM, the same weights through two derivatives."
    return Table(caption, (*columns, averaged, *plain), tuple(rows))


def _grid(front: Front) -> Grid:
    row = front.ways["rows"][-1]
    still = row["published"]["still"]
    caption = (
        f"{front.model}: test images that FGSM at eps {row['eps']:g} moves least through the published derivative; "
        f"{share_text(still)} are not moved at all. From above: original, published, smooth derivative; "
        "with the network's answer. Shown clipped to [0, 1]."
    )
    words = tuple(front.ways["words"])
    columns = min(NUM_SHOWN, len(words) // 3)
    return Grid(f"still-{front.model}", caption, f"examples/{_stem(front)}-pictures.safetensors", columns, words)


def _stem(front: Front) -> str:
    return str(front.ways["stem"])


def _table(plan: Plan, fronts: list[Front]) -> Table:
    """The rows of the networks that were fine-tuned, then those that were not."""
    tuned = figures.table(plan, [arm for front in fronts for arm in front.arms])
    rows = list(tuned.rows)
    labels = (("natural", "natural"), (f"FGSM {plan.threat.eps:g}, as published", "fgsm_images"))
    robust = ((f"FGSM {plan.threat.eps:g}, robust", "fgsm"), (f"PGD-40 {plan.threat.eps:g}, robust", "pgd"))
    for front in (one for one in fronts if not one.arms):
        for words, key in (*labels, *robust):
            known = figures.published(front.model, "before", key) if (words, key) in labels else None
            rows.append((front.model, "not yet", words, known, front.before[key]))
    return replace(tuned, rows=tuple(rows))


def _panels(plan: Plan, front: Front) -> list[Trust]:
    row = front.ways["rows"][-1]
    threat = plan.threat.at(row["eps"])
    panels: list[Trust] = []
    ways = {
        "published": "FGSM through the published derivative",
        "smooth": "FGSM through the smooth derivative",
        "averaged": f"{AVERAGED!r} through the smooth derivative",
    }
    for way, words in ways.items():
        checks: list[dict[str, Any]] = row[way]["trust"]
        subject = f"{front.model}, {words} within {threat!r}, {row[way]['watched']} images"
        panels.append(Trust(subject, tuple(Check(**check) for check in checks)))
    return panels


def _untuned(plan: Plan, front: Front) -> Arm:
    """For the figures of the state before fine-tuning."""
    return Arm(front.model, plan.seeds[0], plan.against[0], (), front.before, front.before)
