"""What a gradient-norm teleport costs, in optimizer steps of the same network, in the same run.

    python -m benchmarks.teleports [--repeats 9] [--networks 100] [--threads 1]

The network is 784-16-10-10 with LeakyReLU(0.1), the batch 200 rows, the teleport 10 ascent steps of
the gradient norm along positive scaling. One network: `metatele.teleport` against steps of
torch.optim.Adam with zero_grad, forward and backward on the same batch. Stacked: the same teleport of
many networks at once, each on a batch of its own. Medians of repeats taken in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import metatele
from metatele.landscape import Landscape
from metatele.symmetry import group_of
from metatele.task.params import Params
from metatele.teleports import LevelSetTeleport, NullSpaceTeleport, OptimisedTeleport, Teleport

ROWS, STEPS = 200, 10


def network() -> nn.Sequential:
    """The MLP of the paper's image experiments."""
    return nn.Sequential(nn.Linear(784, 16), nn.LeakyReLU(0.1), nn.Linear(16, 10), nn.LeakyReLU(0.1), nn.Linear(10, 10))


def optimizer_step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    """An ordinary step of torch's Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def model_teleport(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], by: Teleport) -> Callable[[], None]:
    """The user-level teleport, checks and all, from the same point every time."""
    start = {k: v.clone() for k, v in model.state_dict().items()}

    def run() -> None:
        metatele.teleport(model, batch, nn.functional.cross_entropy, by=by)
        model.load_state_dict(start)

    return run


def stacked_teleport(networks: int, by: OptimisedTeleport) -> Callable[[], None]:
    """The climb of `networks` networks at once."""
    models = [network() for _ in range(networks)]
    params: Params = {
        k: torch.stack([dict(m.named_parameters())[k].detach() for m in models])
        for k, _ in models[0].named_parameters()
    }
    x, y = torch.randn(networks, ROWS, 784), torch.randint(10, (networks, ROWS))
    landscape = Landscape(models[0], nn.functional.cross_entropy, x, y, group_of(models[0]))

    def run() -> None:
        algebra, _ = by.climb.run(landscape, params)
        landscape.group.act(landscape.group.exp(algebra), params, x)

    return run


def timed(runs: dict[str, tuple[Callable[[], None], int]], repeats: int) -> dict[str, list[float]]:
    """Seconds per call of each, averaged over its number of calls in a row, in turn; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, (run, calls) in runs.items():
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            if repeat:
                seconds[name].append((time.perf_counter() - begin) / calls)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, batch = network(), (torch.randn(ROWS, 784), torch.randint(10, (ROWS,)))
    climb, many = OptimisedTeleport(steps=STEPS), f"gradient norm, {arguments.networks} networks stacked"
    seconds = timed(
        {
            "optimizer step": (optimizer_step(network(), batch), 50),
            "gradient norm": (model_teleport(model, batch, climb), 5),
            "gradient norm, the climb alone": (stacked_teleport(1, climb), 5),
            many: (stacked_teleport(arguments.networks, climb), 1),
            "level set": (model_teleport(model, batch, LevelSetTeleport(steps=STEPS)), 2),
            "null space": (model_teleport(model, batch, NullSpaceTeleport(steps=STEPS)), 2),
        },
        arguments.repeats,
    )
    step = statistics.median(seconds["optimizer step"])
    table = Table("teleport", "ms", "range", "optimizer steps", "per network")
    for name, values in seconds.items():
        middle, share = statistics.median(values), arguments.networks if name == many else 1
        span = f"{1e3 * min(values):.2f} to {1e3 * max(values):.2f}"
        table.add_row(name, f"{1e3 * middle:.2f}", span, f"{middle / step:.1f}", f"{middle / step / share:.2f}")
    Console().print(table)
    alone, stacked = (statistics.median(seconds[name]) for name in ("gradient norm, the climb alone", many))
    share = stacked / arguments.networks
    Console().print(f"stacked, a network's climb takes 1/{alone / share:.1f} of the time that it takes alone")


if __name__ == "__main__":
    main()
