"""A run inside a thread with a loop of its own, as in a web server's worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import asynctune as tune


def report_steps(config):
    for step in range(5):
        tune.report(step=step)


def picture():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return handlers, sys.excepthook, dict(os.environ), os.getcwd(), list(sys.path)


def test_a_run_in_a_thread_with_its_own_loop_leaves_the_process_as_it_was():
    before = picture()
    found = []
    during = []

    class Look(tune.Callback):
        def on_trial_result(self, trial, result):
            during.append(picture())

    def in_thread():
        found.append(asyncio.run(tune.run(report_steps, callbacks=[Look()], verbose=0)))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert found[0].stats()["results"] == 5
    assert during == [before] * 5
    assert picture() == before


def test_two_threads_run_independently():
    found = {}

    def in_thread(name):
        found[name] = asyncio.run(tune.run(report_steps, name=name, num_samples=3, verbose=0))

    threads = [threading.Thread(target=in_thread, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: analysis.stats()["results"] for name, analysis in found.items()} == {
        "a": 15,
        "b": 15,
    }
