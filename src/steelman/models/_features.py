"""The shape that the two nets of study `features` share: convolutions, a layer whose units are inverted, a head."""

from collections import OrderedDict

from torch import nn

from steelman.models.layers import dropout, flat_size


def feature_network(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    *,
    filters: tuple[int, int],
    units: int,
    conv_dropout: float,
    head_dropout: float,
) -> nn.Module:
    """Two 3x3 convolutions, pooling and `units` non-negative `features`; the `head` maps these to logits.

    Weights are Xavier uniform and biases 0, as Keras draws them. `name` stands in messages.

    Raises:
        UsageError: images of this shape are too small for the layers, or a dropout rate is no probability.
    """
    first, second = filters
    convolutions = [nn.Conv2d(shape[0], first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU(), nn.MaxPool2d(2)]
    size = flat_size(name, shape, nn.Sequential(*convolutions))
    features = [*convolutions, dropout(conv_dropout), nn.Flatten(), nn.Linear(size, units), nn.ReLU()]
    head = [dropout(head_dropout), nn.Linear(units, classes)]
    for layer in [*features, *head]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(OrderedDict(features=nn.Sequential(*features), head=nn.Sequential(*head)))
