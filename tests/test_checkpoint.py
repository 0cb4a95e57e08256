"""Checkpoints: what is saved comes back, and nothing hostile gets in."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from metatele.tasks import PaperRegression

from metatele import (
    CheckpointError,
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    OutputError,
    load_checkpoint,
    sample_meta_batch,
    save_checkpoint,
)
from metatele.checkpoint import REPLACED, shipped_checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good size-free checkpoint."""
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3, last=5), "after")
    inner.initialise(3)
    return save_checkpoint(inner, tmp_path / "good", card="# A card")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_round_trip_keeps_arguments_and_bits(folder: Path) -> None:
    inner, again = load_checkpoint(folder), load_checkpoint(folder)
    assert inner.order == "after"
    assert inner.teleport.arguments() == {"hidden": 3, "layers": 1, "bound": 1.0, "first": 0, "last": 5}
    fresh = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3, last=5), "after")
    fresh.initialise(3)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert inner.learned


def test_dense_parts_remember_their_sizes(tmp_path: Path) -> None:
    batch = sample_meta_batch(PaperRegression(size=4), "train", range(2))
    inner = InnerOptimizer(DenseUpdate(hidden=5), DenseTeleport(hidden=5, symmetry="data_dependent"))
    inner.bind(batch.network, batch.params)
    again = load_checkpoint(save_checkpoint(inner, tmp_path / "dense"))
    again.bind(batch.network, batch.params)
    for name, value in inner.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    other = sample_meta_batch(PaperRegression(size=5), "train", range(2))
    with pytest.raises(CheckpointError, match=r"made for a network with parameters .*4, 4.* cannot run on .*5, 5"):
        again.bind(other.network, other.params)


def test_a_frozen_step_size_stays_frozen(tmp_path: Path) -> None:
    for learn in (True, False):
        folder = save_checkpoint(InnerOptimizer(GradientDescent(learn=learn)), tmp_path / str(learn))
        assert load_checkpoint(folder).learned == learn


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
def test_what_a_teleport_does_to_moments_is_kept(tmp_path: Path, moments: str) -> None:
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3), "after", moments)
    folder = save_checkpoint(inner, tmp_path)
    assert json.loads((folder / "config.json").read_text())["moments"] == moments
    loaded = load_checkpoint(folder)
    assert (loaded.order, loaded.moments) == ("after", moments)


def test_a_checkpoint_from_before_there_was_a_choice_transforms(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["moments"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(folder)
    assert (loaded.order, loaded.moments) == ("after", "transform")


def test_shipped_checkpoints_still_load() -> None:
    shipped = shipped_checkpoints()
    assert shipped
    for folder in shipped.values():
        assert load_checkpoint(folder).moments == "transform"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint 'nowhere'.*shipped"):
        load_checkpoint("nowhere")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("old", "new"), REPLACED.items())
def test_a_name_of_the_past_is_refused_with_that_of_today(old: str, new: str) -> None:
    assert new in shipped_checkpoints()
    with pytest.raises(
        CheckpointError, match=f"'{old}' is not shipped any more: '{new}' .* --config configs/size_free"
    ):
        load_checkpoint(old)


def test_a_run_folder_gives_its_best(folder: Path) -> None:
    folder.rename(folder.parent / "best")
    assert load_checkpoint(folder.parent).learned
    shutil.copytree(folder.parent / "best", folder.parent / "last")
    (folder.parent / "best" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"best is damaged"):
        load_checkpoint(folder.parent)


def test_a_folder_of_runs_names_them(folder: Path) -> None:
    (folder.parent / "runs" / "a").mkdir(parents=True)
    folder.rename(folder.parent / "runs" / "a" / "best")
    with pytest.raises(CheckpointError, match=r"several runs; name one: .*runs/a"):
        load_checkpoint(folder.parent / "runs")


@pytest.mark.parametrize("length", [0, 4, 7, 100, -1, -40])
def test_truncated_weights(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="missing, damaged or cut off"):
        load_checkpoint(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_checkpoint(folder)


def test_pickle_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "boom"),))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)
    assert not (tmp_path / "boom").exists()


def test_a_header_that_claims_too_much(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"format": "x"}', "\xff", "[" * 100_000])
def test_damaged_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json|format is"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, r"version 99 .* reads version 1"),
        ({"order": "sideways"}, "sideways"),
        ({"moments": "forget"}, "forget"),
        ({"moments": None}, "None"),
        ({"moments": ["keep"]}, "keep"),
        (
            {"teleport": {"class": "LevelSetTeleport", "arguments": {}}, "order": "before"},
            "LevelSetTeleport uses no group",
        ),
        ({"teleport": {"class": "OptimisedTeleport", "arguments": {"objective": "os.system"}}}, "os.system"),
        ({"update": {"class": "os.system", "arguments": {"command": "true"}}}, r"'os\.system' is unknown"),
        ({"update": {"class": "NeuronTeleport", "arguments": {}}}, "'NeuronTeleport' is unknown"),
        ({"update": {"class": "Update", "arguments": {}}}, "'Update' is unknown"),
        ({"update": {"class": "CoordinateUpdate", "arguments": {"hiden": 4}}}, "hiden"),
        ({"update": {"class": "CoordinateUpdate", "arguments": {"hidden": 10**12}}}, "hidden=1000000000000"),
        ({"update": {"class": "CoordinateUpdate", "arguments": {"hidden": "4"}}}, "CoordinateUpdate"),
        ({"update": {"class": "CoordinateUpdate", "arguments": {"layers": 10**9}}}, "layers=1000000000"),
        ({"update": {"class": "CoordinateUpdate", "arguments": {"hidden": 60000}}}, "does not fit"),
        ({"update": {"class": "DenseUpdate", "arguments": {"shapes": {"w": [10**30]}}}}, "DenseUpdate"),
        ({"update": {"class": "DenseUpdate", "arguments": {"shapes": 3}}}, "DenseUpdate"),
        ({"update": {"class": "DenseUpdate", "arguments": {"shapes": {"w": [-2]}}}}, "got -2"),
        ({"update": {"class": "DenseUpdate", "arguments": {"scale": "x"}}}, "got 'x'"),
        ({"update": {"class": "DenseUpdate", "arguments": {"scale": float("nan")}}}, "got nan"),
        ({"update": {"class": "Adam", "arguments": {"betas": [0.9]}}}, "two numbers"),
        ({"update": {"class": "Adam", "arguments": {"eps": None}}}, "got None"),
        ({"teleport": {"class": "RandomTeleport", "arguments": {"scale": [1]}}}, "got .1."),
        ({"teleport": {"class": "NeuronTeleport", "arguments": {"first": 0.5}}}, "got 0.5"),
        ({"version": True}, "version True"),
        ({"update": "CoordinateUpdate"}, "must be an object"),
        ({"teleport": None}, "must be an object"),
    ],
)
def test_hostile_config(folder: Path, changes: dict[str, object], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_weights_of_another_size_or_not_finite(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = safetensors.torch.load_file(path)
    name = "update.core.head.weight"
    safetensors.torch.save_file({**good, name: torch.zeros(2, 5)}, path)
    with pytest.raises(CheckpointError, match=r"update\.core\.head\.weight is \(2, 5\), expected \(2, 4\)"):
        load_checkpoint(folder)
    safetensors.torch.save_file({**good, name: torch.full((2, 4), torch.nan)}, path)
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(folder)
    safetensors.torch.save_file({k: v for k, v in good.items() if k != name}, path)
    with pytest.raises(CheckpointError, match="absent"):
        load_checkpoint(folder)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        save_checkpoint(InnerOptimizer(GradientDescent()), tmp_path / "file" / "run")


def test_a_full_disk_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metatele.support.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(load_checkpoint(folder), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_equal_optimizers_give_equal_files(tmp_path):
    """In whatever process they are saved."""
    inner = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))
    inner.initialise(0)
    save_checkpoint(inner, tmp_path / "here")
    code = "from metatele import *; save_checkpoint(load_checkpoint('here'), 'there')"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_checkpoint_of_two_halves_is_that_of_its_weights(tmp_path):
    """A process may be killed between the renaming of the two files."""
    first, second = (InnerOptimizer(CoordinateUpdate(hidden=3, lr=lr)) for lr in (0.01, 0.5))
    with torch.no_grad():
        for p in second.parameters():
            p.add_(1)
    for inner, name in ((first, "a"), (second, "b")):
        save_checkpoint(inner, tmp_path / name)
    (tmp_path / "a" / "config.json").write_bytes((tmp_path / "b" / "config.json").read_bytes())
    with pytest.warns(UserWarning, match=r"config\.json is not of these weights"):
        loaded = load_checkpoint(tmp_path / "a")
    assert loaded.update.lr == 0.01
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), first.parameters(), strict=True))
    weights = tmp_path / "a" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole.replace(b"0.01", b"0.02")):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"not of one checkpoint .* or damaged|damaged or cut off"):
            load_checkpoint(tmp_path / "a")
    tensors = safetensors.torch.load(whole)
    safetensors.torch.save_file(tensors, weights)  # as they were before
    with pytest.raises(CheckpointError, match="are not of one checkpoint"):
        load_checkpoint(tmp_path / "a")
    old = json.loads((tmp_path / "b" / "config.json").read_text())
    del old["weights_sha256"]  # as it was before
    (tmp_path / "b" / "config.json").write_text(json.dumps(old))
    assert load_checkpoint(tmp_path / "b").update.lr == 0.5
