"""What the study's page says of shape and texture."""

from typing import Any

from steelman.page import Cell, Grid, Item, Section, Table
from steelman.runs import Run
from steelman.studies.transfer.plan import Plan
from steelman.studies.transfer.shape import SHOWN, SIZE
from steelman.studies.transfer.words import LEVEL
from steelman.wording import p_text, share_text

KIND_WORDS = {"cue-conflict": "texture of another object", "edges": "edges", "silhouettes": "silhouettes"}


def sections(run: Run, plan: Plan) -> tuple[Section, ...]:
    """The section, where something was measured."""
    found = run.read_json("shape")
    if found["left_out"]:
        return ()
    text: list[str] = []
    items: list[Item] = []
    if found["a"]:
        text.append(
            f"A, with its 1,000 ImageNet classes and pictures of {SIZE} pixels, decides for the category with the "
            "largest mean probability of its classes, one of 16. The shape bias is the share of shapes among decisions "
            "for either the shape or the texture."
        )
        items += [_of_a(found["a"]), _pictures(found["a"])]
    if found["shared"]:
        text.append(_shared_text(found))
        items.append(_of_b(plan, found))
    return (Section("Shape and texture", tuple(text), tuple(items)),)


def findings(run: Run) -> tuple[str, ...]:
    """A's shape bias, and whether its frozen blocks see more or less shape than base B."""
    found = run.read_json("shape")
    words: list[str] = []
    if not found["left_out"] and found["a"]:
        bias = found["a"]["cue-conflict"]["bias"]
        words.append(
            f"Where shape and texture disagree, A decides for the shape in {share_text(bias)} pictures that it "
            "gives either name."
        )
    if not found["left_out"] and found["paired"]:
        (name, one), (_, base) = found["paired"]["shares"].items()
        p = found["paired"]["p"]
        more = "more" if one["value"] > base["value"] else "fewer"
        verdict = f"{more} than" if p < LEVEL else "not told apart from"
        words.append(
            f"Of renditions of {_listed(found['shared'])} without their texture, {name} names {share_text(one)}, "
            f"{verdict} base B, {share_text(base)} (McNemar {p_text(p)})."
        )
    return tuple(words)


def facts(run: Run, plan: Plan) -> dict[str, str]:
    """Why the section is missing, where it could be expected."""
    reason = run.read_json("shape")["left_out"]
    return {"shape and texture": f"left out: {reason}"} if reason and not plan.twin else {}


def _of_a(found: dict[str, Any]) -> Table:
    columns = ("pictures", "right shape", "right shape where the texture is not its own", "texture's class there")
    rows: list[tuple[Cell, ...]] = []
    for kind, row in found.items():
        rows.append((KIND_WORDS[kind], *(row[key] for key in ("all", "differ", "texture", "bias"))))
    caption = "A on renditions that mislead texture or have none (Geirhos et al. 2019), among 16 categories."
    return Table(caption, (*columns, "shape bias"), tuple(rows))


def _pictures(found: dict[str, Any]) -> Grid:
    words = tuple(text for row in found.values() for text in row["words"])
    caption = "Some of the pictures: their shape, where there is one their texture, and what A takes them for."
    return Grid("shapes", caption, "examples/shape.safetensors", SHOWN, words)


def _of_b(plan: Plan, found: dict[str, Any]) -> Table:
    kinds = found["arms"]
    rows = tuple((arm.name, *(kinds[kind][arm.name] for kind in kinds)) for arm in plan.arms)
    caption = (
        f"Right shapes on the pictures of {_listed(found['shared'])} whose texture is not their own, first seed; "
        "the networks choose among all of B's classes."
    )
    return Table(caption, ("network", *(KIND_WORDS[kind] for kind in kinds)), rows)


def _shared_text(found: dict[str, Any]) -> str:
    num, names = len(found["shared"]), _listed(found["shared"])
    shared = f"only {num} of the 16 classes, {names}," if num > 1 else f"only one of the 16 classes, {names},"
    few = sum(next(iter(row.values()))["n"] for row in found["arms"].values())
    return (
        f"B shares {shared} so that its networks are judged on {few} pictures: differences must be large to count. A "
        f"guess among its {found['of']} classes is right in {100 / found['of']:.0f} %."
    )


def _listed(names: list[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
