"""The radius of the small twin: chosen on val images of base B, before any network is attacked on test images.

The usual radius of a data set is meant for networks that were trained on all of it and hardened; of these, trained on
few images of half of the classes, nothing would be left to compare.
"""

from dataclasses import replace

from steelman.attacks.fgsm import FGSM
from steelman.data import Data
from steelman.evaluate import strike
from steelman.page import Table
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.transfer.measure import network
from steelman.studies.transfer.plan import Plan
from steelman.threats import Linf

FRACTIONS = (1.0, 2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12)  # of the usual radius
KEPT = 0.5  # of the val images that base B has right, under its own FGSM


def with_radius(run: Run, plan: Plan, val: Data, progress: Progress = silent) -> Plan:
    """The plan at the largest fraction of its radius at which base B keeps half of its right val images, or the least.

    Base B of the first seed must be trained. `results/eps.json` says what was tried; where it exists it is followed.
    """
    if not run.has("results/eps.json"):
        model, tried = network(run, plan.arms[0], plan.seeds[0]), list[dict[str, object]]()
        for step, fraction in enumerate(FRACTIONS, start=1):
            eps = round(plan.threat.eps * fraction, 3)
            outcome = strike(model, val, FGSM(), Linf(eps), progress=progress)
            kept = Share.of(~outcome.broken[outcome.right])
            tried.append({"eps": eps, "kept": kept.to_json()})
            progress(step, len(FRACTIONS), "choosing eps")
            if kept.value >= KEPT:
                break
        run.write_json("eps", tried)
    return replace(plan, threat=Linf(run.read_json("eps")[-1]["eps"]))


def told(run: Run, plan: Plan) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    """In words how the radius came about, with what was tried."""
    if not run.has("results/eps.json"):
        words = "the original's 0.01 of pixels from -1 to 1" if plan.eps_from == "original" else "as asked for"
        return (f"eps is {plan.threat.eps:g}, {words}.",), ()
    tried = run.read_json("eps")
    words = (
        f"eps was chosen on val images, from the usual one downwards: the first at which base B keeps "
        f"{100 * KEPT:.0f} % of those that it has right under its own FGSM. The test images had no say."
    )
    rows = tuple((one["eps"], one["kept"]) for one in tried)
    return (words,), (Table("Base B under its own FGSM on val", ("eps", "kept of the right images"), rows),)
