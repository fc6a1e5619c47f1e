"""The same network in fewer steps, for bounds that are trained on."""

from dataclasses import replace

from torch import nn

from steelman.bounds.graph import Graph, Kind, Mean, Norm, Product, Step


def fold(graph: Graph) -> Graph:
    """The same network, with fewer steps: convolutions and linear layers take in what belongs to them alone.

    That is the batch normalisation after one, and before a linear layer the flattening of images to vectors.
    """
    steps: list[Step] = []
    new_place = {0: 0}
    for place, step in enumerate(graph.steps, 1):
        before = graph.steps[step.inputs[0] - 1] if step.inputs and step.inputs[0] else None
        merged = None
        if before is not None and len(before.node.users) == 1:
            merged = _merged(before.kind, step.kind, steps[new_place[step.inputs[0]] - 1].kind)
        if merged is not None:
            new_place[place] = new_place[step.inputs[0]]
            steps[new_place[place] - 1] = Step(merged, steps[new_place[place] - 1].inputs, step.node)
        else:
            steps.append(Step(step.kind, tuple(new_place[one] for one in step.inputs), step.node))
            new_place[place] = len(steps)
    return Graph(graph.module, tuple(steps))


def _merged(before: Kind, kind: Kind, folded: Kind) -> Product | None:
    """Two kinds as one; `folded` is the first with what it took in already."""
    if isinstance(before, Product) and isinstance(kind, Norm) and isinstance(folded, Product):
        return replace(folded, norm=kind.module)
    if isinstance(before, Mean) and isinstance(kind, Product) and isinstance(kind.module, nn.Linear):
        flatten = before.function
        if isinstance(flatten, nn.Flatten) and (flatten.start_dim, flatten.end_dim) == (1, -1):
            return replace(kind, flat=True)
    return None
