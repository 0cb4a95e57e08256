"""Runs on several processes: in order, on one thread each, with their errors."""

import importlib
import os
import signal

import pytest
import torch

from metatele.errors import ConfigError, TaskError
from metatele.support.parallel import limited_threads, run_all


def square(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    return x * x, torch.get_num_threads()


def fail(x: int) -> int:
    if x == 2:
        raise TaskError(f"bad item {x}")
    return x


def die(x: int) -> int:
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_in_order_and_threads_are_one(jobs):
    before, seen = torch.get_num_threads(), []
    items = [torch.full((3,), float(i)) for i in range(5)]
    results = run_all(square, items, jobs, seen.append)
    assert [x.tolist() for x, _ in results] == [[float(i * i)] * 3 for i in range(5)]
    assert {threads for _, threads in results} == {1}
    assert seen == [1, 2, 3, 4, 5]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_threads_are_as_many_as_asked_for(jobs):
    assert {threads for _, threads in run_all(square, [torch.ones(2)] * 3, jobs, threads=2)} == {2}


def here(name: str) -> tuple[str, str]:
    return os.getcwd(), importlib.import_module(name).WORD


def test_processes_find_files_and_modules_where_this_one_does(tmp_path, monkeypatch):
    run_all(fail, [0, 1], 2)  # the processes are there already, elsewhere
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_alone.py").write_text("WORD = 'mine'")
    assert run_all(here, ["mine_alone"] * 2, 2) == [(str(tmp_path), "mine")] * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_a_run_are_raised(jobs):
    with pytest.raises(TaskError, match="bad item 2"):
        run_all(fail, range(4), jobs)


def test_a_process_that_dies_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"one of jobs=2 processes died.*run it again with fewer"):
        run_all(die, range(3), 2)
    assert run_all(fail, [0, 1], 2) == [0, 1], "the next run is not the worse for it"


def test_threads_are_limited_for_a_while_only():
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
