"""Open question (a): why do horizontal lines hurt more than vertical ones, although they cover fewer pixels?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from steelman.data import Data, Splits
from steelman.data.arrays import Arrays
from steelman.evaluate import accuracy
from steelman.features.sets import write_set
from steelman.features.synthesis import spectrum
from steelman.page import Item, Lines, Panel, Role, Series, Table
from steelman.progress import Stages
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.features.networks import Network, trained
from steelman.studies.features.plan import Plan
from steelman.studies.features.questions import Answer, Question
from steelman.threats.groups import Groups
from steelman.threats.perturbations.lines import Lines as Stripes
from steelman.wording import p_text, percent, share_text

LAYOUTS = ((5, 2.0), (7, 1.0))  # lines and their width: those of the vertical and of the horizontal group
ANGLES = tuple(range(0, 180, 15))
COVERAGE, DISTANCE = 0.25, 7.5  # of the sweep: share of pixels, and mean L2 distance after clipping


@dataclass(frozen=True, repr=False)
class FeaturesLines(Question):
    """Orientation against layout, all angles at equal coverage and L2, transposed digits, where the classes differ."""

    question: ClassVar[str] = "Why do horizontal lines hurt more than vertical ones, although they cover fewer pixels?"
    original: ClassVar[str] = "xziyue/robust_mnist_feature_py, 2019: first open question"

    def answer(self, run: Run, plan: Plan, splits: Splits, root: Path | None, stages: Stages) -> Answer:  # noqa: D102
        test = splits.test.first(plan.scale.num_test)
        standard, _ = self.base(run, plan, root, stages)
        turned = _transposed_network(run, plan, splits, self.seed, stages)
        nets = {"digits": (standard, test), "transposed digits": (turned, transposed(test))}
        if not run.has("results/lines.json"):
            crossed = {name: _factorial(net, data) for name, (net, data) in nets.items()}
            swept = {name: _sweep(net, data) for name, (net, data) in nets.items()}
            train = splits.train.first(plan.scale.num_train)
            where = spectrum(train.pixels(), train.labels, len(train.classes))
            run.write_json("lines", {"crossed": crossed, "swept": swept, "spectrum": where.tolist()})
        found = run.read_json("lines")
        return Answer(
            headline(found["crossed"], found["swept"]),
            (*_findings(found["crossed"]), _where(torch.tensor(found["spectrum"]))),
            f"Every line adds 0.6. In the sweep, lines at all angles cover {percent(COVERAGE)} of pixels and change "
            f"images by {DISTANCE:g} in L2 on average; 0 degrees is horizontal. Information about the class is the "
            "variance between class means over that within, at each frequency of the Fourier transform.",
            (_table(found["crossed"]), _angles(found["swept"]), _spectrum_lines(torch.tensor(found["spectrum"]))),
        )


def transposed(data: Data) -> Data:
    """The images with rows and columns exchanged."""
    return replace(data, images=data.images.transpose(2, 3).contiguous(), name=f"{data.name}, transposed")


def matched(angle: float, x: Tensor, coverage: float = COVERAGE, distance: float = DISTANCE) -> Stripes:
    """Seven lines at an angle that cover this share of the pixels and change x by this L2 distance on average."""
    height, width = int(x.shape[2]), int(x.shape[3])
    lines = Stripes(angle=angle, count=7, width=1.0)
    low, high = 0.05, height / 7
    for _ in range(20):
        lines = replace(lines, width=(low + high) / 2)
        low, high = (lines.width, high) if float(lines.pattern(height, width).mean()) < coverage else (low, lines.width)
    pattern, weak, strong = lines.pattern(height, width), 0.0, 4.0
    for _ in range(20):
        middle = (weak + strong) / 2
        change = ((x + middle * pattern).clamp(0, 1) - x).flatten(1).norm(dim=1).mean()
        weak, strong = (middle, strong) if float(change) < distance else (weak, middle)
    return replace(lines, strength=weak)


def headline(crossed: dict[str, Any], swept: dict[str, Any]) -> str:
    """The answer: the effect of orientation on digits and on transposed digits, and whether it is beyond chance."""
    plain, turned = (orientation_effect(crossed[name]) for name in ("digits", "transposed digits"))
    sure, sure_turned = (_beyond_chance(crossed[name]) for name in ("digits", "transposed digits"))
    which, num = "horizontal" if plain > 0 else "vertical", crossed["digits"]["0-5"]["n"]
    cost = f"{which} lines cost {100 * abs(plain):.1f} points more at equal layout"
    if not sure:
        return f"Undecided: {cost}, which is within chance on {num} images."
    flat, upright = (_at(swept["digits"], angle) for angle in (0, 90))
    if (upright - flat) * plain <= 0 or abs(upright - flat) < abs(plain) / 2:
        return (
            f"Not the orientation alone: {cost}, but at equal coverage and L2 accuracy is {percent(flat)} under "
            f"horizontal and {percent(upright)} under vertical lines."
        )
    if plain * turned < 0 and sure_turned:
        return (
            f"It is the digits, not the lines: {cost}, and on transposed digits the other orientation costs "
            f"{100 * abs(turned):.1f} points more."
        )
    if not sure_turned:
        return f"{cost.capitalize()}; on transposed digits neither orientation does beyond chance ({num} images)."
    return f"It is not the digits' orientation: {cost}, and still {100 * abs(turned):.1f} on transposed digits."


def _at(rows: list[dict[str, Any]], angle: int) -> float:
    """Accuracy under the lines at this angle of the sweep."""
    return next(row["value"] for row in rows if row["angle"] == angle)


def _beyond_chance(cells: dict[str, Any]) -> bool:
    """Whether a paired test is below 5 %, corrected for there being two, and none of these contradicts the mean."""
    gaps = {count: cells[f"90-{count}"]["value"] - cells[f"0-{count}"]["value"] for count, _ in LAYOUTS}
    sure = [gap for count, gap in gaps.items() if cells[f"p-{count}"] < 0.05 / len(LAYOUTS)]
    return bool(sure) and all(gap * orientation_effect(cells) > 0 for gap in sure)


def orientation_effect(cells: dict[str, Any]) -> float:
    """Accuracy under vertical lines minus that under horizontal ones, mean of both layouts."""
    gaps = [cells[f"90-{count}"]["value"] - cells[f"0-{count}"]["value"] for count, _ in LAYOUTS]
    return sum(gaps) / len(gaps)


def layout_effect(cells: dict[str, Any]) -> float:
    """Accuracy under 7 thin lines minus that under 5 thick ones, mean of both orientations."""
    return sum(cells[f"{angle}-7"]["value"] - cells[f"{angle}-5"]["value"] for angle in (0, 90)) / 2


def _findings(crossed: dict[str, Any]) -> tuple[str, ...]:
    words: list[str] = []
    for name, cells in crossed.items():
        for count, width in LAYOUTS:
            flat, upright, p = cells[f"0-{count}"], cells[f"90-{count}"], cells[f"p-{count}"]
            words.append(
                f"{name}, {count} lines of {width:g} px: horizontal {share_text(flat)}, vertical {share_text(upright)} "
                f"(McNemar {p_text(p)})."
            )
        turn, thin = 100 * orientation_effect(cells), 100 * layout_effect(cells)
        words.append(
            f"{name}: turning lines from horizontal to vertical changes accuracy by {turn:+.1f} points, going from 5 "
            f"thick to 7 thin lines by {thin:+.1f}."
        )
    return tuple(words)


def _where(information: Tensor) -> str:
    down, right = _axes(information)
    more = (
        "vertical frequencies, where horizontal lines are"
        if sum(down) > sum(right)
        else ("horizontal frequencies, where vertical lines are")
    )
    return (
        f"Along the two axes of the spectrum there is more information about the class at {more}: "
        f"{sum(down):.2f} against {sum(right):.2f} (sum of Fisher's ratios; vertical, horizontal)."
    )


def _transposed_network(run: Run, plan: Plan, splits: Splits, seed: int, stages: Stages) -> Network:
    path = run.path / "sets" / "transposed.safetensors"
    if not path.is_file():
        num = plan.scale.num_train
        write_set(path, Splits(*(transposed(part) for part in splits._replace(train=splits.train.first(num)))))
    data, progress = Arrays("sets/transposed.safetensors"), stages.stage("the net of transposed digits", 4)
    return trained(run.path, "transposed", seed, plan.architecture, data, plan.standard_recipe(), run.path, progress)


def _factorial(network: Network, test: Data) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for count, width in LAYOUTS:
        hits = {angle: _right(network, test, Stripes(float(angle), count, width)) for angle in (0, 90)}
        cells |= {f"{angle}-{count}": Share.of(mask).to_json() for angle, mask in hits.items()}
        cells[f"p-{count}"] = mcnemar(hits[0], hits[90]).p
    return cells


def _sweep(network: Network, test: Data) -> list[dict[str, Any]]:
    x = test.pixels(slice(0, 100))
    return [{"angle": angle, **Share.of(_right(network, test, matched(float(angle), x))).to_json()} for angle in ANGLES]


def _right(network: Network, test: Data, lines: Stripes) -> Tensor:
    return accuracy(network.model, (Groups((lines,)).apply(0, test.pixels()), test.labels))


def _table(crossed: dict[str, Any]) -> Item:
    rows = tuple(
        (name, f"{count} lines of {width:g} px", cells[f"0-{count}"], cells[f"90-{count}"])
        for name, cells in crossed.items()
        for count, width in LAYOUTS
    )
    return Table(
        "Orientation against layout: accuracy on test images.", ("net of", "layout", "horizontal", "vertical"), rows
    )


def _angles(swept: dict[str, Any]) -> Item:
    roles: tuple[Role, ...] = ("natural", "pgd")
    series = tuple(
        Series(
            name,
            role,
            tuple(row["angle"] for row in rows),
            *(tuple(row[end] for row in rows) for end in ("value", "low", "high")),
        )
        for (name, rows), role in zip(swept.items(), roles, strict=True)
    )
    caption = "Lines at every angle, equal coverage and equal mean L2 distance."
    return Lines("angles", caption, "angle of the lines, degrees", "accuracy", (Panel("", series),))


def _axes(information: Tensor) -> tuple[list[float], list[float]]:
    """Fisher's ratio along the vertical and the horizontal frequency axis, from frequency 1 on."""
    row, column = information.shape[0] // 2, information.shape[1] // 2
    return information[row + 1 :, column].tolist(), information[row, column + 1 :].tolist()


def _spectrum_lines(information: Tensor) -> Item:
    down, right = _axes(information)
    pairs: tuple[tuple[str, Role, list[float]], ...] = (
        ("vertical frequencies (horizontal lines)", "pgd", down),
        ("horizontal frequencies (vertical lines)", "natural", right),
    )
    series = tuple(Series(label, role, tuple(range(1, len(y) + 1)), tuple(y)) for label, role, y in pairs)
    panel = (Panel("", series),)
    caption = "Information about the class along the two axes of the spectrum."
    return Lines("spectrum", caption, "cycles an image", "variance between classes / within", panel, percent=False)
