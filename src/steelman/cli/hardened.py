"""What `harden` does in its directory: a plan, a training, an evaluation of before and after."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from steelman.cli import inputs, pages, results
from steelman.cli.bar import reporting
from steelman.cli.options import Subject
from steelman.cli.output import rerun
from steelman.errors import RunError
from steelman.files import replacing
from steelman.hardening import plan
from steelman.measurement import Measurement
from steelman.page import Page, Trust
from steelman.runs import Run
from steelman.spec import parse
from steelman.threats import Ball
from steelman.train import load_run, train
from steelman.wording import p_text, share_text


def kept(
    run: Path, threat: Ball, minutes: float, num: int, out: Path, *, root: Path | None, seed: int, command: str
) -> dict[str, Any]:
    """The plan, and the shares of before and after, each computed at most once.

    Leaves `plan.json`, the run `trained` and the run `evaluation` with its page in `out`.

    Raises:
        RunError: the directory holds another hardening, or cannot be written; whatever training refuses.
    """
    inputs.warn_of_threat(threat, load_run(run).shape)
    chosen = _chosen(run, threat, minutes, out, root, seed)
    asked = Measurement(
        parse(inputs.usual_attack(threat), "attack"),
        threat,
        runs=(str(Run.existing(run).path.resolve()), str((out / "trained").resolve())),
        num=num,
        seed=seed,
        names=("before", "after"),
    )
    with reporting() as progress:
        train(parse(chosen["training"], "training"), out / "trained", root, progress, command=command)
    facts = results.kept(asked, Subject(data_root=root, num=num, seed=seed), out / "evaluation", warned=True)
    again = rerun(["steelman", "train", chosen["training"]], data_root=root, out=out / "trained")
    facts |= {"plan": chosen["words"], "words": _words(facts), "training": again}
    page = Page.load(out / "evaluation" / "results" / "page.json")
    if page.rerun != command:
        _rewrite(out / "evaluation", facts, page, command)
    return facts


def _chosen(run: Path, threat: Ball, minutes: float, out: Path, root: Path | None, seed: int) -> dict[str, Any]:
    """The plan of this directory: timed once, so that the same command goes on with the same training."""
    path, asked = out / "plan.json", f"{run.resolve()}, {threat!r}, {minutes:g} min, seed {seed}"
    if path.exists():
        chosen = _read(path)
        if chosen["asked"] != asked:
            raise RunError(f"{out} holds the hardening of {chosen['asked']}. Give another --out.")
        return chosen
    found = plan(run, threat, minutes, root=root, seed=seed)
    chosen = {"asked": asked, "words": found.words, "training": repr(found.training)}
    inputs.stem(path, "--out")
    with replacing(path) as (draft,):
        draft.write_text(json.dumps(chosen, indent=1) + "\n")
    return chosen


def _read(path: Path) -> dict[str, str]:
    try:
        chosen: dict[str, str] = json.loads(path.read_text())
        return {name: chosen[name] for name in ("asked", "words", "training")}
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path} is damaged: no plan of a hardening. Delete it, or give another --out.") from None


def _words(facts: dict[str, Any]) -> str:
    before, after = facts["models"]
    robust = [share_text(model["robust"]) for model in (before, after)]
    natural = [share_text(model["natural"]) for model in (before, after)]
    moved = f"Robust accuracy {robust[0]} → {robust[1]} ({p_text(after['paired']['p'])})"
    return f"{moved}, natural accuracy {natural[0]} → {natural[1]}, on the same images within {facts['threat']}."


def _rewrite(evaluation: Path, facts: dict[str, Any], page: Page, command: str) -> None:
    """The page of the evaluation as that of the hardening."""
    panels = [item for section in page.sections for item in section.items if isinstance(item, Trust)]
    fresh = pages.evaluation_page(facts, panels, command)
    sheets = [section for section in page.sections if section.title == "Images"]
    fresh = dataclasses.replace(
        fresh,
        title=f"Hardening within {facts['threat']}",
        question="What does the classifier gain, and what does that cost?",
        headline=facts["words"],
        findings=(f"Trained on by {facts['plan']}.", *fresh.findings),
        sections=(*fresh.sections, *sheets),
        facts={**fresh.facts, "training, not timed again": facts["training"]},
    )
    with replacing(evaluation / "results" / "page.json") as (draft,):
        fresh.save(draft)
