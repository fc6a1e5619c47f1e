"""Can I trust this number? Checks of one outcome, each with a verdict in plain words and a remedy.

The list follows Carlini et al. 2019, On evaluating adversarial robustness (arXiv:1902.06705), and Athalye et al. 2018,
Obfuscated gradients give a false sense of security (arXiv:1802.00420).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, nn

from steelman.attacks import Attack, Nearest
from steelman.attacks.fgsm import FGSM
from steelman.attacks.found import predicts
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.data import Data
from steelman.engine import generator_for, guarded
from steelman.errors import UsageError
from steelman.evaluate import Outcome, accuracy, adversarial_accuracy, logits_of, strike
from steelman.losses import margin
from steelman.page import Check, Trust
from steelman.stats import Share, clopper_pearson, mcnemar, most_left
from steelman.threats import L0, Ball
from steelman.types import Logits

SAMPLE = 128  # images that the probes look at
SHORT = PGD(steps=20)
LONG = PGD(steps=60, loss="margin")
SCORES: Attack = Square(queries=200, rescale=True)  # short: what holds against 60 gradients should hold by far

Verdict = Literal["ok", "warn", "fail", "info"]


def examine(
    model: nn.Module,
    data: Data,
    outcome: Outcome,
    *,
    subject: str = "",
    generator: Generator | None = None,
    sample: int = SAMPLE,
) -> Trust:
    """All checks of an outcome: those its own rows answer, and probes of the model on its first `sample` images.

    `data` are the images that the outcome is about, in its order.

    Raises:
        UsageError: they are not.
    """
    if len(data) != len(outcome.y):
        raise UsageError(
            f"the outcome is about {len(outcome.y)} images, {len(data)} were given. Give those of the strike."
        )
    generator = generator or generator_for(data.images)
    checks = (*read(outcome), *probe(model, data.first(sample), outcome, generator=generator))
    return Trust(subject or f"{outcome.attack!r} within {outcome.threat!r}", checks)


def read(outcome: Outcome) -> Iterator[Check]:
    """The checks that need no further computation."""
    yield from _gradient_checks(outcome)
    yield _eight_bits(outcome)
    yield _radius(outcome)
    if int(outcome.rejected.sum()):
        yield _rejected(outcome)
    if outcome.proven.any():
        share = Share.of(outcome.proven & outcome.right)
        words = f"Bounds prove {share} to hold: whatever attack is tried, these stay right."
        yield Check("proven", "info", str(int(outcome.proven.sum())), words, "")
    if outcome.audited.any():
        yield _audit(outcome)
    if outcome.was_training:
        words = "The model was handed over in train mode. It was measured in eval mode; its own state is untouched."
        yield Check("train mode", "info", "train", words, "Call model.eval() before you measure elsewhere.")


def probe(model: nn.Module, few: Data, outcome: Outcome, *, generator: Generator) -> Iterator[Check]:
    """The checks that ask the model again; `few` are the first images of those that the outcome is about.

    A probe that does not search in the threat's norm is left out.

    Raises:
        UsageError: `few` are other images.
    """
    _check_same(few, outcome)
    threat, num = outcome.threat, len(few)
    with guarded(model):
        first, again = logits_of(model, few.pixels()), logits_of(model, few.pixels())
    flips = float((first.argmax(1) != again.argmax(1)).float().mean())
    yield from _output_checks(
        first, outcome.attack, flips, random=not torch.equal(first.nan_to_num(), again.nan_to_num())
    )
    if threat.eps == 0 or not outcome.right[:num].any():
        return
    one_step = type(threat).__name__ in FGSM.norms
    passes = _passes(outcome.attack)  # more than one for random models only

    def struck(attack: Attack, images: Data = few, within: Ball = threat) -> Outcome:
        return strike(model, images, dataclasses.replace(attack, samples=passes), within, generator=generator)

    short, long = struck(SHORT), struck(LONG)
    if one_step:
        yield _one_step(outcome.attack, struck(FGSM()).robust, short.robust)
    yield _more_steps(model, few, short, long)
    yield _unbounded(struck(LONG, within=threat.at(max(threat.eps, threat.largest(few.shape)))))
    held = (long.right & ~(outcome.broken[:num] | short.broken | long.broken)).nonzero().squeeze(1)
    noise = struck(Noise(tries=20)).broken[held]
    yield _noise(int(noise.sum()), len(held), flips)
    if type(threat).__name__ in SCORES.norms:
        scores = struck(SCORES, few.take(held)).broken if len(held) else noise
        yield _scores(int(scores.sum()), len(held), flips)
    if one_step:
        yield _label_leak(model, few, outcome.attack, threat)


def _gradient_checks(outcome: Outcome) -> Iterator[Check]:
    health, attacked = outcome.health, outcome.right & ~outcome.proven
    asked = attacked & (health.steps > 0)
    if asked.any():
        steps = health.steps[asked].float()
        nan, dead = health.nan[asked] / steps, health.dead[asked] == health.steps[asked]
        value = f"{_percent(nan.mean())} of entries, {_percent((nan > 0).float().mean())} of images"
        yield _check(
            "gradient NaN",
            "fail" if nan.any() else "ok",
            value,
            "No gradient entry was NaN."
            if not nan.any()
            else f"{value} have NaN gradients; the sign of NaN is 0, so those pixels were not attacked at all.",
            "Find the layer with an infinite derivative (a square root at 0, a division by 0) and smooth it, or "
            "evaluate with --repair-gradients.",
        )
        share = float(dead.float().mean())
        yield _check(
            "gradient zero",
            "fail" if share > 0.05 else "warn" if share > 0 else "ok",
            f"{_percent(share)} of images, {_percent((health.zero[asked] / steps).mean())} of entries",
            "Every image had a usable gradient."
            if not share
            else f"{_percent(share)} of the attacked images never had a usable gradient: their robustness is unknown.",
            "Attack with loss='margin' or 'dlr', on logits, with --repair-gradients, and without gradients (Square()).",
        )
        saturated = float((health.saturated[asked] / steps).mean())
        yield _check(
            "softmax saturated",
            "warn" if saturated > 0.05 else "ok",
            f"{_percent(saturated)} of evaluations",
            "The softmax stayed below 1.0 in float32 in nearly all evaluations."
            if saturated <= 0.05
            else f"In {_percent(saturated)} of the evaluations the confidence was exactly 1.0 in float32: "
            "the cross-entropy has no gradient there.",
            "Attack with loss='margin' or 'dlr'.",
        )
    if attacked.any() and outcome.threat.eps > 0:
        moved = health.moved[attacked]
        broken = outcome.margin[attacked] > 0  # a random model may break an image that has not moved yet
        still = float(((moved == 0) & ~broken).float().mean())
        yield _check(
            "pixels moved",
            "fail" if still > 0.01 else "ok",
            f"{_percent(moved.mean())} of pixels",
            "Every attacked image was changed."
            if not still
            else f"{_percent(still)} of the attacked images were never changed: they were not attacked at all.",
            "Look at the gradient checks above; robustness of an image that did not move means nothing.",
        )


def _eight_bits(outcome: Outcome) -> Check:
    broken = int(outcome.broken.sum())
    if not broken:
        return Check("8-bit survival", "info", "none broken", "No image was broken, so there is none to store.")
    share = int(outcome.survives.sum()) / broken
    words = f"{_percent(share)} of the broken images are still broken after rounding to 8 bits, as in a PNG."
    if share < 0.95:
        words += (
            " The attack looks for the nearest success, which lies on the boundary: rounding undoes that by design."
            if isinstance(outcome.attack, Nearest)
            else " An attack stops at its first success, often just across the boundary, so this is hard on it: "
            "the accuracy is not in doubt, the stored files are."
        )
    return _check(
        "8-bit survival",
        "ok" if share >= 0.95 else "warn",
        _percent(share),
        words,
        "Save as .npz or .safetensors, or attack with a larger eps.",
    )


def _rejected(outcome: Outcome) -> Check:
    share = _percent(int(outcome.rejected.sum()) / max(1, int(outcome.forwards.sum())))
    if outcome.attack.strays(outcome.threat):
        words = f"The search looks beyond eps by design: {share} of the candidates lay there and were not counted."
        return Check("candidates allowed", "ok", share, words)
    words = f"{share} of the candidates lay outside the threat and were not counted."
    return Check("candidates allowed", "info", share, words)


def _audit(outcome: Outcome) -> Check:
    """What the full ensemble found among the images that a budgeted attack gave up."""
    left = outcome.right & ~outcome.broken & ~outcome.proven & ~outcome.audited
    masks = (left, outcome.audited, outcome.sampled, outcome.audited & outcome.broken)
    others, audited, sampled, missed = (int(mask.sum()) for mask in masks)
    value = f"{missed} of {audited}"
    words = f"AutoAttack was run on {audited} images that the search gave up, and broke {missed}."
    if not others:
        return Check("missed breaks", "ok", value, words + " No image that holds was spared it.", "")
    hits = int((outcome.sampled & outcome.broken).sum())  # one of a random model may break when it is judged again
    bound = most_left(hits, sampled, others)
    drawn = (
        "" if sampled == audited else f" Of the last {sampled} of these, drawn at random, it broke {hits or 'none'}."
    )
    words += f"{drawn} Of the {others} others that hold it would break at most {bound} (95 % confidence)."
    return Check("missed breaks", "info", value, words, "Attack more images in full: Reliable(audit=100).")


def _radius(outcome: Outcome) -> Check:
    threat = outcome.threat
    height, width = outcome.x_adv.shape[2:]
    largest = threat.largest((outcome.x_adv.shape[1], height, width))
    beyond = math.isfinite(threat.eps) and threat.eps > largest
    enough = largest if isinstance(threat, L0) else largest / 2  # the way from any image to mid-grey
    grey = math.isfinite(threat.eps) and threat.eps >= enough
    clip = "" if threat.clip else " Pixels may leave [0, 1]: such images cannot be stored or shown."
    words = "eps lies within the pixel range."
    if math.isinf(threat.eps):
        words = "eps has no limit within the pixel range: how far each image holds is the question."
    elif beyond:
        words = f"eps {threat.eps:g} is beyond the pixel range: every image is allowed. Was eps meant for 0 to 255?"
    elif grey:
        words = f"eps {threat.eps:g} lets an attacker turn every image grey: no classifier can hold."
    verdict: Verdict = "fail" if beyond else "warn" if grey or clip else "ok"
    return _check("eps and range", verdict, f"{threat!r}", words + clip, "Choose a smaller eps, and clip.")


def _check_same(few: Data, outcome: Outcome) -> None:
    """The outcome's first rows are these images: it has their labels, and what it returns is near them.

    Raises:
        UsageError: they are not.
    """
    rows = slice(0, len(few))
    if (
        not torch.equal(few.labels, outcome.y[rows])
        or not outcome.threat.contains(outcome.x_adv[rows], few.pixels()).all()
    ):
        raise UsageError(
            f"the first {len(few)} rows of the outcome are about other images than those given. "
            "Give the images of the strike, in its order."
        )


def _output_checks(logits: Logits, attack: Attack, flips: float, *, random: bool) -> Iterator[Check]:
    silent = float((~predicts(logits)).float().mean())
    if silent:
        words = f"On {_percent(silent)} of the images the largest output is NaN or infinite: that is no prediction."
        yield _check(
            "outputs", "fail", _percent(silent), words, "Mend the model: it is neither right nor broken there."
        )
    probabilities = bool((logits.sum(1) - 1).abs().max() < 1e-4 and logits.min() >= 0)
    yield _check(
        "logits",
        "fail" if probabilities else "ok",
        "probabilities" if probabilities else "logits",
        "The outputs are probabilities (each row sums to 1): a loss on them saturates and hides the gradient."
        if probabilities
        else "The model returns logits.",
        "Return the values before the softmax.",
    )
    averaged = _passes(attack) > 1
    yield _check(
        "deterministic",
        "ok" if not random else "fail" if flips and not averaged else "warn",
        f"random, {_percent(flips)} of predictions differ" if random else "same twice",
        "The same image gives the same output twice."
        if not random
        else "The same image gives different outputs: one gradient of a random model is not its direction, and one "
        "answer not its answer." + (" The attack averages over draws." if averaged else ""),
        "Attack the mean over draws (expectation over transformation), such as PGD(samples=20).",
    )


def _passes(attack: Attack) -> int:
    """Of how many draws of a random model the attack, or one inside it, follows the mean gradient."""
    return max((one.passes() for one in _parts(attack) if one.needs == "gradients"), default=1)


def _parts(attack: Attack) -> Iterator[Attack]:
    """The attack and all attacks inside it."""
    yield attack
    inside = [getattr(attack, field.name) for field in dataclasses.fields(attack)]
    for one in (*inside, *getattr(attack, "members", ())):
        if isinstance(one, Attack):
            yield from _parts(one)


def _one_step(attack: Attack, fgsm: Share, short: Share) -> Check:
    """FGSM far weaker than PGD: the net learned the one step, not the task (Wong et al. 2020, section 4.2)."""
    weak = fgsm.value - short.value > 0.1
    return _check(
        "FGSM against PGD",
        "ok" if not weak else "fail" if isinstance(attack, FGSM) else "warn",
        f"{_percent(fgsm.value)} / {_percent(short.value)}",
        f"On {fgsm.n} images {_percent(fgsm.value)} hold against FGSM and {_percent(short.value)} against {SHORT!r}."
        + (" One step is too weak to judge this model." if weak else ""),
        "Report PGD or stronger, and train with more than one step.",
    )


def _more_steps(model: nn.Module, few: Data, short: Outcome, long: Outcome) -> Check:
    """More steps must not find much more, and must raise the loss at all."""
    with guarded(model):
        draws = [logits_of(model, few.pixels()) for _ in range(long.attack.passes())]
    clean = margin(torch.stack(draws).mean(0), few.labels)
    held = long.right & ~long.broken
    stuck = float((long.margin <= clean)[held].float().mean()) if held.any() else 0.0
    weak = short.robust.value - long.robust.value > 0.02
    words = (
        f"On {len(few)} images {_percent(short.robust.value)} hold against {SHORT!r} and "
        f"{_percent(long.robust.value)} against {LONG!r}."
    )
    if stuck > 0.01:
        words += f" On {_percent(stuck)} of the images that hold {LONG.steps} steps did not raise the loss at all."
    return _check(
        "more steps",
        "fail" if stuck > 0.01 else "warn" if weak else "ok",
        f"{_percent(short.robust.value)} / {_percent(long.robust.value)}",
        words,
        "Look at the gradient checks, and use an attack that needs no gradients."
        if stuck > 0.01
        else "Attack with more steps, or with loss='margin'.",
    )


def _unbounded(outcome: Outcome) -> Check:
    """Without a limit every attack must reach 0 % (Athalye et al. 2018, section 3.1)."""
    held = outcome.robust.value
    return _check(
        "unlimited eps",
        "fail" if held > 0.01 else "ok",
        _percent(held),
        f"With any image allowed {_percent(held)} of the images still hold: the gradients mislead the attack."
        if held > 0.01
        else "With any image allowed the attack breaks every image, as it must.",
        "The model masks its gradients: attack it without them, or through a stand-in (--repair-gradients, a Shield).",
    )


def _beyond(missed: int, n: int, chance: float) -> bool:
    """Whether so many breaks are more than the share of images of which a random model changes its mind by itself."""
    return missed > 0 and clopper_pearson(missed, n)[0] > chance


def _noise(missed: int, n: int, chance: float) -> Check:
    mislead = _beyond(missed, n, chance)
    return _check(
        "random noise",
        "fail" if mislead else "ok",
        f"{missed} of {n}",
        f"Random noise breaks {missed} of {n} images that the attack and {LONG!r} left: the gradients mislead."
        if mislead
        else f"Random noise breaks {missed} of {n} images that the gradient attacks left, no more than chance does."
        if missed
        else "Random noise breaks no image that the gradient attacks left.",
        "Use an attack that needs no gradients beside it.",
    )


def _scores(missed: int, n: int, chance: float) -> Check:
    """An attack without gradients must not beat those with (Carlini et al. 2019, section 4.8; Athalye et al. 2018)."""
    beaten = _beyond(missed, n, chance)
    return _check(
        "gradients against scores",
        "fail" if beaten else "ok",
        f"{missed} of {n}",
        f"{SCORES!r}, which needs no gradients, breaks {missed} of {n} images that the attack and {LONG!r} left: "
        "the model masks its gradients."
        if beaten
        else f"{SCORES!r}, which needs no gradients, breaks {missed or 'none'} of the {n} images that the gradient "
        f"attacks left{', no more than chance does' if missed else ''}.",
        "Judge this model by attacks without gradients, such as Square(), and by margin losses.",
    )


def _label_leak(model: nn.Module, few: Data, attack: Attack, threat: Ball) -> Check:
    """Accuracy on FGSM images above the natural one (Kurakin et al. 2017, arXiv:1611.01236, section 4.3)."""
    one_step = attack if isinstance(attack, FGSM) else FGSM()
    natural, attacked = accuracy(model, few), adversarial_accuracy(model, few, one_step, threat)
    test = mcnemar(attacked, natural)
    leaks = test.only_first > test.only_second and test.p < 0.01
    shares = _percent(attacked.float().mean()), _percent(natural.float().mean())
    return _check(
        "label leaking",
        "fail" if leaks else "ok",
        f"{shares[0]} / {shares[1]}",
        f"Accuracy is {shares[0]} on {one_step!r} images, wrong originals attacked too, {shares[1]} on the originals"
        + (f" (p = {test.p:.1g}): the attack's pattern tells the model the label." if leaks else "."),
        "Train and judge with attacks that do not take a single step from the true label.",
    )


def _check(name: str, verdict: Verdict, value: str, words: str, remedy: str) -> Check:
    return Check(name, verdict, value, words, remedy if verdict in ("warn", "fail") else "")


def _percent(share: float | torch.Tensor) -> str:
    return f"{100 * float(share):.1f} %"
