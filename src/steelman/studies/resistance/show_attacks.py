"""The page's sections about the zoo, the minimal-norm attacks and their course."""

import math
from typing import Any

import torch

from steelman.page import Cell, Item, Lines, Panel, Samples, Section, Series, Table
from steelman.studies.resistance.course import POINTS
from steelman.studies.resistance.done import Done
from steelman.studies.resistance.minimal import LINE
from steelman.studies.resistance.plan import ACCURACY, SUCCESSES

NUM_COURSES = 6  # easy and difficult images whose course is drawn
SHEET = 10  # images on a sheet
BINS = 12


def sections(done: Done, data: str) -> tuple[Section, ...]:
    """Zoo, attacks, courses."""
    on = "the softmax probability, as published" if done.plan.published else "the logits"
    which = "train, as the original's" if done.plan.published else "test"
    n = done.plan.scale.num_attacked
    attacks = (
        f"A, B and C follow {on}, away from the network's own prediction; they and the reference attacks DDN and FMN "
        f"see the first {n} images of {which}. A bisects the radius of a sphere, B and C mix confidence and norm. A "
        "norm counts where the attack succeeded. “Saturated”: gradients taken where the confidence is exactly 1.0 in "
        "float32; “never moved”: images that were not attacked at all. Published: successes of B in 100 MNIST images.",
    )
    courses = (
        "The norm grows until the confidence breaks down, then shrinks while the confidence stays near the threshold. "
        "Easy images are those that break first, difficult ones those that break last.",
    )
    lines = (
        "At 0 lies the original, at 1 the adversarial image; the line goes on a quarter of the way on both sides.",
    )
    return (
        Section("The zoo", (_training(done),), (_zoo(done, data),)),
        Section("Minimal-norm attacks", attacks, (_table(done, data), *_histograms(done), *_sheets(done))),
        Section("Step by step", courses, tuple(_courses(done))),
        Section("On the line through the adversarial image", lines, tuple(_lines(done))),
    )


def _training(done: Done) -> str:
    if done.plan.published:
        return (
            "As published, each network is trained through a softmax and a cross-entropy with its own softmax: the "
            "loss cannot reach 0, so the logits grow without end. The last weights count, as in the original; AlexNet "
            "it stopped by hand: here the epoch that is best on val is kept."
        )
    return "Each network has its own recipe and a plain cross-entropy on logits; the epoch that is best on val is kept."


def _zoo(done: Done, data: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for network in done.zoo:
        published = ACCURACY.get((data, network.name), (None, None, None))
        cells: list[Cell] = [network.name]
        for split, value in zip(("train", "val", "test"), published, strict=True):
            cells += [None if value is None else f"{value:.2f} %", network.shares[split]]
        rows.append(tuple(cells))
    columns = ("network", *(f"{split}, {what}" for split in ("train", "val", "test") for what in ("published", "here")))
    return Table("Accuracy of every network, beside the original's on the same data set.", columns, tuple(rows))


def _table(done: Done, data: str) -> Table:
    columns = (
        "network", "p", "attack", "published", "success", "norm, 10 %", "median", "90 %", "gradients an image",
        "saturated", "never moved", "trust",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for network in done.zoo:
        for row in done.attacks[network.name]:
            old = SUCCESSES.get(network.name) if (data, row["attack"], row["p"]) == ("MNIST", "B", 2) else None
            shares = (f"{100 * row[key]:.0f} %" for key in ("saturated", "never_moved"))
            old_words = None if old is None else f"{old} %"
            where = (network.name, f"{row['p']:g}", row["attack"], old_words, row["success"])
            rows.append((*where, *row["norms"], round(row["gradients"]), *shares, row["verdict"]))
    return Table("Every attack in every network and norm.", columns, tuple(rows))


def _histograms(done: Done) -> list[Item]:
    """Norms of attack B, a panel a network, as the original drew them; those of the reference attack beside them."""
    panels: list[Panel] = []
    for network in done.zoo:
        kept = done.run.read_tensors(f"examples/attacks-{network.name}.safetensors")
        norms = {letter: _finite(kept[f"norm-{letter}-2"]) for letter in ("B", "DDN")}
        top = max((float(values.max()) for values in norms.values() if len(values)), default=1.0)
        series = tuple(
            histogram(words, role, norms[letter], top)
            for letter, words, role in (("B", "attack B", "published"), ("DDN", "DDN", "other"))
        )
        panels.append(Panel(f"{network.name}: B succeeds on {len(norms['B'])} of {len(kept['before'])}", series))
    caption = "How many images break at which L2 norm."
    return [Lines("norms", caption, "L2 norm", "images", tuple(panels), percent=False, drawn="steps")]


def histogram(label: str, role: Any, values: torch.Tensor, top: float, bins: int = BINS) -> Series:
    """Counts in equal bins from 0 to `top`; what is beyond joins the last one."""
    top = top or 1.0
    counts = torch.histc(values.double().clamp(0, top), bins, 0, top) if len(values) else torch.zeros(bins)
    edges = tuple(top * i / bins for i in range(bins + 1))
    return Series(label, role, edges, (*map(float, counts), None))


def _sheets(done: Done) -> list[Item]:
    """The subject's images, perturbations and adversarial images: attack C, and the reference."""
    name = done.subject.name
    kept = done.run.read_tensors(f"examples/attacks-{name}.safetensors")
    before_confidence = done.subject.model(kept["x"]).detach().softmax(1).amax(1)
    items: list[Item] = []
    for letter, words in (("C", f"attack C on the {done.plan.on}"), ("DDN", "the reference attack DDN")):
        rows = torch.arange(min(SHEET, len(kept["before"])))
        file = f"examples/sheet-{letter}.safetensors"
        done.run.write_tensors(file, {"x": kept["x"][rows], "x_adv": kept[f"x_adv-{letter}-2"][rows]})
        items.append(
            Samples(
                f"sheet-{letter}",
                f"{name} under {words}, p = 2: an image on which it fails stays as it is.",
                file,
                _classes(done, kept["label"][rows]),
                _classes(done, kept["before"][rows]),
                tuple(before_confidence[rows].tolist()),
                _classes(done, kept[f"after-{letter}-2"][rows]),
                tuple(kept[f"confidence-{letter}-2"][rows].tolist()),
            )
        )
    return items


def _courses(done: Done) -> list[Item]:
    """Norm and confidence over the steps of attack C, for the images that break first and last."""
    course = done.held.course
    reached = course.reached.nonzero().squeeze(1)
    order = reached[course.first[reached].argsort(stable=True)]
    groups = [("easy", order[:NUM_COURSES]), ("difficult", order[NUM_COURSES:][-NUM_COURSES:])]
    steps = tuple(i * done.plan.scale.steps // POINTS for i in range(POINTS))
    items: list[Item] = []
    for name, label, values in (("norm", "L2 norm", course.norms), ("confidence", "confidence", course.confidences)):
        panels = tuple(
            Panel(
                f"{len(rows)} {group} images",
                tuple(
                    Series(f"{place + 1}", "other", steps, tuple(values[row].tolist()))
                    for place, row in enumerate(rows)
                ),
            )
            for group, rows in groups
            if len(rows)
        )
        caption = f"{done.subject.name}: {label} over the steps of attack C on the {done.plan.on}."
        if panels:
            items.append(Lines(f"course-{name}", caption, "step", label, panels, percent=name == "confidence"))
    return items


def _lines(done: Done) -> list[Item]:
    found = done.lines
    panels = tuple(
        Panel(
            f"image {image}",
            (
                Series("class of the original", "natural", LINE, tuple(before)),
                Series("adversarial class", "published", LINE, tuple(after)),
            ),
        )
        for image, before, after in zip(found["image"], found["before"], found["after"], strict=True)
    )
    caption = f"{done.subject.name}: confidence along the line through an image and what {_named(found)} made of it."
    return [Lines("line", caption, "place on the line", "confidence", panels)] if panels else []


def _named(found: dict[str, Any]) -> str:
    return "attack C" if found["attack"] == "C" else "DDN"


def _classes(done: Done, labels: torch.Tensor) -> tuple[str, ...]:
    return tuple(done.splits.test.classes[label] for label in labels.tolist())


def _finite(values: torch.Tensor) -> torch.Tensor:
    return values[~values.isnan() & (values < math.inf)]
