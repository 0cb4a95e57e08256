"""Runs are heard, in this process and in others, and hear that they are to stop."""

import pickle
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest

from metatele.support.exchange import Exchange, Line

CALLER = """
import pickle, sys, time, warnings
with pickle.loads(bytes.fromhex(sys.argv[1])) as line:
    for _ in range(2):
        warnings.warn_explicit("falls back", UserWarning, "there.py", 3)
    line.say("here")
    time.sleep(60)
"""


def never() -> bool:
    return False


def sent(line: Line) -> Line:
    """The line as another process gets it."""
    copy: Line = pickle.loads(pickle.dumps(line))
    return copy


@pytest.mark.parametrize("far", [False, True])
def test_what_is_said_is_heard_in_order(far: bool) -> None:
    heard: list[Any] = []
    with Exchange(lambda number, message: heard.append((number, message)), never, far) as exchange:
        lines = [exchange.line(number) for number in range(2)]
        for line in map(sent, lines) if far else lines:
            with line:
                assert not line.stopping()
                line.say("first")
                line.say((1, [2.0]))
    assert heard == [(0, "first"), (0, (1, [2.0])), (1, "first"), (1, (1, [2.0]))]


def test_a_run_hears_that_it_is_to_stop_before_it_begins_and_later() -> None:
    asked = [False]
    with Exchange(lambda *message: None, lambda: asked[0], far=True) as exchange:
        with sent(exchange.line(0)) as line:
            assert not line.stopping()
            asked[0] = True
            while not line.stopping():
                time.sleep(0.01)
        with sent(exchange.line(1)) as line:
            assert line.stopping()


def test_it_ends_whatever_keeps_the_thread_that_answers(monkeypatch) -> None:
    """That thread looks after each call whether it is to go; the end may come just before, and must not call it."""
    ended, start = threading.Event(), threading.Thread.start

    def start_and_wait(thread: threading.Thread) -> None:
        start(thread)
        if threading.current_thread() is not threading.main_thread():
            ended.wait()

    monkeypatch.setattr(threading.Thread, "start", start_and_wait)
    exchange = Exchange(lambda *message: None, never, far=True).__enter__()
    with sent(exchange.line(0)) as line:
        line.say("heard by a thread that the one that answers has started")
    ending = threading.Thread(target=exchange.__exit__, daemon=True)
    ending.start()
    ending.join(30)
    ended.set()
    assert not ending.is_alive()


def test_where_nobody_can_be_reached_a_run_goes_on() -> None:
    with Exchange(lambda *message: None, never, far=True) as exchange:
        line = sent(exchange.line(0))
    with line:  # the address is gone, as it is on another machine
        line.say("unheard")
        assert not line.stopping()


def test_a_process_brings_its_warnings_and_ends_with_the_one_that_waits_for_it() -> None:
    heard: list[Any] = []
    exchange = Exchange(lambda number, message: heard.append(message), never, far=True)
    with warnings.catch_warnings(record=True) as shown, exchange:
        caller = subprocess.Popen([sys.executable, "-c", CALLER, pickle.dumps(exchange.line(0)).hex()])
        while not heard:
            time.sleep(0.05)
    assert [(str(w.message), w.category, w.lineno) for w in shown] == [("falls back", UserWarning, 3)], "once"
    assert caller.wait(10) == 1
