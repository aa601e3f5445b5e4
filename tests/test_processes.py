"""Workers that answer, fail, die and hang."""

import faulthandler
import os
import signal
import time

import pytest

from tubelet import processes
from tubelet.processes import Failed, each

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")


def test_all_items_are_answered():
    assert dict(each(lambda item: item**2, range(50), workers=3)) == {i: i**2 for i in range(50)}
    assert list(each(abs, [], workers=2)) == []


def test_items_are_taken_as_workers_get_free():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    answers = each(abs, items(), workers=2)
    next(answers)
    assert len(taken) <= 4
    answers.close()


def troubled(item):
    if item == "error":
        raise ValueError("one line")
    if item == "bug":
        raise KeyError("x")
    if item == "missing":
        open("/no/such/file")  # noqa: SIM115, PTH123
    if item == "crash":
        faulthandler.disable()  # pytest's would print where
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        time.sleep(60)
    if item == "long":
        for _ in range(6):
            time.sleep(0.1)
            processes.alive()
    return "fine"


def test_each_failure_is_told_and_costs_one_item():
    items = ["error", "bug", "missing", "crash", "memory", "exit", "hang", "long", *range(20)]
    answers = dict(each(troubled, items, workers=2, time_limit_s=0.4))
    assert set(answers) == set(items)
    assert {answers[item] for item in [*range(20), "long"]} == {"fine"}
    assert answers["error"] == Failed("one line")
    assert answers["bug"] == Failed("KeyError: 'x'")
    assert answers["missing"] == Failed("/no/such/file: No such file or directory")
    assert "SIGSEGV" in answers["crash"].reason
    assert "out of memory" in answers["memory"].reason
    assert "exit status 3" in answers["exit"].reason
    assert answers["hang"] == Failed("took longer than 0.4 s")


def test_closing_ends_the_workers_and_their_finally_blocks(tmp_path):
    def work(item):
        mark = tmp_path / str(item)
        try:
            mark.touch()
            time.sleep(0 if item == 0 else 60)
        finally:
            mark.unlink(missing_ok=True)
        return os.getpid()

    answers = each(work, range(4), workers=2)
    _, pid = next(answers)
    answers.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_fork_the_work_is_done_here(monkeypatch):
    monkeypatch.setattr(processes, "CAN_FORK", False)
    assert dict(each(lambda item: (item, os.getpid()), [1])) == {1: (1, os.getpid())}
    assert dict(each(troubled, ["error"])) == {"error": Failed("one line")}


def test_at_least_one_worker():
    with pytest.raises(ValueError, match="workers 0"):
        each(abs, [1], workers=0)
