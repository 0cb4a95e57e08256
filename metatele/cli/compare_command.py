"""metatele compare: what do the teleports add?"""

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import default_output, instantiate, make_training_parser, require
from metatele.cli.command import Command
from metatele.cli.exit_codes import INTERRUPTED
from metatele.cli.meta_train_command import train
from metatele.cli.reporting import family_spec, report
from metatele.errors import ConfigError, SymmetryError
from metatele.evaluation import Learned
from metatele.evaluation.contestants.rules import try_out
from metatele.evaluation.settings import Options, Settings
from metatele.meta_training.state import STATE
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import at_least
from metatele.support.messages import first_line
from metatele.symmetry import Kind
from metatele.task import MetaBatch, TaskFamily, sample_meta_batch
from metatele.teleports import OrbitTeleport
from metatele.teleports.rules import Rule, rules

Recast = Callable[[InnerOptimizer], InnerOptimizer]


class Compare(Command):
    """`metatele compare`."""

    def make_parser(self) -> ArgumentParser:
        parser = make_training_parser(
            "Meta-train an optimizer several times with equal budgets: with its teleport, without, and with "
            "closed-form rules in its place. Then evaluate all of them and plain baselines on held-out tasks."
        )
        parser.add_argument(
            "--controls",
            type=cast(Any, Literal)[("all", *(rule.name for rule in rules()))],
            nargs="+",
            default=["balance"],
            help="closed-form rules to meta-train with: at step 0, or at every step",
        )
        parser.add_argument(
            "--seeds", type=int, default=1, help="number of seeds to meta-train each with: seed, seed + 1, ..."
        )
        parser.add_argument("--output", type=str | None, help="folder (default: runs/NAME of the config)")
        parser.add_argument("--evaluation.tasks", type=int, default=64, help="held-out tasks")
        parser.add_argument(
            "--evaluation.steps", type=int | None, help="inner steps (default: the longest unroll.steps)"
        )
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command; it goes on where an interrupted one stopped."""
        require(config, "family", "optimizer.update")
        made = instantiate(parser, config)
        families = made.family if isinstance(made.family, list) else [made.family]
        specs = config.family if isinstance(config.family, list) else [config.family]
        steps = made.unroll.longest if config.evaluation.steps is None else config.evaluation.steps
        at_least(1, **{"seeds": config.seeds, "evaluation.tasks": config.evaluation.tasks, "evaluation.steps": steps})
        output = Path(config.output or default_output(config))
        known = {rule.name: rule for rule in rules()}
        controls = known if "all" in config.controls else {name: known[name] for name in config.controls}
        trained = _train_all(parser, config, output, _possible(made.optimizer, families, controls))
        if trained is None:
            print("metatele: stopped; run the same command again to continue", file=sys.stderr)
            return INTERRUPTED
        for number, (family, spec) in enumerate(zip(families, specs, strict=True)):
            where = (
                output / "evaluation" if len(families) == 1 else output / f"evaluation-{number}-{type(family).__name__}"
            )
            settings = Settings(config.evaluation.tasks, steps, config.seed, device=config.device)
            report(trained, family, settings, Options(family_spec=family_spec(spec)), where, overwrite=True)
        return 0


def _train_all(
    parser: ArgumentParser, config: Namespace, output: Path, changes: dict[str, Recast]
) -> dict[str, list[Learned]] | None:
    """Meta-train every contestant with every seed, in OUTPUT/NAME, or OUTPUT/NAME/seed-K for several seeds.

    Returns: the best checkpoints of each name, one a seed; None if the user has stopped a run.
    """
    trained: dict[str, list[Learned]] = {name: [] for name in changes}
    for seed in range(config.seed, config.seed + config.seeds):
        own = config.clone()
        del own["controls"], own["seeds"]  # unknown to meta-train, which may resume the run
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


def _possible(inner: InnerOptimizer, families: list[TaskFamily], controls: Mapping[str, Rule]) -> dict[str, Recast]:
    """How to make each contestant that can be meta-trained from the configured optimizer, each tried out for
    one step before any time is spent.

    Raises: ConfigError if there would be nothing to compare; SymmetryError if the optimizer itself cannot run.
    """
    if not inner.teleport.moves:
        teleport = type(inner.teleport).__name__
        raise ConfigError(
            f"compare needs an optimizer that teleports, and {teleport} does not; set optimizer.teleport, or use "
            "meta-train"
        )
    batches = [sample_meta_batch(family, "train", range(1)) for family in families]
    changes: dict[str, Recast] = {"teleport": lambda given: given, "no-teleport": lambda g: InnerOptimizer(g.update)}
    found: dict[str, Recast] = {}
    for name in (*changes, *controls):
        if not (inner if name == "teleport" else inner.update).learned:
            print(f"{name}: left out, because {type(inner.update).__name__} alone has nothing to meta-train")
        elif name in changes:
            try_out(changes[name](copy.deepcopy(inner)), batches)
            found[name] = changes[name]
        else:
            symmetry = _symmetry_of(controls[name], inner, batches)
            if symmetry is not None:
                found[name] = partial(_with_rule, rule=controls[name], symmetry=symmetry)
    return found


def _symmetry_of(rule: Rule, inner: InnerOptimizer, batches: list[MetaBatch]) -> Kind | None:
    """On which group a closed-form rule takes the teleport's place: on the teleport's own, or, where the rule cannot
    act on that, on positive scaling; None, and the reason is printed, if on neither."""
    kind: Kind = inner.teleport.symmetry if isinstance(inner.teleport, OrbitTeleport) else "auto"
    reasons = []
    for symmetry in dict.fromkeys((kind, *rule.kind.symmetries[1:])):
        try:
            groups = try_out(_with_rule(copy.deepcopy(inner), rule, symmetry), batches)
        except SymmetryError as error:
            reasons.append(first_line(error))
            continue
        if not any(map(rule.kind.differs_on, groups)):
            print(f"{rule.name}: left out, because {rule.kind.otherwise}")
            return None
        if reasons:
            print(f"{rule.name}: on symmetry {symmetry!r}, because it cannot act on {kind!r} ({reasons[0]})")
        return symmetry
    print(f"{rule.name}: left out, because the network has no such rule ({reasons[0]})")
    return None


def _with_rule(given: InnerOptimizer, rule: Rule, symmetry: Kind) -> InnerOptimizer:
    return InnerOptimizer(given.update, rule.make(symmetry))
