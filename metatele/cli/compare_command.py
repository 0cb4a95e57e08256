"""metatele compare: what do the teleports add?"""

import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import default_output, instantiate, make_training_parser, require
from metatele.cli.command import Command
from metatele.cli.exit_codes import INTERRUPTED
from metatele.cli.meta_train_command import train
from metatele.cli.reporting import family_spec, report
from metatele.errors import ConfigError, SymmetryError
from metatele.evaluation import Learned
from metatele.evaluation.contestants.controls import only_scales
from metatele.meta_training.state import STATE
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import at_least
from metatele.symmetry import Kind, ProductGroup
from metatele.task.family import TaskFamily
from metatele.task.sampling import sample_meta_batch
from metatele.teleports import Balance, CanonicalTeleport, OrbitTeleport, Svd, White, Wout
from metatele.unroll.higher.unroll import Unroll

Control = Literal["balance", "balance-every", "svd", "svd-every", "white", "white-every", "wout", "wout-every"]
Change = Callable[[InnerOptimizer], InnerOptimizer]
RULES: dict[str, type[CanonicalTeleport]] = {"balance": Balance, "svd": Svd, "white": White, "wout": Wout}
EVERY = "-every"  # the rule at every step, not at step 0 only


class Compare(Command):
    """`metatele compare`."""

    def make_parser(self) -> ArgumentParser:
        parser = make_training_parser(
            "Meta-train an optimizer several times with equal budgets: with its teleport, without, and with "
            "closed-form "
            "rules in its place. Then evaluate all of them and plain baselines on held-out tasks."
        )
        parser.add_argument(
            "--controls",
            type=Literal["all", Control],
            nargs="+",
            default=["balance"],
            help="closed-form rules to meta-train with: at step 0, or at every step",
        )
        parser.add_argument(
            "--seeds", type=int, default=1, help="meta-train each with so many seeds: seed, seed + 1, ..."
        )
        parser.add_argument("--output", type=str | None, help="folder (default: runs/NAME of the config)")
        parser.add_argument("--evaluation.tasks", type=int, default=64, help="held-out tasks")
        parser.add_argument("--evaluation.steps", type=int | None, help="inner steps (default: unroll.steps)")
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command; it goes on where an interrupted one stopped."""
        require(config, "family", "optimizer.update")
        made = instantiate(parser, config)
        families = made.family if isinstance(made.family, list) else [made.family]
        specs = config.family if isinstance(config.family, list) else [config.family]
        steps = made.unroll.steps if config.evaluation.steps is None else config.evaluation.steps
        at_least(1, **{"seeds": config.seeds, "evaluation.tasks": config.evaluation.tasks, "evaluation.steps": steps})
        output = Path(config.output or default_output(config))
        controls = get_args(Control) if "all" in config.controls else tuple(dict.fromkeys(config.controls))
        trained = _train_all(parser, config, output, _possible(made.optimizer, families, controls))
        if trained is None:
            print("metatele: stopped; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
        for number, (family, spec) in enumerate(zip(families, specs, strict=True)):
            where = (
                output / "evaluation" if len(families) == 1 else output / f"evaluation-{number}-{type(family).__name__}"
            )
            settings = {"tasks": config.evaluation.tasks, "steps": steps, "seed": config.seed, "device": config.device}
            report(trained, family, family_spec(spec), where, overwrite=True, **settings)
        return 0


def _train_all(
    parser: ArgumentParser, config: Namespace, output: Path, changes: dict[str, Change]
) -> dict[str, list[Learned]] | None:
    """Meta-train every contestant with every seed, in OUTPUT/NAME, or OUTPUT/NAME/seed-K for several seeds.

    Returns: the best checkpoints of each name, one a seed; None if the user has stopped a run.
    """
    trained: dict[str, list[Learned]] = {name: [] for name in changes}
    for seed in range(config.seed, config.seed + config.seeds):
        own = config.clone()
        del own["controls"], own["seeds"]  # what meta-train would not know, should the run be resumed by it
        own.seed = seed
        for name, change in changes.items():
            title, folder = name, output / name
            if config.seeds > 1:
                title, folder = f"{name} {seed}", folder / f"seed-{seed}"
            result = train(parser, own, folder, (folder / STATE).is_file(), title, change)
            if not result.finished:
                return None
            trained[name].append(Learned.load(folder))
    return trained


def _possible(inner: InnerOptimizer, families: list[TaskFamily], controls: Sequence[str]) -> dict[str, Change]:
    """How to make each contestant that can be meta-trained from the configured optimizer, each tried out for
    one step before any time is spent.

    Raises: ConfigError if there would be nothing to compare; SymmetryError if the optimizer itself cannot run.
    """
    if not inner.teleport.moves:
        raise ConfigError("compare needs an optimizer that teleports; set optimizer.teleport, or use meta-train")
    changes: dict[str, Change] = {
        "teleport": lambda given: given,
        "no-teleport": lambda given: InnerOptimizer(given.update),
    }
    found: dict[str, Change] = {}
    for name in (*changes, *controls):
        if not (inner if name == "teleport" else inner.update).learned:
            print(f"{name}: left out, because {type(inner.update).__name__} alone has nothing to meta-train")
        elif name not in changes:
            found.update(_rule(name, inner, families))
        else:
            _try_out(changes[name], inner, families)
            found[name] = changes[name]
    return found


def _rule(name: str, inner: InnerOptimizer, families: list[TaskFamily]) -> dict[str, Change]:
    """{name: how to put a closed-form rule in the teleport's place}: on the teleport's own group, or, where
    the rule cannot act on that, on positive scaling; nothing, but the reason printed, if on neither."""
    kind: Kind = inner.teleport.symmetry if isinstance(inner.teleport, OrbitTeleport) else "auto"
    reasons = []
    for symmetry in dict.fromkeys((kind, "scaling")):
        change = partial(_with_rule, name=name, symmetry=symmetry)
        try:
            groups = _try_out(change, inner, families)
        except SymmetryError as error:
            reasons.append(str(error).splitlines()[0])
            continue
        if name.startswith("svd") and all(map(only_scales, groups)):
            print(f"{name}: left out, because on positive scalings it is the balance rule")
            return {}
        if reasons:
            print(f"{name}: on symmetry {symmetry!r}, because it cannot act on {kind!r} ({reasons[0]})")
        return {name: change}
    print(f"{name}: left out, because the network has no such rule ({reasons[0]})")
    return {}


def _with_rule(given: InnerOptimizer, name: str, symmetry: Kind) -> InnerOptimizer:
    rule = RULES[name.removesuffix(EVERY)]
    return InnerOptimizer(given.update, rule(last=None if name.endswith(EVERY) else 0, symmetry=symmetry))


def _try_out(change: Change, inner: InnerOptimizer, families: list[TaskFamily]) -> list[ProductGroup]:
    """Play one step on a task of each family; the groups of their networks.

    Raises: SymmetryError if a teleport cannot act there.
    """
    groups = []
    for family in families:
        play = Unroll(change(copy.deepcopy(inner)), sample_meta_batch(family, "train", range(1)), 1)
        play.window(play.start(), 1, differentiable=False)
        groups.append(play.group)
    return groups
