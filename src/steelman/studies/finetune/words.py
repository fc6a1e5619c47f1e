"""What the study says in words: the headline, a finding for each network, and numbers in sentences."""

from dataclasses import dataclass
from typing import Any

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.studies.finetune.plan import Plan
from steelman.wording import p_text, share_text


@dataclass(frozen=True)
class Arm:
    """One network, fine-tuned against one attack: every epoch's row, and the full measures before and after."""

    model: str
    seed: int
    attack: Attack
    rows: tuple[dict[str, Any], ...]
    before: dict[str, Any]
    after: dict[str, Any]
    chance: float = 0.0  # the share of the most frequent class: the accuracy of naming it always

    @property
    def name(self) -> str:
        """The stem of this arm's files."""
        return f"{self.model}-{self.seed}-{type(self.attack).__name__}"

    @property
    def against(self) -> str:
        """The attack it was fine-tuned against, in a word."""
        return type(self.attack).__name__


def headline(plan: Plan, first: list[Arm]) -> str:
    """The study's outcome in a sentence."""
    arm = next(one for one in first if one.against == "FGSM") if _has_fgsm(first) else first[0]
    after = arm.after
    said = f"After fine-tuning {arm.model} on {arm.against} images, "
    fgsm, pgd = share_text(after["fgsm"]), share_text(after["pgd"])
    if _guesses(arm):
        return f"{said}{share_text(after['natural'])} test images are right: it only guesses."
    if _learned_the_attack(arm):
        return f"{said}{fgsm} hold against FGSM but only {pgd} against PGD-40: it learned the attack, not the task."
    return f"{said}{fgsm} hold against FGSM and {pgd} against PGD-40, at eps {plan.threat.eps:g}."


def findings(plan: Plan, first: list[Arm]) -> tuple[str, ...]:
    """What was found of each network before fine-tuning and after each arm."""
    words: list[str] = []
    for arm in first:
        before, after = arm.before, arm.after
        if arm is next(one for one in first if one.model == arm.model):
            words.append(
                f"{arm.model} before fine-tuning: {share_text(before['natural'])} test images are right; "
                f"FGSM at eps {plan.threat.eps:g} leaves {share_text(before['fgsm'])}, PGD-40 "
                f"{share_text(before['pgd'])}."
            )
        said = verdict(arm)
        words.append(
            f"{arm.model} after {len(arm.rows) - 1} epochs on {arm.against} images: natural "
            f"{share_text(after['natural'])}, FGSM {share_text(after['fgsm'])}, PGD-40 {share_text(after['pgd'])}: "
            f"{said} (same images, McNemar {p_text(after['p']['pgd'])})."
        )
        if after["fgsm_images"]["value"] > after["natural"]["value"] and after["p"]["leak"] < 0.01:
            words.append(
                f"{arm.model} is right on {share_text(after['fgsm_images'])} FGSM images but on "
                f"{share_text(after['natural'])} originals ({p_text(after['p']['leak'])}): the attack's pattern "
                "tells it the label. Counted as published, this looks like robustness."
            )
    return tuple(words)


def verdict(arm: Arm) -> str:
    """What fine-tuning made of the network, from the paired test of FGSM and PGD-40."""
    fgsm, pgd = arm.after["fgsm"]["value"], arm.after["pgd"]["value"]
    if _guesses(arm):
        return "it only guesses, so nothing is said of how it holds"
    if max(fgsm, pgd) < 0.1:
        return "it did not learn to hold"
    if _learned_the_attack(arm):
        return "it learned the attack, not the task"
    if fgsm > pgd and arm.after["p"]["pgd"] < 0.01:
        if fgsm - pgd > 0.05:
            return "it holds in part, and FGSM shows too much"
        return f"it holds against both, and FGSM shows {100 * (fgsm - pgd):.1f} points too much"
    return "it holds against both, not told apart"


def _learned_the_attack(arm: Arm) -> bool:
    """Fine-tuned on one step, and PGD-40 breaks much more than FGSM, beyond chance."""
    after = arm.after
    one_step = isinstance(arm.attack, FGSM)
    return one_step and after["fgsm"]["value"] - after["pgd"]["value"] > 0.1 and after["p"]["pgd"] < 0.01


def _guesses(arm: Arm) -> bool:
    """Its accuracy cannot be told from that of naming one class for every image."""
    return arm.after["natural"]["low"] <= arm.chance


def epoch_text(plan: Plan) -> str:
    """How the curves are to be read."""
    text = "Point 0 is the network before fine-tuning. Bands are 95 % Clopper-Pearson intervals."
    if plan.published:
        text += (
            " As published, FGSM counts every attacked image, those that were wrong before included; images may leave "
            "[0, 1]; BatchNorm and dropout are off in training; a new optimiser starts each epoch."
        )
    return text


def table_text(plan: Plan) -> str:
    """How the table is to be read."""
    return (
        "“As published” is the accuracy on all attacked images; “robust” counts an image only when it was right before "
        f"and is right after. Published figures are one run on MNIST at eps 0.35; here eps is {plan.threat.eps:g}."
    )


def eps_text(plan: Plan) -> str:
    """How the figure of accuracy over eps is to be read."""
    return f"At each eps the attack starts anew; {plan.scale.num_pgd} test images at most."


def _has_fgsm(first: list[Arm]) -> bool:
    return any(arm.against == "FGSM" for arm in first)
