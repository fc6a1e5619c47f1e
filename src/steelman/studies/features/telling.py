"""Open question (c): can robust features be told from non-robust ones blindly, without labels and without a net?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from steelman.data import Splits
from steelman.features.statistics import STATISTICS, auc
from steelman.page import Bars, Item, Series, Table
from steelman.progress import Stages
from steelman.runs import Run
from steelman.studies.features.collect import reconstructions
from steelman.studies.features.figures import histogram
from steelman.studies.features.plan import Plan
from steelman.studies.features.questions import Answer, Question

CLEAR = 0.8  # an area under the curve from which on the two are told apart well


@dataclass(frozen=True, repr=False)
class FeaturesBlind(Question):
    """The area under the ROC curve of plain statistics of an image, the reconstructions being the truth."""

    question: ClassVar[str] = "Can robust features be told from non-robust ones blindly, without label or network?"
    original: ClassVar[str] = "xziyue/robust_mnist_feature_py, 2019: third open question"

    def answer(self, run: Run, plan: Plan, splits: Splits, root: Path | None, stages: Stages) -> Answer:  # noqa: D102
        made = reconstructions(run, plan, self.base(run, plan, root, stages), splits, stages)
        values = {
            name: {kind: statistic(found.x) for kind, found in made.found.items()}
            for name, statistic in STATISTICS.items()
        }
        areas: dict[str, Any] = {}
        for name, pair in values.items():
            value, low, high = auc(pair["robust"], pair["nonrobust"], confidence=1 - 0.05 / len(values))
            areas[name] = {"value": value, "low": low, "high": high}
        run.write_json("areas", areas)
        best = max(areas, key=lambda name: abs(areas[name]["value"] - 0.5))
        labelled = {"robust features": values[best]["robust"], "non-robust features": values[best]["nonrobust"]}
        return Answer(
            headline(areas, len(made.originals)),
            tuple(
                f"{name}: area {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
                for name, area in areas.items()
            ),
            "An area of 1 means that every robust reconstruction has more of it than every non-robust one, 0 the "
            "reverse, 0.5 that it tells nothing. Intervals are of images, by DeLong et al. 1988, "
            f"{100 - 5 / len(values):.3g} % each: 95 % for all together (Bonferroni), as the best is chosen.",
            (_table(areas), _bars(areas), histogram("best", f"{best}, the statistic that tells most.", best, labelled)),
        )


def headline(areas: dict[str, Any], num: int) -> str:
    """The answer by the best statistic."""
    best = max(areas, key=lambda name: abs(areas[name]["value"] - 0.5))
    area = areas[best]
    strength = max(area["value"], 1 - area["value"])
    more = "robust" if area["value"] > 0.5 else "non-robust"
    certain = area["low"] > 0.5 or area["high"] < 0.5
    if not certain:
        return f"No: no statistic tells them apart beyond chance on {num} images; the best is {best} ({strength:.2f})."
    word = "Yes" if strength >= CLEAR else "Only in part"
    return (
        f"{word}: {best} alone tells them apart with an area under the ROC curve of {strength:.2f}; {more} features "
        f"have more of it ({num} images)."
    )


def _table(areas: dict[str, Any]) -> Item:
    rows = tuple((name, area["value"], area["low"], area["high"]) for name, area in areas.items())
    return Table("Area under the ROC curve, robust against non-robust.", ("statistic", "area", "low", "high"), rows)


def _bars(areas: dict[str, Any]) -> Item:
    series = Series(
        "robust against non-robust",
        "other",
        tuple(areas),
        *(tuple(area[end] for area in areas.values()) for end in ("value", "low", "high")),
    )
    return Bars(
        "areas", "How well each statistic tells the two apart; 0.5 is chance.", "area", (series,), percent=False
    )
