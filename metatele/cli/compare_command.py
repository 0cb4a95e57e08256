"""metatele compare: what do the teleports add?"""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import default_output, instantiate, make_training_parser
from metatele.cli.evaluate_command import family_spec, report
from metatele.cli.meta_train_command import INTERRUPTED, train
from metatele.meta_training.state import STATE
from metatele.optimizer import InnerOptimizer
from metatele.teleport import Balance, Stay, Teleport

CONTROLS: dict[str, type[Teleport] | None] = {"teleport": None, "no-teleport": Stay, "balance": Balance}


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
    output = Path(config.output or default_output(config))
    trained: dict[str, InnerOptimizer] = {}
    for name, control in CONTROLS.items():
        folder = output / name
        result = train(
            parser,
            config,
            folder,
            (folder / STATE).is_file(),
            title=name,
            teleport=None if control is None else control(),
        )
        if not result.finished:
            return INTERRUPTED
        trained[name] = result.optimizer
    made = instantiate(parser, config)
    specs = config.family if isinstance(config.family, list) else [config.family]
    families = made.family if isinstance(made.family, list) else [made.family]
    for number, (family, spec) in enumerate(zip(families, specs, strict=True)):
        where = output / "evaluation" if len(families) == 1 else output / f"evaluation-{number}-{type(family).__name__}"
        report(
            trained,
            family,
            family_spec(spec),
            where,
            tasks=config.evaluation.tasks,
            steps=config.evaluation.steps or config.unroll.steps,
            seed=config.seed,
            device=config.device,
        )
    return 0
