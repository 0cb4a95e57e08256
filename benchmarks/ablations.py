"""What each choice of configs/general.yaml is worth: recipes that differ from it in one, meta-trained alike.

    python -m benchmarks.ablations [--iterations 100] [--seeds 1] [--jobs 1] [--only VARIANT ...]
        [--tasks 32] [--steps 100] [--output ablations]

Every variant is meta-trained for the same number of trajectories, from the same meta-seeds, and evaluated on the
validation families of the configuration (never on benchmarks.general's), where all variants meet the evaluator's seven
tuned baselines. Runs that are there are not run again, and interrupted ones go on.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import metatele.tasks
import torch
import yaml
from rich.console import Console

from benchmarks.__main__ import number as whole
from benchmarks.__main__ import show
from benchmarks.general import FIXED, evaluated
from benchmarks.held_out import HeldOut
from benchmarks.performance import markdown
from benchmarks.tables import Table
from metatele.errors import MetateleError
from metatele.evaluation import Evaluation, Learned, Options, Settings
from metatele.evaluation.judge.pairing import best_baseline
from metatele.support.messages import number

CONFIG = Path(__file__).parents[1] / "configs" / "general.yaml"
MEANT = "as it is"
VARIANTS = {
    MEANT: [],
    "growth 0": ["--meta.growth=0"],
    "growth 2": ["--meta.growth=2"],
    "the end alone, by PES, in the last fifth": [],  # see `arguments_of`
    "horizon always told": ["--unroll.untold=0"],
    "horizon never seen": ["--optimizer.update.init_args.horizon=false"],
    "no other initial scales": ["--family.init_args.rescaled=0"],
    "one meta-batch in flight": ["--unroll.in_flight=1"],
    "exact adjoints": ["--unroll.adjoint_clip=null"],
    "windows of 60": ["--unroll.window=60"],
    "exact adjoints, windows of 60": ["--unroll.adjoint_clip=null", "--unroll.window=60"],
    "8 tasks in a meta-batch": ["--meta.tasks=8"],
    "first order": ["--unroll.second_order=false"],
    "scored on minibatches": ["--unroll.all_meta_rows=false"],
    "floor 1e-6": ["--meta.floor=1e-6"],
    "unseen rows of noisy regression alone": ["--family.init_args.unseen=0"],
    "data not seen": ["--optimizer.update.init_args.data=false"],
    "no secant": ["--optimizer.update.init_args.secant=false"],
    "not relative": ["--optimizer.update.init_args.relative=false"],
    "no decay": ["--optimizer.update.init_args.decay=none"],
    "8 units a coordinate": ["--optimizer.update.init_args.per_coordinate=8"],
    # The designs before it, of those that run on networks of any size.
    "CoordinateUpdate": ["--optimizer.update=metatele.CoordinateUpdate"],
    "SmallMLPUpdate": ["--optimizer.update=metatele.SmallMLPUpdate"],
    "CeloUpdate": ["--optimizer.update=metatele.CeloUpdate"],
}
STEPS = (10, 30)  # at which losses are compared, too


def arguments_of(variant: str, iterations: int) -> list[str]:
    """The options of `metatele meta-train` that make a variant."""
    own = VARIANTS[variant]
    if "PES" in variant:
        last = max(1, iterations // 5)
        phases = f"[{{iterations: {iterations - last}}}, {{iterations: {last}, loss: end, growth: 0, estimator: pes}}]"
        own = [f"--meta.phases={phases}", "--meta.pairs=4"]
    else:
        own = [f"--meta.iterations={iterations}", *own]
    # Without baselines to be relative to, which take minutes to tune, and which are of the evaluation.
    return [f"--config={CONFIG}", *own, "--validation.baselines=null", f"--validation.every={iterations}"]


def meta_trained(variant: str, seed: int, iterations: int, folder: Path) -> Path:
    """Meta-train a variant, or go on with that, if it has not been done; where its checkpoint is.

    Raises: SystemExit with what the command says if it fails.
    """
    where = folder / f"{variant.replace(',', '').replace(' ', '-')}-{seed}"
    if (where / "best").is_dir():  # it is validated at its end only
        return where / "best"
    own = [*arguments_of(variant, iterations), f"--seed={seed}", f"--output={where}"]
    if (where / "state.safetensors").is_file():
        own = [f"--resume={where}"]
    command = [sys.executable, "-m", "metatele", "meta-train", *own]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {variant}, seed {seed}: {done.stderr.strip()[-500:]}")
    print(f"{variant}, seed {seed}: {time.monotonic() - began:.0f} s of meta-training", file=sys.stderr, flush=True)
    return where / "best"


def validation_families() -> list[HeldOut]:
    """The families that the configuration selects by; those that it scores on unseen rows with rows for the test."""
    found = []
    for i, spec in enumerate(yaml.safe_load(CONFIG.read_text())["validation_family"]):
        arguments = spec["init_args"]
        if arguments.get("parts", [1])[0] < 1:
            arguments |= {"parts": [0.5, 0.25, 0.25]}
        kind = getattr(metatele.tasks, spec["class_path"].rpartition(".")[2])
        found.append(HeldOut(f"validation {i + 1}", kind, arguments, "selection"))
    return found


def table(found: Sequence[Evaluation], variants: Sequence[str]) -> Table:
    """One row for each variant: the loss relative to that of the family's best baseline, by the step, and the end's by
    the family."""
    last = found[0].last
    steps = [*(step for step in STEPS if step < last), last]
    header = ["variant", *(f"step {step}" for step in steps), *(e.title for e in found), "diverged"]
    rows = []
    for variant in variants:
        ratios = {step: [_ratio(e, variant, step) for e in found] for step in steps}
        means = [number(math.exp(sum(map(math.log, ratios[step])) / len(found))) for step in steps]
        lost = sum(e[variant].diverged for e in found)
        rows.append([variant, *means, *map(number, ratios[last]), str(lost)])
    return Table("loss / best tuned baseline's: geometric means over the families, and each at the end", header, rows)


def _ratio(evaluation: Evaluation, name: str, step: int) -> float:
    """The ratio of the geometric means of the losses, over tasks and meta-seeds."""
    best = best_baseline(evaluation.entries)
    if best is None:
        raise SystemExit(f"error: every baseline failed on {evaluation.title}")
    mine, other = (entry.summary(evaluation.part, step).geometric_mean for entry in (evaluation[name], best))
    return float(mine / other)


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(
        "python -m benchmarks.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("--iterations", type=whole, default=100, help="trajectories of meta-training")
    add("--seeds", type=whole, default=1, help="meta-seeds")
    add("--jobs", type=whole, default=1, help="runs of meta-training at a time")
    add("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT", help="; ".join(VARIANTS))
    add("--tasks", type=whole, default=32)
    add("--steps", type=whole, default=100)
    add("--tuning-tasks", type=whole, default=32, help="of the baselines")
    add("--output", type=Path, default=Path("ablations"))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Meta-train and evaluate all variants, and print the table; then again as Markdown."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    pairs = [(variant, seed) for seed in range(options.seeds) for variant in options.only]
    with ThreadPoolExecutor(options.jobs) as pool:
        made = pool.map(lambda pair: meta_trained(pair[0], pair[1], options.iterations, options.output), pairs)
        places = dict(zip(pairs, made, strict=True))
    seeds = range(options.seeds)
    found = []
    try:
        recipes = {v: [Learned.load(str(places[v, seed])) for seed in seeds] for v in options.only}
        reported = tuple(step for step in STEPS if step <= options.steps)
        counts = {name: getattr(options, name) for name in ("tasks", "steps", "tuning_tasks")}
        settings = Settings(**counts, timing_repeats=1, report_steps=reported)
        for one in validation_families():
            how = Options(FIXED, strict=False, family_spec=one.spec, title=one.name)
            found.append(evaluated(one, recipes, options.output / one.name.replace(" ", "-"), settings, how))
    except MetateleError as error:
        raise SystemExit(f"error: {error}") from error
    made_table = table(found, options.only)
    show(Console(), made_table)
    print("\n" + markdown(made_table))


if __name__ == "__main__":
    main()
