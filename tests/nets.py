"""A small random net, and images with its own predictions as labels: what most tests of attacks need."""

import torch
from torch import Tensor, nn

N = 12
SHAPE = (1, 6, 6)


def net(classes: int = 4, seed: int = 0, last: nn.Module | None = None) -> nn.Sequential:
    """A random net with everything that an attack could disturb: a stem, BatchNorm, dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU()]
        head = [nn.Dropout(0.5), nn.Flatten(), nn.Linear(6 * 16, classes)]
        model = nn.Sequential(*layers, *head, *([last] if last else []))
        with torch.no_grad():
            model[1].running_var.fill_(0.25)
            model[7].weight.mul_(3)
            model[7].bias -= model.eval()(torch.rand(200, *SHAPE)).mean(0)  # every class is predicted somewhere
    return model.eval()


def task(model: nn.Module, n: int = N, seed: int = 0, wrong: int = 2) -> tuple[Tensor, Tensor]:
    """Images with the model's own predictions as labels, but for the last `wrong`."""
    x = torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed))
    x[:, :, 0] = 0  # a black edge, as in digits
    x[:, :, 1] = 1
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    if wrong:
        y[-wrong:] = (y[-wrong:] + 1) % logits.shape[1]
    return x, y


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
