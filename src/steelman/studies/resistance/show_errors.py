"""The page's sections about second guesses, discriminators and adversarial images."""

from steelman.page import Cell, Item, Lines, Matrix, Panel, Section, Series, Table
from steelman.studies.resistance.course import FAILED
from steelman.studies.resistance.detect import ALARMS, OVERSHOOT
from steelman.studies.resistance.done import Done, Words
from steelman.studies.resistance.scores import second_guess, thinned
from steelman.studies.resistance.show_held import auroc_words
from steelman.studies.resistance.verdicts import DISTANCE, MEASURES, guess_of

GUESSES = {"C": "class that attack C finds", DISTANCE: "class beyond the nearest boundary", "runner-up": "second logit"}


def sections(done: Done, words: Words) -> tuple[Section, ...]:
    """Second guesses, discriminators, adversarial images."""
    guess = (
        "A wrong image often lies near its true class: the class that an attack finds is a second guess. Beside it "
        "stands the class of the second largest logit, which costs nothing; p compares with that (McNemar).",
        "Below a threshold of resistance the second guess is taken instead of the prediction. Far left none is, far "
        "right every image is: the minimum between says whether it helps.",
    )
    learned = (
        f"Learned from {done.discriminator['learned']} images of train and val, "
        f"{done.discriminator['learned_wrong']} of them wrong, at 50 steps of attack C each; judged on all "
        f"{len(done.test)} test images. As trivial answers stand the constant “right” and the scores from above. "
        "Half of what is learned from is wrong, on test hardly any image is: so all probabilities are far too high.",
    )
    adversarial = (
        f"Images that five attacks make of {done.detection['clean']} test images; L-inf attacks within "
        f"{done.detection['eps']:g}. A detector's threshold gives {100 * ALARMS:g} % false alarms on clean images of "
        "val. Static: the attack's own images. Adaptive: of each image the attacker also has versions further behind "
        f"the boundary ({OVERSHOOT[0]:g} and {OVERSHOOT[1]:g} times the change, and 40 steps up the margin within the "
        "same threat; for minimal-norm attacks within 2.5 times the median distance) and hands in the wrong one that "
        "the detector finds least suspect.",
    )
    return (
        Section("A second guess", guess, (_guesses(done, words), _corrections(words), *_curves(done))),
        Section("Discriminators", learned, tuple(_discriminators(done))),
        Section("Detection of adversarial images", adversarial, tuple(_detection(done))),
    )


def _guesses(done: Done, words: Words) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in words.guesses:
        p = None if row["guess"] == "runner-up" else f"{row['p']:.2g}"
        corrected = row["corrected"] if row["corrected"]["n"] else None
        rows.append((GUESSES[row["guess"]], corrected, row["top2_error"], p))
    caption = "Second guesses: how many wrong images they correct, and the error of both guesses together."
    if done.reported:
        hits, n = done.reported.corrected
        caption += f" Published: {hits} of {n} corrected, Top-2 error {done.reported.top2:g} %."
    return Table(caption, ("second guess", "corrected", "Top-2 error", "p"), tuple(rows))


def _corrections(words: Words) -> Table:
    columns = (
        "measure",
        "error without",
        "threshold from val",
        "error with",
        "published threshold",
        "best in hindsight",
    )
    rows = tuple(
        (row["measure"], row["nothing"], row["threshold"], row["chosen"], row["published"], row["best"])
        for row in words.corrections
    )
    return Table("Errors on test when images of low resistance get their second guess.", columns, rows)


def _curves(done: Done) -> list[Item]:
    """Error over threshold, a panel a measure, up to where it is far above that without second guesses."""
    right = ~done.judged.wrong
    nothing = 100 * float(done.judged.wrong.mean())
    panels: dict[str, Panel] = {}
    for name in MEASURES:
        thresholds, errors = second_guess(done.judged.suspicion(name), right, done.judged.guess_right[guess_of(name)])
        finite = (-thresholds < FAILED) & (-thresholds >= 0)
        x, y = -thresholds[finite][::-1], 100 * errors[finite][::-1] / len(right)
        drawn = int((y <= max(3 * nothing, float(y.min()))).nonzero()[0].max()) + 1 if len(y) else 0
        if drawn > 1:
            points = thinned(x[:drawn], y[:drawn])
            flat = Series("never taken", "natural", (points[0][0], points[0][-1]), (nothing, nothing))
            panels[name] = Panel(name, (Series("second guess below", "published", *points), flat))
    caption = "Error over the threshold of resistance below which the second guess is taken."
    norms = tuple(panel for name, panel in panels.items() if name != "Res_min")
    steps = tuple(panel for name, panel in panels.items() if name == "Res_min")
    figures = (("threshold", "threshold, L2", norms), ("threshold-steps", "threshold, steps", steps))
    return [Lines(name, caption, label, "errors, %", one, percent=False) for name, label, one in figures if one]


def _discriminators(done: Done) -> list[Item]:
    wrong = done.judged.wrong
    rows: list[tuple[Cell, ...]] = []
    for row in done.discriminator["rows"]:
        counts = (row["false_alarms"], row["missed"])
        judged = (row["accuracy"], auroc_words(row["auroc"]), row["aupr"], row["brier"])
        rows.append((row["learner"], row["on"], *counts, *judged))
    known = {one["score"]: one for one in done.run.read_json("resistance")["wrong_here"]}
    share = float(wrong.mean())
    constant = f"{100 - 100 * share:.2f} %"
    rows.append(("constant “right”", None, 0, int(wrong.sum()), constant, "0.500", share, share))
    for name in ("Res_max", DISTANCE, "confidence, from logits"):
        rows.append((name, "threshold", None, None, None, auroc_words(known[name]["auroc"]), known[name]["aupr"], None))
    columns = ("discriminator", "on", "false alarms", "missed", "accuracy", "AUROC", "AUPR", "Brier score")
    caption = (
        "Is the classifier wrong here? False alarms are right images called wrong; AUPR of the wrong images, of which "
        f"there are {int(wrong.sum())} in {len(wrong)}."
    )
    items: list[Item] = [Table(caption, columns, tuple(rows))]
    panels = tuple(_calibration(done, values) for values in ("norms", "confidences") if done.discriminator["rows"])
    if panels:
        words = (
            "Share of wrong images over the probability that a discriminator gives; on the diagonal it is calibrated."
        )
        items.append(Lines("calibration", words, "probability of wrong", "share of wrong images", panels))
    return items


def _calibration(done: Done, values: str) -> Panel:
    series = [Series("calibrated", "natural", (0.0, 1.0), (0.0, 1.0))]
    for row in done.discriminator["rows"]:
        if row["on"] == values:
            x, y, _ = zip(*row["calibration"], strict=True)
            series.append(Series(row["learner"], "other", x, y))
    return Panel(f"on {values}", tuple(series))


def _detection(done: Done) -> list[Item]:
    facts = done.detection
    detectors = tuple(facts["alarms"])
    attacks = tuple(row["attack"] for row in facts["rows"])
    items: list[Item] = []
    for kind, words in (
        ("static", "their own images"),
        ("adaptive", "images chosen by an attacker who knows the detector"),
    ):
        cells = tuple(
            tuple(row[kind][name]["caught"] if row["success"]["value"] else None for name in detectors)
            for row in facts["rows"]
        )
        caption = f"Adversarial images caught: {words}."
        items.append(Matrix(f"caught-{kind}", caption, "attack", "detector", attacks, detectors, cells))
    rows: list[tuple[Cell, ...]] = []
    for row in facts["rows"]:
        for name in detectors:
            static, adaptive = row["static"][name], row["adaptive"][name]
            pair = (auroc_words(static["auroc"]), auroc_words(adaptive["auroc"]))
            rows.append((row["attack"], row["success"], name, *pair, static["norm"], adaptive["norm"]))
    columns = ("attack", "success", "detector", "AUROC, static", "AUROC, adaptive", "mean L2, static", "adaptive")
    items.append(Table("Adversarial against clean images.", columns, tuple(rows)))
    alarms = tuple((name, facts["alarms"][name]) for name in detectors)
    items.append(Table("False alarms on clean test images.", ("detector", "false alarms"), alarms))
    return items
