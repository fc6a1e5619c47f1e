"""Checks of an outcome that ask the model again: weak and strong attacks beside the one that was used.

Carlini et al. 2019, On evaluating adversarial robustness (arXiv:1902.06705, section 4); Athalye et al. 2018,
Obfuscated gradients give a false sense of security (arXiv:1802.00420, section 3.1).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Generator, nn

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.found import predicts
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.data import Data
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.evaluate import Outcome, accuracy, adversarial_accuracy, logits_of, strike
from steelman.losses import margin
from steelman.page import Check
from steelman.stats import Share, clopper_pearson, mcnemar
from steelman.threats import Ball
from steelman.types import Logits, Mask
from steelman.wording import interval_text, percent

SHORT = PGD(steps=20)
LONG = PGD(steps=60, loss="margin")
SCORES: Attack = Square(queries=200, rescale=True)  # short: what holds against 60 gradients should hold by far
ALONE = 8  # images that are asked about one by one
CLEARLY, SLIGHTLY = 0.05, 0.01  # by which share of all images, at least, an attack misses what the probes break


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
    flips, random = (
        float((first.argmax(1) != again.argmax(1)).float().mean()),
        not torch.equal(first.nan_to_num(), again.nan_to_num()),
    )
    yield from _output_checks(first, outcome.attack, flips, random=random)
    if not random:
        yield _alone(model, few, first)
    if not outcome.right[:num].any():
        words = f"None of these {num} images is right: there was nothing to attack, and nothing is asked of the model."
        yield Check.of("right images", "warn", f"0 of {num}", words, "Give a trained model, and images like its own.")
    if threat.eps == 0 or not outcome.right[:num].any():
        return
    if outcome.target is not None:
        words = (
            "The attack aims at a class. FGSM against PGD, more steps, unlimited eps, random noise, gradients against "
            "scores and label leaking aim at none: they tell of the model, not of this number."
        )
        yield Check("target", "info", "aimed", words)
    passes = _passes(outcome.attack)  # more than one for random models only

    def struck(attack: Attack, images: Data = few, within: Ball = threat) -> Outcome:
        return strike(model, images, dataclasses.replace(attack, samples=passes), within, generator=generator)

    short, long = struck(SHORT), struck(LONG)
    fgsm = struck(FGSM()) if type(threat).__name__ in FGSM.norms else None
    unbounded = struck(LONG, within=threat.at(max(threat.eps, threat.largest(few.shape))))
    noise = struck(Noise(tries=20))
    held = (long.right & ~(outcome.broken[:num] | short.broken | long.broken)).nonzero().squeeze(1)
    probes = [one for one in (fgsm, short, long, noise) if one is not None]
    found = {one.attack: one.broken for one in probes}
    if type(threat).__name__ in SCORES.norms:
        scores = struck(SCORES, few.take(held)).broken if len(held) else noise.broken[held]
        found[SCORES] = torch.zeros_like(long.broken).index_copy(0, held, scores)
    if outcome.target is None:
        yield _strength(outcome, found, flips)
    if fgsm is not None:
        yield _one_step(outcome.attack, fgsm, short)
    yield _more_steps(model, few, short, long, flips)
    yield _unbounded(unbounded, flips)
    yield _noise(int(noise.broken[held].sum()), len(held), flips)
    if SCORES in found:
        yield _scores(int(found[SCORES].sum()), len(held), flips)
    if fgsm is not None:
        yield _label_leak(model, few, outcome.attack, threat)


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
        words = f"On {percent(silent)} of the images the largest output is NaN or infinite: that is no prediction."
        yield Check.of(
            "outputs", "fail", percent(silent), words, "Mend the model: it is neither right nor broken there."
        )
    probabilities = bool((logits.sum(1) - 1).abs().max() < 1e-4 and logits.min() >= 0)
    yield Check.of(
        "logits",
        "fail" if probabilities else "ok",
        "probabilities" if probabilities else "logits",
        "The outputs are probabilities (each row sums to 1): a loss on them saturates and hides the gradient."
        if probabilities
        else "The model returns logits.",
        "Return the values before the softmax.",
    )
    averaged = _passes(attack) > 1
    yield Check.of(
        "deterministic",
        "ok" if not random else "fail" if flips and not averaged else "warn",
        f"random, {percent(flips)} of predictions differ" if random else "same twice",
        "The same image gives the same output twice."
        if not random
        else "The same image gives different outputs: one gradient of a random model is not its direction, and one "
        "answer not its answer." + (" The attack averages over draws." if averaged else ""),
        "Attack the mean over draws (expectation over transformation), such as PGD(samples=20).",
    )


def _alone(model: nn.Module, few: Data, together: Logits) -> Check:
    """An image's output must not depend on which other images are asked about with it."""
    with guarded(model):
        alone = torch.cat([logits_of(model, few.pixels(slice(row, row + 1))) for row in range(min(ALONE, len(few)))])
    together = together[: len(alone)]
    largest = float(together.nan_to_num().abs().max())
    apart = not torch.allclose(alone.nan_to_num(), together.nan_to_num(), rtol=0.0, atol=0.01 * largest)
    changed = int((alone.argmax(1) != together.argmax(1)).sum())
    return Check.of(
        "one by one",
        "fail" if apart else "ok",
        f"{changed} of {len(alone)} predictions differ" if apart else "same alone",
        f"Asked about one by one, {len(alone)} images get other outputs than among others, {changed} of them another "
        "prediction: what is measured depends on the batch."
        if apart
        else "An image gets the same output alone as among others.",
        "Normalise by running statistics (BatchNorm in eval mode), and take a softmax over the classes (dim=1).",
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


def _strength(outcome: Outcome, probes: Mapping[Attack, Mask], flips: float) -> Check:
    """The attack against the probes, image by image: where they break clearly more, its number is too high."""
    hit = torch.stack(list(probes.values())).any(0)
    num = len(hit)
    held = outcome.right[:num] & ~outcome.broken[:num]
    missed = int((held & hit).sum())
    alone, together = Share.of(held), Share.of(held & ~hit)
    unusual = (1 - math.sqrt(max(0.0, 1 - 2 * flips))) / 2  # an answer, where two differ in that many cases
    chance = (1 - (1 - unusual) ** len(probes)) * alone.value  # each probe gives one for an image that held
    beyond = clopper_pearson(missed, num)[0] - chance
    told = f" Of a random model {percent(chance)} of all may break by chance." if flips else ""
    *others, last = map(repr, probes)
    return Check.of(
        "attack strength",
        "fail" if beyond > CLEARLY else "warn" if beyond > SLIGHTLY else "ok",
        f"{percent(alone.value)} / {percent(together.value)}",
        f"On {num} images {_within(alone)} hold against the attack; {', '.join(others)} and {last} break "
        f"{missed or 'none'} of these, which leaves {_within(together)}.{told}",
        "Report the lower share, and attack with more steps, with loss='margin', or with Reliable().",
    )


def _one_step(attack: Attack, one_step: Outcome, many_steps: Outcome) -> Check:
    """FGSM far weaker than PGD: the net learned the one step, not the task (Wong et al. 2020, section 4.2)."""
    fgsm, short = one_step.robust, many_steps.robust
    weak = fgsm.value - short.value > 0.1
    return Check.of(
        "FGSM against PGD",
        "ok" if not weak else "fail" if isinstance(attack, FGSM) else "warn",
        f"{percent(fgsm.value)} / {percent(short.value)}",
        f"On {fgsm.n} images {_within(fgsm)} hold against {one_step.attack!r} and {_within(short)} against "
        f"{many_steps.attack!r}." + (" One step is too weak to judge this model." if weak else ""),
        "Report PGD or stronger, and train with more than one step.",
    )


def _more_steps(model: nn.Module, few: Data, short: Outcome, long: Outcome, flips: float) -> Check:
    """More steps must not find much more, and must raise the loss at all."""
    with guarded(model):
        draws = [logits_of(model, few.pixels()) for _ in range(long.attack.passes())]
    clean = margin(torch.stack(draws).mean(0), few.labels)
    held = long.right & ~long.broken
    stuck = Share.of((long.margin <= clean)[held])
    still = _too_many(stuck, flips)
    weak = short.robust.value - long.robust.value > 0.02
    words = (
        f"On {len(few)} images {_within(short.robust)} hold against {short.attack!r} and {_within(long.robust)} "
        f"against {long.attack!r}."
    )
    if still:
        words += f" On {percent(stuck.value)} of the images that hold {LONG.steps} steps did not raise the loss at all."
    return Check.of(
        "more steps",
        "fail" if still else "warn" if weak else "ok",
        f"{percent(short.robust.value)} / {percent(long.robust.value)}",
        words,
        "Look at the gradient checks, and use an attack that needs no gradients."
        if still
        else "Attack with more steps, or with loss='margin'.",
    )


def _unbounded(outcome: Outcome, flips: float) -> Check:
    """Without a limit every attack must reach 0 % (Athalye et al. 2018, section 3.1)."""
    held, left = outcome.robust.value, _too_many(outcome.robust, flips)
    return Check.of(
        "unlimited eps",
        "fail" if left else "ok",
        percent(held),
        f"With any image allowed {percent(held)} of the images still hold: the gradients mislead the attack."
        if left
        else "With any image allowed the attack breaks every image, as it must."
        if not held
        else f"With any image allowed {percent(held)} of the images still hold, "
        + ("no more than by chance." if flips else "where none may."),
        "The model masks its gradients: attack it without them, or through a stand-in (--repair-gradients, a Shield).",
    )


def _too_many(share: Share, chance: float) -> bool:
    """Whether it is over 1 %, and of a random model beyond the share of images of which it changes its mind."""
    return share.value > 0.01 and (not chance or share.low > chance)


def _beyond(missed: int, n: int, chance: float) -> bool:
    """Whether so many breaks are more than the share of images of which a random model changes its mind by itself."""
    return missed > 0 and clopper_pearson(missed, n)[0] > chance


def _noise(missed: int, n: int, chance: float) -> Check:
    mislead = _beyond(missed, n, chance)
    return Check.of(
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
    return Check.of(
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
    shares = percent(float(attacked.float().mean())), percent(float(natural.float().mean()))
    return Check.of(
        "label leaking",
        "fail" if leaks else "ok",
        f"{shares[0]} / {shares[1]}",
        f"Accuracy is {shares[0]} on {one_step!r} images, wrong originals attacked too, {shares[1]} on the originals"
        + (f" (p = {test.p:.1g}): the attack's pattern tells the model the label." if leaks else "."),
        "Train and judge with attacks that do not take a single step from the true label.",
    )


def _within(share: Share) -> str:
    """A share with its interval; its n is told once in the sentence."""
    return interval_text(share.to_json())
