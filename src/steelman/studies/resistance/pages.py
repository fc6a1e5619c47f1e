"""What the study says: the page of the report, its findings in words, and tables of every image as CSV."""

import csv
import dataclasses
import datetime
import io
import math
from typing import TYPE_CHECKING

from steelman.page import Page, Section
from steelman.runs import environment
from steelman.stats import Paired
from steelman.studies.resistance import show_attacks, show_errors, show_held, verdicts
from steelman.studies.resistance.done import Done, Words
from steelman.wording import p_text, share_text

if TYPE_CHECKING:
    from steelman.studies.resistance import Resistance

_LEVEL = 0.05  # of a test that decides between words


def write_page(study: "Resistance", done: Done, command: str) -> None:
    """Leave `results/{page,resistance}.json`, `results/{attacks,images}.csv` and what the figures need."""
    words = Words(
        verdicts.quantiles(done.judged),
        verdicts.wrong_here(done.judged),
        verdicts.trusted(done.val, done.judged),
        verdicts.guesses(done.judged),
        verdicts.corrections(done.val, done.judged, done.reported.thresholds if done.reported else None),
    )
    done.run.write_json("resistance", dataclasses.asdict(words))
    done.run.write_text("results/attacks.csv", _attacks_csv(done))
    done.run.write_text("results/images.csv", _images_csv(done))
    page = Page(
        title=f"resistance on {done.test.name.split('/')[0]}, {study.preset}",
        question=study.question,
        headline=_headline(done, words),
        findings=_findings(done, words),
        sections=(
            *show_attacks.sections(done, type(study.data).__name__),
            *show_held.sections(done, words),
            *show_errors.sections(done, words),
            Section("Can these numbers be trusted?", (), tuple(done.trust)),
        ),
        rerun=command,
        facts=_facts(study, done),
    )
    done.run.write_json("page", dataclasses.asdict(page))


def _headline(done: Done, words: Words) -> str:
    accuracy = f"{done.subject.name} is right on {share_text(done.subject.shares['test'])} test images. "
    known = {row["score"]: row["auroc"] for row in words.wrong_here}
    if known["distance"] is None:
        return accuracy + f"Of the {len(done.test)} whose resistance was measured none is wrong: nothing to detect."
    best = max(("Res_N", "Res_max", "Res_min"), key=lambda name: known[name]["value"])
    return accuracy + (
        f"Low resistance tells the wrong ones with an AUROC of {known[best]['value']:.3f} ({best}, the best of three "
        f"in hindsight, attack C on the {done.plan.on}), the distance of the nearest other class with "
        f"{known['distance']['value']:.3f}, "
        f"the logits alone, without any attack, with {known['confidence, from logits']['value']:.3f}."
    )


def _findings(done: Done, words: Words) -> tuple[str, ...]:
    found = [_saturated(done), _second_guess(words), *_thresholds(words), *_discriminated(done), *_detected(done)]
    return tuple(sentence for sentence in found if sentence)


def _saturated(done: Done) -> str:
    facts = done.saturation
    if not facts["infinite"]["value"]:
        return f"Attack C on the softmax fails on none of {facts['infinite']['n']} images: no resistance is infinite."
    fails = f"Attack C on the softmax fails on {share_text(facts['infinite'])} images"
    if facts["median"] is None:
        return f"{fails}, and no reference attack breaks them."
    return (
        f"{fails}, the “infinite resistance”: {share_text(facts['sure_infinite'])} start with a confidence of "
        f"exactly 1.0 in float32 (of the others {share_text(facts['sure_finite'])}), "
        f"{share_text(facts['dead_infinite'])} with a gradient of exactly 0; {share_text(facts['pulled_infinite'])} "
        f"fell below 0.9 and were pulled back by the norm. On the margin of the logits "
        f"{share_text(facts['broken'], 2)} break (DDN), at a median L2 distance of {facts['median']:.2f}."
    )


def _second_guess(words: Words) -> str:
    rows = {row["guess"]: row for row in words.guesses}
    attack, plain = rows["C"]["corrected"], rows["runner-up"]["corrected"]
    if not attack["n"]:
        return ""
    return (
        f"The adversarial class of attack C corrects {share_text(attack)} wrong images, the class of "
        f"the second largest logit {share_text(plain)} (McNemar {p_text(rows['C']['p'])}); first and second guess "
        f"together leave {share_text(rows['C']['top2_error'], 2)} wrong."
    )


def _thresholds(words: Words) -> list[str]:
    row = min(words.corrections, key=lambda one: one["val"])
    n = row["nothing"]["n"]
    nothing, chosen, best = (round(row[key]["value"] * n) for key in ("nothing", "chosen", "best"))
    if not nothing:
        return []
    gain = "gains nothing" if chosen >= nothing else "corrects more than it spoils"
    gain = gain if row["p"] < _LEVEL or chosen >= nothing else "is not told apart from leaving it"
    return [
        f"Taking the second guess below a threshold of {row['measure']}, both chosen on val, {gain}: {chosen} errors "
        f"instead of {nothing} in {n} images (McNemar {p_text(row['p'])}; {best} at the best threshold in hindsight)."
    ]


def _discriminated(done: Done) -> list[str]:
    rows = [row for row in done.discriminator["rows"] if row["auroc"]]
    if not rows:
        return [
            f"Only {done.discriminator['learned_wrong']} images of train and val, or no test image, are wrong: "
            "too few for a discriminator."
        ]
    best = max(rows, key=lambda row: row["auroc"]["value"])
    constant = 1 - float(done.judged.wrong.mean())
    top = max(rows, key=lambda row: row["accuracy"]["value"])
    n, wrong = len(done.judged.wrong), int(done.judged.wrong.sum())
    paired = Paired.counted(wrong - top["missed"], top["false_alarms"], n)
    beaten = top["accuracy"]["value"] > constant and paired.p * len(rows) < _LEVEL  # the best of so many
    return [
        f"The best discriminator of {len(rows)}, in hindsight ({best['learner']}, on {best['on']}), has an AUROC of "
        f"{best['auroc']['value']:.3f} and an accuracy of {share_text(best['accuracy'])}; the constant answer "
        f"“right” has {100 * constant:.1f} %"
        + (f", which {top['learner']} on {top['on']} beats." if beaten else ", which none beats beyond chance.")
    ]


def _detected(done: Done) -> list[str]:
    pairs = [
        (row["static"][name]["caught"], row["adaptive"][name]["caught"], row["attack"], name)
        for row in done.detection["rows"]
        for name in row["static"]
        if row["success"]["value"] and row["static"][name]["caught"]["n"]
    ]
    if not pairs:
        return []
    drop = max(pairs, key=lambda one: one[0]["value"] - one[1]["value"])
    return [
        f"Against an attacker who knows the detector it can be worth little: {drop[3]} catches {share_text(drop[0])} "
        f"images of {drop[2]} as they are, and {share_text(drop[1])} chosen with the detector in view."
    ]


def _facts(study: "Resistance", done: Done) -> dict[str, str]:
    scale, env = done.plan.scale, environment()
    used = len(done.splits.train.first(scale.num_train))
    return {
        "data": f"{done.test.name}, {used} images to train, {len(done.splits.test)} to test",
        "resistance": f"of {len(done.test)} test images in {done.subject.name}; thresholds chosen on "
        f"{len(done.val.wrong)} images of val",
        "attack C": repr(done.plan.course()),
        "distance": repr(done.plan.attacks(2.0)["DDN"]),
        "training": "; ".join(f"{name_of_one.name} {_recipe(done, i)}" for i, name_of_one in enumerate(done.zoo)),
        "seed": str(done.plan.seed),
        "preset and scale": f"{study.preset}, {study.scale}",
        "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _recipe(done: Done, index: int) -> str:
    recipe = done.plan.recipe(done.plan.models[index])
    return f"{recipe.epochs} epochs of lr {recipe.lr:g}"


def _attacks_csv(done: Done) -> str:
    """A line for each network, norm, attack and image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("network", "p", "attack", "image", "label", "predicted", "success", "norm", "gradients", "class"))
    for network in done.zoo:
        kept = done.run.read_tensors(f"examples/attacks-{network.name}.safetensors")
        for row in done.attacks[network.name]:
            key = f"{row['attack']}-{row['p']:g}"
            columns = [kept[name].tolist() for name in ("label", "before")]
            columns += [kept[f"{name}-{key}"].tolist() for name in ("success", "norm", "steps", "after")]
            for image, (label, before, success, norm, steps, after) in enumerate(zip(*columns, strict=True)):
                size = "" if math.isnan(norm) else f"{norm:.6g}"
                where = (network.name, f"{row['p']:g}", row["attack"], image)
                writer.writerow((*where, label, before, int(success), size, steps, after))
    return text.getvalue()


def _images_csv(done: Done) -> str:
    """A line for each test image whose resistance was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (*done.judged.resistance, *done.judged.surety)
    writer.writerow(("image", "label", "predicted", "second guess of C", "class beyond", *names))
    columns = [done.test.labels.tolist(), done.subject.predicted("test")[: len(done.test)].tolist()]
    columns += [done.held.course.rival.tolist(), done.held.beyond.tolist()]
    scores = [{**done.judged.resistance, **done.judged.surety}[name].tolist() for name in names]
    for image, cells in enumerate(zip(*columns, *scores, strict=True)):
        writer.writerow((image, *cells[:4], *(f"{value:.6g}" for value in cells[4:])))
    return text.getvalue()
