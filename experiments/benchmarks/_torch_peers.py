"""What a user of PyTorch would write for a sweep over training runs: a loop, or torch.func over all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from experiments.benchmarks._workloads import Workload

DECAY, MOMENTUM = 1e-2, 0.01


def network(work: Workload, *, running: bool = True) -> Any:
    """Linear layers with a bias, batch norm and ReLU each, and a linear head; or a transformer."""
    from torch import nn  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    if work.heads:
        return _transformer()(work.width, work.depth, work.heads)
    layers: list[Any] = []
    inputs = 1 if work.convolutional else 64
    options = {"momentum": MOMENTUM, "track_running_stats": running}
    for _ in range(work.depth):
        if work.convolutional:
            layers += [nn.Conv2d(inputs, work.width, 3, padding=1), nn.BatchNorm2d(work.width, **options)]
        else:
            layers += [nn.Linear(inputs, work.width), nn.BatchNorm1d(work.width, **options)]
        layers.append(nn.ReLU())
        inputs = work.width
    if work.convolutional:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


@functools.cache  # torch.func stacks modules of one class
def _transformer() -> Any:
    """Class of models with pre-norm blocks over the rows of a digit, their mean, and a linear head."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere
    from torch import nn  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    class Transformer(nn.Module):
        def __init__(self, width: int, depth: int, heads: int):
            super().__init__()
            self.embed = nn.Linear(8, width)
            self.position = nn.Parameter(0.02 * torch.randn(8, width))
            options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
            blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(depth)]
            self.blocks, self.norm, self.head = (
                nn.Sequential(*blocks),
                nn.LayerNorm(width),
                nn.Linear(width, 10),
            )

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.embed(x) + self.position)).mean(-2))

    return Transformer


def tensors(work: Workload) -> tuple[Any, Any]:
    """Training images, channels first, and labels."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = work.data()
    x = torch.tensor(images)
    return (x.movedim(-1, 1).contiguous() if work.convolutional else x), torch.tensor(labels).long()


def looped(threads: int, **options: Any) -> tuple[Callable[[], Any], int]:
    """One run after the other."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere
    from torch import nn  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    work = Workload(**options)
    torch.set_num_threads(threads)
    x, y = tensors(work)

    def once() -> None:
        for seed, rate in enumerate(work.rates()):
            torch.manual_seed(seed)
            net = network(work)
            optimizer = torch.optim.SGD(net.parameters(), float(rate), weight_decay=DECAY)
            losses = torch.empty(work.steps)
            for step in range(work.steps):
                batch = torch.randint(len(x), (work.batch,))
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                losses[step] = loss.detach()
            losses.cpu()  # all is done then, on a GPU, too

    return once, work.units


def stacked(threads: int, **options: Any) -> tuple[Callable[[], Any], int]:
    """All runs at once, without running statistics, which torch.func does not update."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere
    from torch import nn  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere
    from torch.nn.attention import SDPBackend, sdpa_kernel  # pyright: ignore[reportMissingImports]

    work = Workload(**options)
    torch.set_num_threads(threads)
    x, y = tensors(work)
    net = network(work, running=False)

    def loss_fn(params, inputs, labels):
        return nn.functional.cross_entropy(torch.func.functional_call(net, params, (inputs,)), labels)

    gradient = torch.func.vmap(torch.func.grad_and_value(loss_fn))
    rates = torch.tensor(work.rates())

    def once() -> None:
        torch.manual_seed(0)
        nets = [network(work, running=False) for _ in range(work.models)]
        params, _ = torch.func.stack_module_state(nets)
        params = {name: value.detach() for name, value in params.items()}
        losses = torch.empty(work.steps, work.models)
        for step in range(work.steps):
            batch = torch.randint(len(x), (work.models, work.batch))
            with sdpa_kernel(SDPBackend.MATH):  # vmap has no rule for the others, and calls them one by one
                grads, losses[step] = gradient(params, x[batch], y[batch])
            for name, value in params.items():
                rate = rates.reshape(-1, *[1] * (value.ndim - 1))
                value -= rate * (grads[name] + DECAY * value)
        losses.cpu()

    return once, work.units
