"""metatele compare: what do the teleports add?"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from metatele.checks import at_least
from metatele.cli.arguments import INTERRUPTED, default_output, instantiate, make_training_parser, require
from metatele.cli.evaluate_command import family_spec, report
from metatele.cli.meta_train_command import train
from metatele.errors import ConfigError, SymmetryError
from metatele.meta_training.state import STATE
from metatele.optimizer import InnerOptimizer
from metatele.sampling import sample_meta_batch
from metatele.task import TaskFamily
from metatele.teleports import Balance
from metatele.unroll import Unroll

# The optimizer itself, and its controls: each is meta-trained with the same budget.
CONTESTANTS: dict[str, Callable[[InnerOptimizer], InnerOptimizer]] = {
    "teleport": lambda inner: inner,
    "no-teleport": lambda inner: InnerOptimizer(inner.update),
    "balance": lambda inner: InnerOptimizer(inner.update, Balance()),
}


def make_parser() -> ArgumentParser:
    """The command's arguments."""
    parser = make_training_parser(
        "Meta-train an optimizer three times with equal budgets: with its teleport, without, and with the closed-form "
        "balance rule in its place. Then evaluate all three and plain baselines on held-out tasks."
    )
    parser.add_argument("--output", type=str | None, help="folder (default: runs/NAME of the config)")
    parser.add_argument("--evaluation.tasks", type=int, default=64, help="held-out tasks")
    parser.add_argument("--evaluation.steps", type=int | None, help="inner steps (default: unroll.steps)")
    return parser


def run(parser: ArgumentParser, config: Namespace) -> int:
    """Run the command; it goes on where an interrupted one stopped."""
    require(config, "family", "optimizer.update")
    made = instantiate(parser, config)
    families = made.family if isinstance(made.family, list) else [made.family]
    specs = config.family if isinstance(config.family, list) else [config.family]
    steps = made.unroll.steps if config.evaluation.steps is None else config.evaluation.steps
    at_least(1, **{"evaluation.tasks": config.evaluation.tasks, "evaluation.steps": steps})
    output = Path(config.output or default_output(config))
    trained: dict[str, InnerOptimizer] = {}
    for name in _possible(made.optimizer, families):
        folder = output / name
        result = train(parser, config, folder, (folder / STATE).is_file(), title=name, change=CONTESTANTS[name])
        if not result.finished:
            print("metatele: stopped; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
        trained[name] = result.optimizer
    for number, (family, spec) in enumerate(zip(families, specs, strict=True)):
        where = output / "evaluation" if len(families) == 1 else output / f"evaluation-{number}-{type(family).__name__}"
        settings = {"tasks": config.evaluation.tasks, "steps": steps, "seed": config.seed, "device": config.device}
        report(trained, family, family_spec(spec), where, **settings)
    return 0


def _possible(inner: InnerOptimizer, families: list[TaskFamily]) -> list[str]:
    """The contestants that can be meta-trained, each tried out for one step before any time is spent.

    Raises: ConfigError if there would be nothing to compare.
    """
    if not inner.teleport.moves:
        raise ConfigError("compare needs an optimizer that teleports; set optimizer.teleport, or use meta-train")
    names = []
    for name, change in CONTESTANTS.items():
        changed = change(copy.deepcopy(inner))
        if not changed.learned:
            print(f"{name}: left out, because {type(changed.update).__name__} alone has nothing to meta-train")
            continue
        try:
            for family in families:
                play = Unroll(changed, sample_meta_batch(family, "train", range(1)), 1)
                play.window(play.start(), 1, differentiable=False)
        except SymmetryError as error:
            if name != "balance":
                raise
            print(f"{name}: left out, because the network has no such rule ({str(error).splitlines()[0]})")
            continue
        names.append(name)
    return names
