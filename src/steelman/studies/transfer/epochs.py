"""Every epoch of every network: the scatter of accuracy over the number of copied blocks, and the CSV."""

import csv
import io
from typing import Any

from steelman.page import Lines, Panel, Series
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.transfer.plan import Plan, part_name

COLUMNS: tuple[str, ...] = (
    *("network", "treatment", "blocks", "seed", "phase", "epoch", "train_loss"),
    *("val_accuracy", "val_low", "val_high", "val_n", "lr", "seconds"),
)
IN_SCATTER = ("base", "AnB", "AnB+", "BnB", "BnB+")


def per_epoch(run: Run, plan: Plan, num_val: int) -> list[dict[str, Any]]:
    """A row for each network, seed, phase and epoch; epochs count on through the phases."""
    rows: list[dict[str, Any]] = []
    for seed in plan.seeds:
        for arm in plan.arms:
            done, steps = 0, len(plan.trainings(arm, seed))
            for phase in range(1, steps + 1):
                name = part_name(arm, seed) + ("" if phase == steps else f"-{phase}")
                history = Run.existing(run.path / "parts" / name).read_json("history")["rows"]
                for row in history[1 if done else 0 :]:  # row 0 is the network before the phase
                    share = Share.counted(round(row["val_accuracy"] * num_val), num_val)
                    facts = (arm.name, arm.treatment, arm.blocks, seed, phase, done + row["epoch"], row["train_loss"])
                    numbers = (share.value, share.low, share.high, num_val, row["lr"], round(row["seconds"], 3))
                    rows.append(dict(zip(COLUMNS, (*facts, *numbers), strict=True)))
                done += len(history) - 1
    return rows


def write_csv(run: Run, rows: list[dict[str, Any]]) -> None:
    """Leave `results/epochs.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    run.write_text("results/epochs.csv", text.getvalue())


def scatter(plan: Plan, rows: list[dict[str, Any]]) -> Lines:
    """One point a network and epoch, first seed: val accuracy over the number of copied blocks."""
    series: list[Series] = []
    for treatment in IN_SCATTER:
        mine = [
            row
            for row in rows
            if (row["treatment"], row["seed"]) == (treatment, plan.seeds[0]) and 0 < row["epoch"] <= plan.epochs
        ]
        if mine:
            x = tuple(row["blocks"] for row in mine)
            ends = (tuple(row[key] for row in mine) for key in ("val_accuracy", "val_low", "val_high"))
            series.append(Series(treatment, "other", x, *ends))
    caption = (
        f"Accuracy on {rows[0]['val_n']} val images after each of {plan.epochs} epochs, one point an epoch, over "
        "the number of copied blocks; base B at 0. Bars are 95 % intervals."
    )
    panels = (Panel("", tuple(series)),)
    return Lines("scatter", caption, "blocks copied", "val accuracy", panels, drawn="points")
