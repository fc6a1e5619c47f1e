"""What `transfer-matrix` asks for and keeps."""

from pathlib import Path
from typing import Any

from steelman.cli import inputs, pages, results
from steelman.cli.bar import reporting
from steelman.cli.options import Subject
from steelman.cli.output import rerun
from steelman.crossing import Crossing, cross, crossing_page, digest, read_sets, record, with_source
from steelman.errors import UsageError
from steelman.evaluate import Outcome
from steelman.runs import DISK_SPACE, Run
from steelman.spec import parse

USUAL = ("FGSM()", "PGD(steps=20)", "MIFGSM()", "NIFGSM()", "DIFGSM()", "TIFGSM()", "VMIFGSM()")


def asked(
    runs: tuple[str, ...], attacks: tuple[str, ...], threat: str | None, subject: Subject, sets: tuple[Path, ...]
) -> Crossing:
    """What the options, or a spec in place of runs, ask for; without a threat that of the first set.

    Raises:
        UsageError: no classifier, fewer than two without a set, or an attack given twice.
        RunError: a set that cannot be read.
    """
    if len(runs) == 1 and inputs.is_spec(runs[0], "crossing"):
        inputs.alone("crossing", subject, threat=threat, sets=sets, attacks=attacks)
        return parse(runs[0], "crossing")
    if not runs:
        raise UsageError("no runs were given. Expected two run directories or more, or one and --sets.")
    if threat is None and sets:
        threat = repr(Outcome.load(_place(sets[0])).threat)
    parsed = tuple(parse(text, "attack") for text in attacks or (() if sets else USUAL))
    norm = parse(threat, "threat").__class__.__name__ if threat and not attacks else None
    parsed = tuple(attack for attack in parsed if norm is None or norm in attack.norms)
    measurement = inputs.measurement(runs, repr(parsed[0]) if parsed else "PGD()", threat, subject)
    for attack in parsed:
        attack.check_norm(measurement.ball)
    return Crossing(measurement, parsed, tuple(str(_place(path)) for path in sets))


def crossed(what: Crossing, subject: Subject, out: Path | None) -> dict[str, Any]:
    """All matrices and verdicts as plain data; with a directory kept there and computed at most once."""
    with reporting() as progress:
        prepared = results.ready(what.measurement, subject, progress)
        what, sets = with_source(what, prepared), read_sets(what, prepared)
        if out is None:
            return record(what, prepared, cross(what, prepared, sets, None, progress))
        command = rerun(["steelman", "transfer-matrix", repr(what)], **subject.place(), out=out)
        size = 4 * prepared.data.images.numel() * len(prepared.subjects) * len(what.attacks)
        with Run.open(out, repr(what), digest(prepared, sets), command=command, need=DISK_SPACE + size) as run:
            if not run.finished:
                found = cross(what, prepared, sets, run, progress)
                facts = record(what, prepared, found)
                run.write_json("matrix", facts)
                pages.keep(run, crossing_page(facts, found, command))
                run.finish()
            return run.read_json("matrix")


def _place(path: Path) -> Path:
    """The stem of a set, from any directory."""
    whole = path.expanduser().resolve()
    return whole.with_suffix("") if whole.suffix in (".safetensors", ".json") else whole
