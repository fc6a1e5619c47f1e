"""The guard around a model, micro-batches, and the fast gradient of a first layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import engine
from steelman.engine import chunk_size, forward, guarded, micro_batch, predict, steady_allocator
from steelman.errors import UsageError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolution(*sizes: int, seed: int = 0, **options: object) -> nn.Conv2d:
    layer = nn.Conv2d(*sizes, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)) / 3)
    return layer


def net() -> nn.Sequential:
    return nn.Sequential(
        convolution(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        convolution(8, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )


# ---- guarded


def test_inside_a_guard_a_model_is_in_eval_mode_and_frozen():
    model = net().train()
    with guarded(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_guard_restores_each_module_and_parameter_by_itself():
    model = net()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    for fails in (False, True):
        try:
            with guarded(model):
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert [module.training for module in model] == [True, False, True, True, True, True, True]
        assert not model[4].weight.requires_grad
        assert model[0].weight.requires_grad


def test_a_guard_keeps_weights_where_they_were_in_memory():
    model = net()
    before = [(p.data_ptr(), p.stride(), p.is_contiguous()) for p in model.parameters()]
    with guarded(model), guarded(model):
        assert torch.equal(model[4].weight, net()[4].weight)
        assert model[4].weight.is_contiguous(memory_format=torch.channels_last)
    assert [(p.data_ptr(), p.stride(), p.is_contiguous()) for p in model.parameters()] == before


def test_a_guard_changes_no_output():
    model, x = net().eval(), torch.rand(5, 1, 8, 8, generator=seeded())
    expected = model(x)
    with guarded(model):
        torch.testing.assert_close(model(x), expected)
    assert torch.equal(model(x), expected)


def test_a_weight_shared_by_two_layers_stays_shared():
    model = nn.Sequential(convolution(3, 3, 3, padding=1), convolution(3, 3, 3, padding=1))
    model[1].weight = model[0].weight
    with guarded(model):
        assert model[0].weight is model[1].weight
    assert model[0].weight is model[1].weight
    assert model[0].weight.requires_grad


def test_a_forward_that_someone_else_put_on_a_layer_is_left_there():
    model, x = nn.Sequential(convolution(1, 2, 3)), torch.rand(1, 1, 4, 4, generator=seeded())
    own = lambda x: torch.zeros(len(x), 2)  # noqa: E731
    model[0].forward = own
    with guarded(model):
        assert torch.equal(model(x), torch.zeros(1, 2))
    assert model[0].forward is own


def test_guards_may_be_nested_and_the_outer_one_holds_on():
    model = net()
    with guarded(model):
        outer = model[0].__dict__["forward"]
        with guarded(model):
            assert model[0].__dict__["forward"] is outer
        assert model[0].__dict__["forward"] is outer
        assert not model[0].training
        assert not model[0].weight.requires_grad
    assert "forward" not in model[0].__dict__
    assert model.training


def test_gradients_that_the_model_holds_are_not_touched():
    model, x = net(), torch.rand(4, 1, 8, 8, generator=seeded())
    model(x).sum().backward()
    before = [(id(p.grad), p.grad.clone()) for p in model.parameters()]
    with guarded(model):
        x.requires_grad_()
        torch.autograd.grad(model(x).sum(), x)
    for parameter, (identity, grad) in zip(model.parameters(), before, strict=True):
        assert id(parameter.grad) == identity
        assert torch.equal(parameter.grad, grad)


# ---- the gradient of a first layer


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "size", "bias"),
    [
        (1, 3, 1, 0, (8, 8), True),
        (3, 3, 1, 1, (9, 7), True),
        (1, 4, 2, 1, (28, 28), False),
        (2, 5, 3, 2, (11, 12), True),
        (4, (3, 5), (2, 1), (0, 2), (10, 9), True),
        (1, 2, 5, 0, (13, 6), True),
        (3, 1, 1, 0, (4, 4), True),
    ],
)
def test_the_gradient_of_a_first_layer_is_autograds_own(channels, kernel, stride, padding, size, bias):
    layer = convolution(channels, 6, kernel, stride=stride, padding=padding, bias=bias)
    x = torch.rand(3, channels, *size, generator=seeded()).requires_grad_()
    weights = torch.randn(layer(x).shape, generator=seeded(1))
    expected = layer(x)
    (right,) = torch.autograd.grad((expected.tanh() * weights).sum(), x)
    with guarded(layer):
        assert "forward" in layer.__dict__  # the path under test
        found = layer(x)
        (grad,) = torch.autograd.grad((found.tanh() * weights).sum(), x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-5)


def test_a_model_that_climbs_its_own_gradient_keeps_its_second_derivatives():
    """Purification and other layers take a gradient in their forward: without the second ones it would be masked."""

    class Climbing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = convolution(1, 3, 3, stride=2, padding=1), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.inner(x).tanh().sum(), x, create_graph=True)
            return self.outer(slope.flatten(1))

    model, x = Climbing(), torch.rand(2, 1, 4, 4, generator=seeded()).requires_grad_()
    (right,) = torch.autograd.grad(model(x).square().sum(), x)
    assert right.abs().max() > 1e-3
    with guarded(model):
        assert "forward" in model.inner.__dict__
        (grad,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_looked_at_as_rows_stays_as_it_is():
    """Weight standardisation calls `weight.view(out, -1)`, which channels-last memory would refuse."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.weight.view(len(self.weight), -1)
            rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
            return self._conv_forward(x, rows.view_as(self.weight), self.bias)

    layer, x = Standardised(2, 3, 3), torch.rand(2, 2, 6, 6, generator=seeded())
    expected = layer(x)
    with guarded(layer):
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        convolution(5, 6, 3),
        convolution(2, 6, 3, groups=2),
        convolution(1, 6, 3, dilation=2),
        convolution(1, 6, 3, padding="same"),
        convolution(1, 6, 3, padding=1, padding_mode="circular"),
    ],
)
def test_other_layers_keep_their_own_gradient(layer):
    x = torch.rand(2, layer.in_channels, 8, 8, generator=seeded()).requires_grad_()
    (right,) = torch.autograd.grad(layer(x).square().sum(), x)
    with guarded(layer):
        assert "forward" not in layer.__dict__
        (grad,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(grad, right)


def test_a_subclass_of_a_convolution_keeps_its_own_forward():
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer, x = Doubled(1, 2, 3), torch.rand(1, 1, 5, 5, generator=seeded())
    expected = layer(x)
    with guarded(layer):
        torch.testing.assert_close(layer(x), expected)


# ---- micro-batches


def test_a_micro_batch_depends_on_model_and_shape_only():
    model = net().eval()
    x = torch.rand(9, 1, 8, 8, generator=seeded())
    sizes = {micro_batch(model, x[: n + 1]) for n in range(9)}
    assert len(sizes) == 1


def test_larger_models_and_images_get_smaller_micro_batches(monkeypatch):
    monkeypatch.setattr(engine, "ACTIVATION_FLOATS", 10_000)
    flat = nn.Flatten()
    assert micro_batch(flat, torch.zeros(3, 1, 10, 10)) == 48  # of 10,000 / 200: input, output
    assert micro_batch(flat, torch.zeros(3, 1, 20, 20)) == 8  # of 10,000 / 800
    assert micro_batch(nn.Sequential(flat, nn.Identity()), torch.zeros(3, 1, 10, 10)) == 32  # of 10,000 / 300
    assert micro_batch(flat, torch.zeros(3, 1, 200, 200)) == engine.ROWS  # fewer would be filled up to it
    assert micro_batch(flat, torch.zeros(3, 1, 1, 1)) == engine.LARGEST_BATCH


def test_measuring_a_micro_batch_leaves_no_hooks_behind_even_after_an_error():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = nn.Sequential(nn.Flatten(), Broken())
    with pytest.raises(RuntimeError, match="broken"):
        micro_batch(model, torch.zeros(1, 1, 2, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_chunk_holds_a_bounded_number_of_pixels():
    assert chunk_size(torch.zeros(1, 1, 28, 28)) == engine.LARGEST_CHUNK
    large = torch.zeros(1, 3, 512, 512)
    assert chunk_size(large) == engine.CHUNK_FLOATS // large.numel()
    assert chunk_size(torch.zeros(1, 1, 2048, 2049)) == 1


def test_predictions_do_not_depend_on_the_batch():
    model, x = net().eval(), torch.rand(7, 1, 8, 8, generator=seeded())
    expected = model(x)
    for batch in (None, 1, 3, 7, 100):
        found = predict(model, x, batch)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


# ---- outputs


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: x, r"returned shape \((\d+), 1, 2, 2\) for \1 images"),
        (lambda x: x.flatten(), r"returned shape \(\d+,\) for \d+ images"),
        (lambda x: x.flatten(1)[:, :1], r"returned shape \((\d+), 1\) for \1 images"),
        (lambda x: x.flatten(1)[:1], r"returned shape \(1, 4\) for \d+ images"),
        (lambda x: (x, x), r"returned a tuple for \d+ images"),
    ],
)
def test_what_is_no_logits_is_named(output, words):
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output(x)

    for call in (forward, lambda model, x: predict(model, x, 3)):
        with pytest.raises(UsageError, match=words + r"\. Expected a tensor of logits .* two classes or more"):
            call(Odd(), torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize("n", [0, 1, 3, 8, 9])
def test_images_are_filled_up_to_a_multiple_of_eight_and_nobody_sees_it(n):
    """An image alone would get other last bits than in a batch, and after many steps another adversarial image."""
    sizes: list[int] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return torch.stack((x.square().flatten(1).sum(1), x.flatten(1).sum(1)), 1)

    x = torch.rand(n, 1, 2, 2, generator=seeded()).requires_grad_()
    logits = forward(Watched(), x)
    torch.testing.assert_close(logits, Watched()(x))
    assert sizes[0] == {0: 0, 1: 8, 3: 8, 8: 8, 9: 16}[n]
    if n:
        (grad,) = torch.autograd.grad(logits[:, 0].sum(), x)
        torch.testing.assert_close(grad, 2 * x.detach())


def test_logits_are_float32_whatever_the_model_computes_in():
    class Low(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).bfloat16()

    assert forward(Low(), torch.zeros(1, 1, 2, 2)).dtype == torch.float32


# ---- memory


def test_the_allocator_is_set_once_and_set_back_by_the_outermost(monkeypatch):
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(engine, "_mallopt", lambda: lambda option, value: calls.append((option, value)))
    with steady_allocator():
        assert [value for _, value in calls] == [2**30, 2**30]
        with pytest.raises(RuntimeError), steady_allocator():
            raise RuntimeError
        assert len(calls) == 2
    assert [value for _, value in calls[2:]] == [32 * 2**20, 64 * 2**20]
    assert [option for option, _ in calls] == [-3, -1, -3, -1]


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(engine.sys, "platform", "darwin")
    assert engine._mallopt.__wrapped__() is None
    monkeypatch.setattr(engine.sys, "platform", "linux")

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(engine.ctypes, "CDLL", missing)
    assert engine._mallopt.__wrapped__() is None
    monkeypatch.setattr(engine, "_mallopt", lambda: None)
    with steady_allocator(), steady_allocator():
        pass


def test_all_of_it_together_gives_the_gradient_of_the_plain_model():
    model, x = net().eval(), torch.rand(4, 1, 8, 8, generator=seeded())
    y = torch.tensor([0, 1, 2, 0])
    x.requires_grad_()
    (right,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    for _ in range(2):
        with guarded(model):
            (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
        torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-6)


def test_a_model_that_writes_over_its_images_is_refused():
    """torchvision's Normalize(inplace=True): with eight images, which are not copied, the caller's own would change."""
    x = torch.rand(8, 1, 6, 6, generator=seeded())
    model = nn.Sequential(nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(36, 3))
    for number in (7, 8):
        with pytest.raises(UsageError, match=r"writes over the images .* take inplace=False there"):
            forward(model, x[:number].clone())


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_a_scripted_model_is_asked_like_any_other():
    x = torch.rand(5, 1, 8, 8, generator=seeded())
    model = net().eval()
    for scripted in (torch.jit.script(model), torch.jit.trace(model, x)):
        assert micro_batch(scripted, x) > 0
        with guarded(scripted):
            torch.testing.assert_close(predict(scripted, x), predict(model, x))
