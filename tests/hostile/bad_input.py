"""Thousands of bad inputs through the command line: `python -m tests.hostile.bad_input [CASES] [SEED] [KIND]`.

Each is one configuration, checkpoint, record of results, state, journal or image file, spoiled at random; case i of a
seed is always the same. It must be used, or be refused with exit code 2 and one line, in little time and memory, and
nothing that is read may run code of its choice. Prints one line for each problem, and the figures last.
"""

import gzip
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.forks import Child, Ended, warm
from tests.hostile.mutations import RAW_YAML, Tree, spoiled, spoiled_bytes, spoiled_safetensors, yaml_bomb

SECONDS, MEMORY, LIMIT = 2.0, 300 * 2**20, 60.0  # processor time and memory of a refusal; when a child is killed
LONGEST = 330  # characters of the line
MARKS = ("RAN", "MADE", "IMPORTED")  # files that code of a hostile file makes
TRAP = "open('IMPORTED', 'w')\nclass Thing:\n    def __init__(self, **given):\n        open('MADE', 'w')\n"

FAMILY = {"class_path": "TeacherStudent", "init_args": {"inputs": 3, "hidden": 4, "outputs": 2, "rows": 8}}
RECIPE: dict[str, Tree] = {
    "family": FAMILY,
    "optimizer": {
        "update": {"class_path": "metatele.CoordinateUpdate", "init_args": {"hidden": 4, "lr": 0.01}},
        "teleport": {"class_path": "metatele.NeuronTeleport", "init_args": {"hidden": 4}},
        "order": "before",
        "moments": "transform",
    },
    "unroll": {
        "steps": [4, 5],
        "window": 2,
        "second_order": True,
        "checkpoint": None,
        "engine": "higher",
        "in_flight": 2,
    },
    "meta": {
        **{"tasks": 2, "lr": 1e-3, "clip": 1.0, "schedule": "cosine", "loss": "log", "average": 0.5, "pairs": 2},
        "phases": [{"iterations": 1}, {"iterations": 3, "estimator": "pes", "sigma": 0.1, "second_order": False}],
    },
    "validation": {"tasks": 2, "every": 1, "baselines": ["SGD"]},
    "seed": 0,
}
CONFIGURATIONS: dict[str, Tree] = {
    "meta-train": RECIPE,
    "compare": {
        **RECIPE,
        "family": [{"class_path": "Digits", "init_args": {"classes": 3, "rows": 20, "hidden": [4]}}],
        "seeds": 2,
        "controls": ["balance", "svd"],
        "evaluation": {"tasks": 2, "steps": 2},
    },
    "evaluate": {
        "family": {"class_path": "GaussianMixture", "init_args": {"classes": 2, "hidden": [4], "parts": [0.5, 0.5, 0]}},
        "contestants": {"a": {"class_path": "metatele.InnerOptimizer", "init_args": {"update": "metatele.Adam"}}},
        "transfer": {"wide": {"init_args": {"hidden": [8]}, "steps": 5}, "other": {"class_path": "Digits", "tasks": 2}},
        "tasks": 2,
        "steps": 3,
        "report_steps": [1, 2],
        "baselines": "plain",
        "chunk": 2,
    },
    "experiment": {"experiment": {"class_path": "metatele.experiments.RegressionTeleports", "init_args": {"size": 4}}},
}
ON_FAMILY = ["--family=TeacherStudent", *(f"--family.{k}={v}" for k, v in FAMILY["init_args"].items())]  # type: ignore[attr-defined]
SMALL = ["--tasks=2", "--steps=2", "--tuning_tasks=2", "--timing_tasks=1", "--timing_repeats=1", "--output=out"]


@dataclass(frozen=True)
class Case:
    """A command line on files that are in the working directory.

    Attributes:
        kind: of file.
        arguments: of the command line.
        data: whether the file is data, which must run no code; a configuration may name classes.
    """

    kind: str
    arguments: list[str]
    data: bool = True


def configuration(rng: random.Random, good: Path) -> Case:
    command = rng.choice(list(CONFIGURATIONS))
    how = rng.random()
    if how < 0.1:
        raw = rng.choice(RAW_YAML)
    elif how < 0.2:
        tree = CONFIGURATIONS[command]
        key = rng.choice(list(tree))
        rest = yaml.safe_dump({k: v for k, v in tree.items() if k != key})
        raw = f"{rest}{key}: {yaml_bomb(rng)}\n".encode()
    else:
        try:
            text = yaml.safe_dump(spoiled(CONFIGURATIONS[command], rng), allow_unicode=True)
        except (RecursionError, TypeError, yaml.YAMLError):
            text = "seed: " + "[" * 500
        raw = text.encode("utf-8", "surrogatepass")
        if how < 0.3:
            raw = spoiled_bytes(raw, rng)
    Path("c.yaml").write_bytes(raw)
    return Case("configuration", [command, "--config=c.yaml", "--output=out"], data=False)


def checkpoint(rng: random.Random, good: Path) -> Case:
    shutil.copytree(good / "run" / "best", "case")
    which = rng.choice(("config.json", "config.json", "model.safetensors", "training.yaml"))
    file = Path("case") / which
    family = ON_FAMILY
    if which == "config.json":
        file.write_bytes(_spoiled_json(file.read_bytes(), rng))
    elif which == "model.safetensors":
        config = json.loads(Path("case/config.json").read_text())
        if rng.random() < 0.7:  # as older checkpoints have none, which would not be caught by it
            config.pop("weights_sha256", None)
            Path("case/config.json").write_text(json.dumps(config))
        file.write_bytes(spoiled_safetensors(file.read_bytes(), rng))
    else:
        family = []
        file.write_bytes(_spoiled_yaml(file.read_bytes(), rng))
    return Case("checkpoint", ["evaluate", "case", *family, *SMALL, "--baselines=none"])


def results(rng: random.Random, good: Path) -> Case:
    raw = _spoiled_json((good / "evaluation" / "results.json").read_bytes(), rng)
    Path("case").mkdir()
    Path("case/results.json").write_bytes(raw)
    again = rng.random() < 0.5
    return Case("results", ["evaluate", "--rerun=case/results.json", "--output=out"] if again else ["report", "case"])


def state(rng: random.Random, good: Path) -> Case:
    shutil.copytree(good / "run", "case")
    if rng.random() < 0.7:
        file = Path("case/state.safetensors")
        file.write_bytes(spoiled_safetensors(file.read_bytes(), rng))
    else:
        file = Path("case/training.yaml")
        file.write_bytes(_spoiled_yaml(file.read_bytes(), rng))
        return Case("state", ["meta-train", "--resume=case"], data=False)
    return Case("state", ["meta-train", "--resume=case"])


def journal(rng: random.Random, good: Path) -> Case:
    shutil.copytree(good / "journal", "out/.unfinished")
    pieces = sorted(Path("out/.unfinished").iterdir())
    for piece in rng.sample(pieces, min(3, len(pieces))):
        how = rng.choice(("json", "json", "bytes", "folder", "link"))
        raw = piece.read_bytes()
        piece.unlink()
        if how == "folder":
            piece.mkdir()
        elif how == "link":
            piece.symlink_to(rng.choice((piece, Path("/dev/null"), Path("/nowhere/x"))))
        else:
            piece.write_bytes(_spoiled_json(raw, rng) if how == "json" else spoiled_bytes(raw, rng))
    return Case("journal", ["evaluate", str(good / "run"), *ON_FAMILY, *SMALL, "--baselines=none"])


def images(rng: random.Random, good: Path) -> Case:
    """idx files: of images or of labels, plain or packed."""
    Path("case").mkdir()
    rows = 30
    files = {
        "images": struct.pack(">HBB3I", 0, 8, 3, rows, 28, 28) + rng.randbytes(784 * rows),
        "labels": struct.pack(">HBBI", 0, 8, 1, rows) + bytes(i % 10 for i in range(rows)),
    }
    which = rng.choice(list(files))
    how = rng.choice(("bytes", "bytes", "shape", "gzip", "bomb", "labels", "folder"))
    if how == "shape":
        shape = [rng.choice((0, 1, 28, 30, 2**31, 2**32 - 1)) for _ in range(rng.choice((0, 1, 3, 4, 200)))]
        files[which] = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + files[which][16:]
    elif how == "labels":
        files["labels"] = files["labels"][:8] + rng.randbytes(rows)
    elif how == "bytes":
        files[which] = spoiled_bytes(files[which], rng)
    for name, raw in files.items():
        path = Path("case") / f"train-{name}-idx{3 if name == 'images' else 1}-ubyte"
        if name != which or how not in ("gzip", "bomb", "folder"):
            path.write_bytes(raw)
        elif how == "folder":
            path.mkdir()
        elif how == "gzip":
            path.with_name(path.name + ".gz").write_bytes(spoiled_bytes(gzip.compress(raw), rng))
        else:
            shutil.copy(good / "bomb.gz", path.with_name(path.name + ".gz"))
    shape = ["--family.rows=20", "--family.hidden=[4]", "--family.classes=2"]
    family = ["--family=Mnist", "--family.folder=case", *shape]
    return Case("images", ["evaluate", str(good / "run"), *family, *SMALL, "--baselines=none"])


def _spoiled_json(raw: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return rng.choice((spoiled_bytes(raw, rng), b"null", b"3", b"[" * 100_000, b'{"a": ' * 50_000))
    try:
        return json.dumps(spoiled(json.loads(raw), rng)).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return b"{}"


def _spoiled_yaml(raw: bytes, rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.2:
        return rng.choice(RAW_YAML)
    if how < 0.4:
        return raw + f"\nextra: {yaml_bomb(rng)}\n".encode()
    try:
        return yaml.safe_dump(spoiled(yaml.safe_load(raw), rng)).encode("utf-8", "surrogatepass")
    except (TypeError, RecursionError, yaml.YAMLError):
        return b"{"


def make_good(folder: Path) -> None:
    """Files that are in order, to be spoiled: a run that has been stopped with meta-batches in flight, its evaluation
    and journal, and a packed gibibyte of zeros."""
    recipe = folder / "c.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    run = ["meta-train", f"--config={recipe}", f"--output={folder / 'run'}"]
    evaluation = ["evaluate", str(folder / "run"), *ON_FAMILY, *SMALL[:-1], f"--output={folder / 'evaluation'}"]
    for arguments, prepare, code in (
        (run, _stop_after_two, 130),
        ([*evaluation, "--baselines=none"], partial(_keep_journal, folder / "journal"), 0),
    ):
        ended = Child(arguments, prepare).wait(300)
        if ended.code != code:
            raise RuntimeError(f"{' '.join(arguments)}: {ended.err}")
    with gzip.open(folder / "bomb.gz", "wb", 1) as packed:
        for _ in range(1024):
            packed.write(bytes(2**20))


def _stop_after_two() -> None:
    """As by Ctrl-C in the second iteration."""
    from metatele.cli import meta_train_command as module

    asked = iter((False, True))
    given = module.meta_train
    module.meta_train = lambda *a, **k: given(*a, **{**k, "stop": lambda: next(asked)})  # type: ignore[assignment]


def _keep_journal(folder: Path) -> None:
    from metatele.evaluation.play import journal as module

    module.Journal.close = lambda self: shutil.copytree(self.folder, folder)  # type: ignore[method-assign]


def no_work() -> None:
    """For a configuration: what is accepted ends where its work would begin."""
    from metatele.cli import compare_command, evaluate_command, experiment_command, meta_train_command

    def accepted(*_: object, **__: object) -> None:
        raise SystemExit(0)

    for module, name in (
        (meta_train_command, "meta_train"),
        (compare_command, "train_all"),
        (evaluate_command, "report"),
        (evaluate_command, "_run_grid"),
        (experiment_command, "writable_folder"),
    ):
        assert hasattr(module, name), name
        setattr(module, name, accepted)


def no_figures() -> None:
    """Pages are written, but the figures are not drawn, which would take most of the time."""
    from metatele.report import write

    assert hasattr(write, "save_figures")
    write.save_figures = lambda *_: []


def problem_of(case: Case, ended: Ended, idle: int) -> str | None:
    """What is wrong with how a case ended."""
    marks = [mark for mark in MARKS if Path(mark).exists()]
    lines = [line for line in ended.err.splitlines() if not line.startswith("metatele: warning: ")]
    if marks and (case.data or "RAN" in marks):
        return f"code of the file: {', '.join(marks)}"
    if ended.code is None:
        return f"still running after {LIMIT:g} s"
    if ended.code == 0:
        return None
    if ended.code != 2:
        return f"exit code {ended.code}"
    if len(lines) != 1 or not lines[0].startswith("metatele: error: "):
        return f"{len(lines)} lines"
    if len(lines[0]) > LONGEST or not lines[0].isprintable():
        return f"a line of {len(lines[0])} characters, printable: {lines[0].isprintable()}"
    if ended.seconds > SECONDS:
        return f"refused after {ended.seconds:.1f} s"
    return f"refused with {(ended.memory - idle) >> 20} MiB" if ended.memory - idle > MEMORY else None


KINDS: tuple[Callable[[random.Random, Path], Case], ...] = (
    configuration,
    configuration,
    checkpoint,
    checkpoint,
    results,
    state,
    journal,
    images,
)


def make_case(good: Path, seed: int, number: int, only: str = "") -> Case:
    """Make the files of a case in the working directory, which is empty; of one kind only, if one is named."""
    kinds = [kind for kind in KINDS if kind.__name__.startswith(only)]
    Path("effect.py").write_text(TRAP)
    return kinds[number % len(kinds)](random.Random(f"{seed} {number}"), good)


def run(cases: int, seed: int, only: str = "", say: Callable[[str], Any] = print) -> dict[str, Any]:
    """Try cases in a temporary folder; the figures, and the problems in words."""
    warm()
    home, problems, count = Path.cwd(), list[str](), Counter[str]()
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory(prefix="hostile") as top:
        good = Path(top) / "good"
        good.mkdir()
        try:
            os.chdir(good)
            make_good(good)
            idle = Child(["--version"]).wait(LIMIT).memory
            began = time.monotonic()
            for number in range(cases):
                folder = Path(top) / str(number)
                folder.mkdir()
                os.chdir(folder)
                case = make_case(good, seed, number, only)
                ended = Child(case.arguments, no_work if case.kind == "configuration" else no_figures).wait(LIMIT)
                problem = problem_of(case, ended, idle)
                count[f"{case.kind}: {'refused' if ended.code == 2 else 'used' if ended.code == 0 else 'other'}"] += 1
                if ended.code == 2:
                    slowest, largest = max(slowest, ended.seconds), max(largest, ended.memory - idle)
                if problem is not None:
                    tail = " | ".join(ended.err.strip().splitlines()[-3:])[-400:]
                    problems.append(f"seed {seed} case {number} ({case.kind}): {problem}: {tail}")
                    say(problems[-1])
                os.chdir(top)
                shutil.rmtree(folder)
                if (number + 1) % 1000 == 0:
                    print(f"{number + 1} cases", file=sys.stderr)
        finally:
            os.chdir(home)
    took = time.monotonic() - began
    return {
        "cases": cases,
        "problems": problems,
        "slowest refusal, s": round(slowest, 2),
        "largest refusal, MiB": largest >> 20,
        "seconds": round(took),
        **dict(sorted(count.items())),
    }


if __name__ == "__main__":
    given = [*sys.argv[1:], *["300", "0"][len(sys.argv) - 1 :]]
    found = run(int(given[0]), int(given[1]), *given[2:])
    print(json.dumps({**found, "problems": len(found["problems"])}))
    sys.exit(bool(found["problems"]))
