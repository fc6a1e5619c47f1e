"""Logits after a change within a window: those of the whole network, whatever the layers, the window and its place."""

import pytest
import torch
from torch import Tensor, nn

from steelman import windows as module
from steelman.attacks import square
from steelman.attacks.found import Found
from steelman.attacks.square import Square
from steelman.threats import Linf
from steelman.windows import Windows, windows
from tests.nets import seeded

SIDE = 24


def drawn(*layers: nn.Module) -> nn.Sequential:
    """The layers with random weights and statistics, in eval mode."""
    generator, model = seeded(1), nn.Sequential(*layers)
    for value in [*model.parameters(), *(one for one in model.buffers() if one.is_floating_point())]:
        value.data = torch.rand(value.shape, generator=generator) - 0.5 * (value.ndim > 1)
    return model.eval()


NETS = {
    "two cuts": drawn(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(162, 3)
    ),
    "strides": drawn(
        nn.Conv2d(2, 8, 4, stride=2),
        nn.BatchNorm2d(8),
        nn.Hardtanh(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(324, 3),
    ),
    "overlapping pools": drawn(
        nn.Conv2d(1, 8, 5), nn.MaxPool2d(3, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(648, 4)
    ),
    "groups": drawn(
        nn.Conv2d(2, 8, 3, groups=2, bias=False), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(392, 3)
    ),
}
CHANNELS = {name: net[0].in_channels for name, net in NETS.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts that save anything at all are made."""
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "MOVING", 1)


def pictures(channels: int = 1, n: int = 30) -> Tensor:
    return torch.rand((n, channels, SIDE, SIDE), generator=seeded())


def changed(x: Tensor, side: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The images with other pixels in a window each, first in every corner, then anywhere; where the windows are."""
    generator, end = seeded(seed), SIDE - side
    top, left = (torch.randint(0, end + 1, (len(x),), generator=generator) for _ in range(2))
    top[:4], left[:4] = torch.tensor([0, 0, end, end]), torch.tensor([0, end, 0, end])
    new = x.clone()
    for one, i, j in zip(new, top.tolist(), left.tolist(), strict=True):
        one[:, i : i + side, j : j + side] = torch.rand((len(one), side, side), generator=generator)
    return new, top, left


@pytest.mark.parametrize("name", NETS)
def test_the_logits_are_those_of_the_network_while_windows_move(name: str) -> None:
    model, x = NETS[name], pictures(CHANNELS[name])
    kept = windows(model, x, 7)
    assert kept is not None
    assert (kept.behind is not None) == (name == "two cuts")
    for seed, side in enumerate((1, 2, 3, 5, 6, 3, 12)):
        new, top, left = changed(x, side, seed)
        kept.look(top, left, side)
        with torch.no_grad():
            seen = torch.cat([kept.logits(rows, new[rows]) for rows in torch.arange(len(x)).split(7)])
            torch.testing.assert_close(seen, model(new), rtol=1e-5, atol=1e-5)
        stay = torch.rand(len(x), generator=seeded(seed)) < 0.5
        kept.keep(stay)
        x = torch.where(stay.view(-1, 1, 1, 1), new, x)
        fresh = windows(model, x, 7)
        torch.testing.assert_close(kept.kept, fresh.kept, rtol=1e-5, atol=1e-5)
        if kept.behind:
            torch.testing.assert_close(kept.behind.kept, fresh.behind.kept, rtol=1e-5, atol=1e-5)


def test_a_small_window_leaves_most_of_the_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two 3x3 convolutions and a pool: a window of 3 pixels reaches 4 by 4 values, which see 12 by 12 pixels."""
    model = drawn(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 3)
    )
    monkeypatch.setattr(module, "MOVING", 32)  # four times fewer values behind the pool
    x = pictures()
    kept = windows(model, x, 30)
    assert (kept.parts.stride, kept.parts.field, kept.parts.size) == (2, 6, (8, 10, 10))
    _, top, left = changed(x, 3, 0)
    kept.look(top, left, 3)
    assert kept.seen == 12
    assert kept.places.shape == (30, 16)
    kept.look(top, left, 15)
    assert kept.seen == 0  # the whole image


@pytest.mark.parametrize(("rows", "columns"), [(20, 64), (64, 20), (14, 96)])
def test_oblong_images_are_looked_at_along_both_sides(rows: int, columns: int) -> None:
    """Where a window reaches all values along the short side, it does not along the other."""
    model = drawn(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3, stride=2), nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(*model, drawn(nn.Linear(model(torch.zeros(1, 1, rows, columns)).shape[1], 3))).eval()
    x = torch.rand((40, 1, rows, columns), generator=seeded())
    kept = windows(model, x, 8)
    assert kept is not None
    for seed, side in enumerate((1, 3, 5, 9, 12)):
        generator = seeded(seed)
        top, left = (torch.randint(0, size - side + 1, (40,), generator=generator) for size in (rows, columns))
        new = x.clone()
        for one, i, j in zip(new, top.tolist(), left.tolist(), strict=True):
            one[:, i : i + side, j : j + side] = 1 - one[:, i : i + side, j : j + side]
        kept.look(top, left, side)
        with torch.no_grad():
            torch.testing.assert_close(kept.logits(torch.arange(40), new), model(new), rtol=1e-5, atol=1e-5)
        kept.keep(torch.ones(40, dtype=torch.bool))
        x = new


def test_some_of_the_images_go_on_alone() -> None:
    model, x = NETS["two cuts"], pictures()
    some = torch.arange(30) % 3 == 0
    kept = windows(model, x, 30).only(some)
    new, top, left = changed(x[some], 2, 0)
    kept.look(top, left, 2)
    with torch.no_grad():
        torch.testing.assert_close(kept.logits(torch.arange(10), new), model(new), rtol=1e-5, atol=1e-5)


def test_an_image_fares_alike_alone_and_among_others() -> None:
    model, x = NETS["two cuts"], pictures()
    kept = windows(model, x, 30)
    new, top, left = changed(x, 2, 0)
    kept.look(top, left, 2)
    with torch.no_grad():
        together = kept.logits(torch.arange(30), new)
        alone = torch.cat([kept.logits(torch.tensor([i]), new[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


class Sized(nn.Sequential):
    """Asks for the image's size behind the first layers, where it is no longer seen."""

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)).view(x.size(0), -1))


class Doubled(nn.Sequential):
    """Looks at the image twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)).flatten(1)) + x.mean()


@pytest.mark.parametrize(
    "model",
    [
        drawn(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4608, 3)),
        drawn(nn.Conv2d(1, 8, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(4608, 3)),
        drawn(nn.Conv2d(1, 8, (3, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(4224, 3)),
        drawn(nn.Conv2d(1, 8, 3, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(3200, 3)),
        drawn(nn.MaxPool2d(3, ceil_mode=True), nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 3)),
        drawn(nn.Conv2d(1, 8, 12), nn.ReLU(), nn.Flatten(), nn.Linear(1352, 3)),
        drawn(nn.Flatten(), nn.Linear(576, 3)),
        drawn(nn.Conv2d(1, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(3872, 3)),
        Sized(*drawn(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Linear(3872, 3))).eval(),
        Doubled(*drawn(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Linear(3872, 3))).eval(),
        drawn(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3872, 3)).double(),
    ],
    ids=["padding", "same", "oblong", "dilated", "ceil", "wide", "no window", "unknown", "size", "twice", "float64"],
)
def test_what_cannot_be_cut_is_left_whole(model: nn.Module) -> None:
    x = pictures().to(next(model.parameters()).dtype)
    assert windows(model, x, 30) is None


def test_too_little_saved_or_too_much_to_keep_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = NETS["groups"], pictures(2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "LEAST", 10**9)
        assert windows(model, x, 30) is None
    with monkeypatch.context() as patch:
        patch.setattr(module, "MEMORY", 30 * 8 * 22 * 22)
        assert windows(model, x, 30) is None
    assert windows(model, x, 30) is not None
    assert windows(model, x[:0], 30) is None


# ---- in random search


def attacked(queries: int = 400) -> Found:
    model = NETS["two cuts"]
    x = pictures(n=16)
    y = model(x).argmax(1)
    return Square(queries=queries, p_init=0.1).run(model, x, y, Linf(0.1), generator=seeded())


def test_random_search_finds_the_same_with_windows_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    logits = Windows.logits
    monkeypatch.setattr(Windows, "logits", lambda own, rows, x: (used.append(len(rows)), logits(own, rows, x))[1])
    mine = attacked()
    assert sum(used) > 1000
    monkeypatch.setattr(square, "windows", lambda *_: None)
    whole = attacked()
    assert 0 < int(whole.success.sum()) < 16
    assert torch.equal(mine.success, whole.success)
    assert torch.equal(mine.forwards, whole.forwards)
    torch.testing.assert_close(mine.x_adv, whole.x_adv)


def test_the_model_has_the_last_word_on_what_windows_take_for_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every image seen through windows seems to be of another class."""
    logits = Windows.logits
    monkeypatch.setattr(Windows, "logits", lambda own, rows, x: logits(own, rows, x).roll(1, 1))
    model, x = NETS["two cuts"], pictures(n=16)
    y = model(x).argmax(1)
    found = Square(queries=60, p_init=0.1).run(model, x, y, Linf(0.1), generator=seeded())
    with torch.no_grad():
        assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
    assert not found.success.all()
