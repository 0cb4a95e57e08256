"""Runs that are killed at random moments and started again: `python -m tests.hostile.kills [KILLS] [SEED]`.

Trainings, evaluations and now and then a comparison: each is ended by SIGKILL, now and then by SIGTERM or SIGINT, at a
random moment, and started again until it is done. What it leaves must be that of a run that nobody disturbed, bit for
bit, with nothing half-written and no temporary file; after each kill, every checkpoint that is there must load. Prints
one line for each problem, and the figures last.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.bad_input import ON_FAMILY, RECIPE
from tests.hostile.forks import Child, warm

LIMIT = 300.0  # seconds for a run
MOST = 12  # kills of one run
EXPECTED = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 130, 0}, signal.SIGINT: {130, 0}}
STATE = Path("state.safetensors")
TURNS = (
    "meta-train",
    "evaluate",
    "compare",
    *("meta-train", "meta-train", "evaluate") * 3,
)  # a comparison takes longest


def command(what: str, folder: Path) -> list[str]:
    """The command line that begins a run in a folder, or goes on with it."""
    if what == "meta-train":
        begun = (folder / STATE).is_file()
        return [what, f"--resume={folder}"] if begun else [what, "--config=c.yaml", f"--output={folder}"]
    if what == "compare":
        small = ["--evaluation.tasks=4", "--evaluation.steps=3"]
        return [what, "--config=c.yaml", f"--output={folder}", "--controls=balance", *small]
    checkpoints = ["general", "general-no-teleport"]
    small = ["--tasks=4", "--steps=3", "--chunk=2", "--tuning_tasks=2", "--timing_repeats=1", "--baselines=none"]
    return [what, *checkpoints, *ON_FAMILY, *small, f"--output={folder}"]


def end_of(folder: Path) -> dict[str, str]:
    """What a run has computed: digests of its weights and cards, and of all numbers but times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("model.safetensors", "README.md"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "results.json":
            record = json.loads(path.read_text())
            entries = [
                [e["name"], e["tuning"], [r["losses"] for r in e["runs"]], e["failure"]] for e in record["entries"]
            ]
            numbers = json.dumps([record["task_seeds"], record["reference"], entries], sort_keys=True)
            found[name] = hashlib.sha256(numbers.encode()).hexdigest()
    return found


def litter_of(folder: Path) -> list[str]:
    """Temporary files that a run has left, and the pieces of a journal."""
    return [str(p) for p in folder.rglob("*") if p.name.startswith(".") and p.name not in (".lock",)]


def check_checkpoints(folder: Path) -> str | None:
    """What is wrong with the checkpoints of a run that has been killed."""
    from metatele import MetateleError, load_checkpoint

    for weights in folder.rglob("model.safetensors"):
        try:
            load_checkpoint(weights.parent)
        except MetateleError as error:
            return str(error)
    return None


def disturbed(what: str, folder: Path, seconds: float, rng: random.Random, most: int) -> tuple[int, list[str]]:
    """Run a command in a folder, killed up to `most` times; how often it was, and the problems."""
    problems, kills = [], 0
    while kills < most:
        child = Child(command(what, folder))
        number = signal.SIGKILL if rng.random() < 0.8 else rng.choice((signal.SIGTERM, signal.SIGINT))
        time.sleep(seconds * rng.uniform(0.02, 0.7))
        child.kill(number)
        ended = child.wait(LIMIT)
        if ended.code == 0 and number == signal.SIGKILL:  # it was faster
            break
        kills += 1
        if ended.code not in EXPECTED[number] or "Traceback" in ended.err:
            problems.append(f"{number.name} ended it with {ended.code}: {ended.err[-300:]}")
        if (wrong := check_checkpoints(folder)) is not None:
            problems.append(f"after {number.name}: {wrong}")
    ended = Child(command(what, folder)).wait(LIMIT)
    if ended.code != 0:
        problems.append(f"started again, it ended with {ended.code}: {ended.err[-300:]}")
    return kills, problems


def run(kills: int, seed: int, say: Callable[[str], Any] = print) -> dict[str, Any]:
    """Kill runs in a temporary folder until there have been so many kills; the figures, and the problems in words."""
    warm()
    rng, home, problems, count = random.Random(seed), Path.cwd(), list[str](), Counter[str]()
    began, runs = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="kills") as top:
        try:
            os.chdir(top)
            first, second = RECIPE["meta"]["phases"]
            meta = {**RECIPE["meta"], "phases": [{**first, "iterations": 5}, {**second, "iterations": 5}]}
            Path("c.yaml").write_text(yaml.safe_dump({**RECIPE, "meta": meta}))
            expected, seconds = {}, {}
            for what in sorted(set(TURNS)):
                start = time.monotonic()
                ended = Child(command(what, Path(f"good {what}"))).wait(LIMIT)
                if ended.code != 0:
                    raise RuntimeError(f"{what}: {ended.err}")
                expected[what], seconds[what] = end_of(Path(f"good {what}")), time.monotonic() - start
            while sum(count.values()) < kills:
                what = TURNS[runs % len(TURNS)]
                folder = Path(f"run {runs}")
                most = min(
                    MOST, -(-kills // 3), kills - sum(count.values())
                )  # in a short form each command has its turn
                number, wrong = disturbed(what, folder, seconds[what], rng, most)
                count[what] += number
                runs += 1
                found = end_of(folder)
                different = [k for k in expected[what].keys() | found.keys() if expected[what].get(k) != found.get(k)]
                wrong += [f"differs in {', '.join(sorted(different))}"] * bool(different)
                wrong += [f"left {', '.join(litter_of(folder)[:3])}"] * bool(litter_of(folder))
                if runs % 10 == 0:
                    print(f"{sum(count.values())} kills of {runs} runs", file=sys.stderr)
                for problem in wrong:
                    problems.append(f"seed {seed} run {runs - 1} ({what}, {number} kills): {problem}")
                    say(problems[-1])
                shutil.rmtree(folder)
        finally:
            os.chdir(home)
    return {
        "kills": sum(count.values()),
        "runs": runs,
        "problems": problems,
        "seconds": round(time.monotonic() - began),
        **dict(sorted(count.items())),
    }


if __name__ == "__main__":
    found = run(*(int(a) for a in [*sys.argv[1:], *["30", "0"][len(sys.argv) - 1 :]]))
    print(json.dumps({**found, "problems": len(found["problems"])}))
    sys.exit(bool(found["problems"]))
