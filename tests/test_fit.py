"""The loop: killed at any step and resumed, it computes the same; so do several processes, on one host and on two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tubelet import checkpoints

SCRIPT = Path(__file__).with_name("fit_script.py")
STEPS = 9  # three epochs of three


def start(*arguments, launcher=(), prefix=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*prefix, sys.executable, *launcher, *map(str, (SCRIPT, *arguments))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def finished(process):
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def result(folder):
    rows = json.loads((folder / "history.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return rows, torch.load(folder / "weights.pt")


def assert_same(one, other):
    (rows, weights), (other_rows, other_weights) = result(one), result(other)
    assert rows == other_rows
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts, which accumulates two parts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, out = finished(start(folder, "--accumulate", 2))
    assert status == 0, out
    return folder


@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 4, 6, 8, 9))])
def test_killed_at_a_step_and_resumed_it_computes_the_same(whole, tmp_path, step):
    folder = tmp_path / "run"
    status, out = finished(start(folder, "--accumulate", 2, "--die_at", step))
    assert status == -signal.SIGKILL, out
    status, out = finished(start(folder, "--accumulate", 2, "--resume"))
    assert status == 0, out
    assert_same(whole, folder)


@pytest.mark.slow
def test_a_broken_checkpoint_costs_a_step_and_nothing_else(whole, tmp_path):
    folder = tmp_path / "run"
    finished(start(folder, "--accumulate", 2, "--die_at", 6))
    last = folder / checkpoints.LAST
    last.write_bytes(last.read_bytes()[:5000])
    status, out = finished(start(folder, "--accumulate", 2, "--resume"))
    assert status == 0 and "the one before" in out
    assert_same(whole, folder)


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_asked_to_stop_it_ends_the_step_and_goes_on_from_there(whole, tmp_path, sent):
    folder = tmp_path / "run"
    process = start(folder, "--accumulate", 2, "--slow", 0.5)
    while not (folder / checkpoints.LAST).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(sent)
    status, out = finished(process)
    assert status != 0 and "stopping after this step" in out and "KeyboardInterrupt" in out
    assert not (folder / "history.json").exists()
    status, out = finished(start(folder, "--accumulate", 2, "--resume"))
    assert status == 0, out
    assert_same(whole, folder)


def torchrun(*more):
    return ["-m", "torch.distributed.run", "--nproc_per_node", "2", *more]


def assert_same_losses(one, other):
    (rows, _), (other_rows, _) = result(one), result(other)
    for row, twin in zip(rows, other_rows, strict=True):
        assert row["train_loss"] == pytest.approx(twin["train_loss"], abs=1e-6)
        assert row["lr"] == twin["lr"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run by two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    status, out = finished(start(folder, launcher=torchrun("--standalone")))
    assert status == 0, out
    return folder


def test_two_processes_have_the_losses_of_one(whole, two):
    assert_same_losses(whole, two)


@pytest.mark.slow
def test_two_processes_killed_and_resumed(two, tmp_path):
    folder = tmp_path / "run"
    status, out = finished(start(folder, "--die_at", 5, launcher=torchrun("--standalone")))
    assert status != 0 and "SIGKILL" in out
    status, out = finished(start(folder, "--resume", launcher=torchrun("--standalone")))
    assert status == 0, out
    assert_same(two, folder)


@pytest.fixture
def hosts():
    """Two network namespaces joined by a cable: (what to put before a command, address) of each."""
    names = [f"tubelet{os.getpid()}{side}" for side in "ab"]
    cables = [f"tb{os.getpid() % 100_000}{side}" for side in "ab"]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {cables[0]} type veth peer name {cables[1]}",
        *(f"ip link set {cable} netns {name}" for cable, name in zip(cables, names, strict=True)),
        *(f"ip -n {name} addr add 10.77.0.{i + 1}/24 dev {cables[i]}" for i, name in enumerate(names)),
        *(f"ip -n {name} link set {cables[i]} up" for i, name in enumerate(names)),
        *(f"ip -n {name} link set lo up" for name in names),
    ]
    try:
        for each in commands:
            try:
                subprocess.run(each.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("only root of a Linux with `ip` can make two hosts")
        yield [(["ip", "netns", "exec", name], cable) for name, cable in zip(names, cables, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_have_the_losses_of_one(whole, hosts, tmp_path):
    folder = tmp_path / "run"
    running = []
    for rank, (prefix, cable) in enumerate(hosts):
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "1", "--nnodes", "2", "--node_rank", str(rank)]
        launcher += ["--master_addr", "10.77.0.1", "--master_port", "29511"]
        running.append(start(folder, launcher=launcher, prefix=[*prefix, "env", f"GLOO_SOCKET_IFNAME={cable}"]))
    for process in running:
        status, out = finished(process)
        assert status == 0, out
    assert_same_losses(whole, folder)
