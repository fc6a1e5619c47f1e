"""A certification as a value: what is proven of one model on given images, at several radii."""

from dataclasses import dataclass
from typing import Any

from steelman.certify import Certifier, certify
from steelman.certify.smoothing import Smoothing
from steelman.curves import ascending
from steelman.engine import generator_for
from steelman.errors import UsageError
from steelman.evaluate import accuracy
from steelman.measurement import Measurement, Prepared, check_plain
from steelman.page import Lines, Page, Panel, Section, Series, Table
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.spec import Spec
from steelman.stats import Share
from steelman.types import Mask
from steelman.wording import sentences


@dataclass(frozen=True, repr=False)
class Certification(Spec):
    """A certifier at several radii on the model and images of a measurement, whose attack is not run.

    Raises:
        UsageError: more than one model, no radii above 0, or what an evaluation alone answers.
    """

    certifier: Certifier
    measurement: Measurement
    radii: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain(self.measurement, "a certification")
        models = self.measurement.models
        if len(models) != 1:
            raise UsageError(f"{len(models)} models were given ({', '.join(models)}). One is certified at a time.")
        object.__setattr__(self, "radii", ascending(self.radii))


def compute(
    asked: Certification, prepared: Prepared, progress: Progress = silent, run: Run | None = None
) -> list[Mask]:
    """Which images are right, then for each radius which are proven; what `run` holds already is not done again.

    For a smoothed model "right" is what the smoothed classifier says without abstaining.

    Raises:
        UsageError: a layer or a threat that the certifier does not know.
        RunError: the run cannot be written.
    """
    model, data, threat = prepared.subjects[0].model, prepared.data, asked.measurement.ball
    if isinstance(asked.certifier, Smoothing):
        return _smoothed(asked, prepared, asked.certifier, progress, run)
    stages = Stages(progress, len(asked.radii))
    masks = [accuracy(model, data).cpu()]
    for eps in asked.radii:
        stage = stages.stage(f"{asked.certifier!r} at {eps:g}")
        masks.append(
            certify(model, data, asked.certifier, threat.at(eps), run=run, name=f"certified-{eps:g}", progress=stage)
        )
    return masks


def _smoothed(
    asked: Certification, prepared: Prepared, certifier: Smoothing, progress: Progress, run: Run | None
) -> list[Mask]:
    """One certification gives every radius."""
    x, y, threat = prepared.data.pixels(), prepared.data.labels, asked.measurement.ball
    log = None if run is None else run.path / "examples" / "smoothed.jsonl"
    generator = generator_for(x, asked.measurement.seed)
    found = certifier.certify(prepared.subjects[0].model, x, generator=generator, progress=progress, log=log)
    return [found.label == y, *(found.certified(y, certifier.within(threat.at(eps), x)) for eps in asked.radii)]


def record(asked: Certification, prepared: Prepared, masks: list[Mask]) -> dict[str, Any]:
    """All shares as plain data."""
    spec = asked.measurement
    shares = [Share.of(mask).to_json() for mask in masks]
    points = [{"eps": eps, "certified": share} for eps, share in zip(asked.radii, shares[1:], strict=True)]
    return {
        "certifier": repr(asked.certifier),
        "threat": repr(spec.ball.at(asked.radii[-1])),
        "of": "the model under noise" if asked.certifier.smooths else "the model itself",
        "model": prepared.subjects[0].name,
        "data": repr(prepared.source),
        "split": spec.split,
        "n": len(prepared.data),
        "natural": shares[0],
        "certified": points[-1]["certified"],
        "points": points,
        "notes": [*prepared.notes, *_smoothing_notes(asked, prepared)],
    }


def _smoothing_notes(asked: Certification, prepared: Prepared) -> list[str]:
    """What a certificate by random draws says, and which radii so many draws cannot prove of any image."""
    certifier, ball = asked.certifier, asked.measurement.ball
    if not isinstance(certifier, Smoothing):
        return []
    notes = [
        f"the model is asked under Gaussian noise of sigma {certifier.sigma:g}; each image's certificate, from "
        f"{certifier.n:,} draws, is true with probability {100 * (1 - certifier.alpha):g} %"
    ]
    most = certifier.radius(certifier.n)
    if beyond := [eps for eps in asked.radii if certifier.within(ball.at(eps), prepared.data.pixels(slice(1))) > most]:
        notes.append(
            f"{certifier.n:,} draws of sigma {certifier.sigma:g} prove no more than {most:.3g} in L2 of any image, and "
            f"{type(ball).__name__}({beyond[0]:g}) is not within: take more draws (n) or a larger sigma"
        )
    return notes


def certification_page(facts: dict[str, Any], command: str) -> Page:
    """The certified share over the radius."""
    last: dict[str, Any] = facts["points"][-1]
    points: list[dict[str, Any]] = [{"eps": 0.0, "certified": facts["natural"]}, *facts["points"]]
    values = {part: tuple(point["certified"][part] for point in points) for part in ("value", "low", "high")}
    eps = tuple(point["eps"] for point in points)
    line = Series("certified", "natural", eps, values["value"], values["low"], values["high"])
    rows = tuple((point["eps"], point["certified"]) for point in points)
    return Page(
        title=f"Certification of {facts['model']}",
        question="How many images can no allowed change break, whoever attacks?",
        headline=f"At least {Share.from_json(last['certified'])} are classified correctly by {facts['of']}, whatever "
        f"is done within {facts['threat']}.",
        findings=sentences(facts["notes"]),
        sections=(
            Section(
                "Certified accuracy over the radius",
                (f"Proven by `{facts['certifier']}`; at radius 0 the natural accuracy.",),
                (
                    Lines("certified", "Proven shares with 95 % intervals", "eps", "certified", (Panel("", (line,)),)),
                    Table("Certified accuracy", ("eps", "certified"), rows),
                ),
            ),
        ),
        rerun=command,
        facts={"data": facts["data"], "split": facts["split"], "images": str(facts["n"]), "of": facts["of"]},
    )
