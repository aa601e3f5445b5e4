"""The loop: killed at any step and resumed, it computes the same; so do several processes, on one host and on two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tubelet import checkpoints, fit
from tubelet.data.video import VideoError

SCRIPT = Path(__file__).with_name("fit_script.py")
STEPS = 9  # three epochs of three


def start(*arguments, launcher=(), prefix=(), **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*prefix, sys.executable, *launcher, *map(str, (SCRIPT, *arguments))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options,
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
    status, out = finished(start(folder, "--accumulate", 2, "--die_at", step))  # and those that read have ended, too
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


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.kill, os.killpg])  # a terminal and a cluster send it to those that read, too
def test_asked_to_stop_it_ends_the_step_and_goes_on_from_there(whole, tmp_path, sent, send):
    folder = tmp_path / "run"
    process = start(folder, "--accumulate", 2, "--slow", 0.5, start_new_session=True)
    while not (folder / checkpoints.LAST).exists() and process.poll() is None:
        time.sleep(0.01)
    send(process.pid, sent)
    status, out = finished(process)
    assert status != 0 and out.count("stopping after this step") == 1 and "KeyboardInterrupt" in out
    assert "died" not in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
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
    status, out = by_two(folder)
    assert status == 0, out
    return folder


def test_two_processes_have_the_losses_of_one(whole, two):
    assert_same_losses(whole, two)


def by_two(folder, *arguments):
    return finished(start(folder, *arguments, launcher=torchrun("--standalone")))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The same run by two processes with a share of the network each."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    status, out = by_two(folder, "--strategy", "fsdp")
    assert status == 0 and "Warning" not in out, out
    return folder


def assert_near(one, other):
    assert one.keys() == other.keys()
    for name, each in one.items():
        if isinstance(each, dict):
            assert_near(each, other[name])
        elif isinstance(each, torch.Tensor):
            assert type(other[name]) is torch.Tensor  # whole, not a share
            torch.testing.assert_close(each, other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_that_share_the_network_have_the_losses_of_one(whole, shared):
    assert_same_losses(whole, shared)
    (_, weights), (_, saved) = result(whole), result(shared)
    one, other = (torch.load(folder / checkpoints.LAST) for folder in (whole, shared))
    assert one.keys() == other.keys() and one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    assert_near(one["optimizer"]["state"], other["optimizer"]["state"])
    # running statistics of two parts are other ones, whoever computes them
    is_weight = [name for name in weights if name.endswith(("weight", "bias"))]
    assert_near(*({name: each[name] for name in is_weight} for each in (weights, saved)))
    assert all(torch.equal(saved[name], each) for name, each in other["model"].items())


@pytest.mark.slow
def test_both_strategies_give_the_same(two, shared):
    (rows, _), (other_rows, _) = result(two), result(shared)
    for row, twin in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(twin, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_killed_and_resumed(two, shared, tmp_path, strategy):
    folder = tmp_path / "run"
    status, out = by_two(folder, "--strategy", strategy, "--die_at", 5)
    assert status != 0 and "SIGKILL" in out
    status, out = by_two(folder, "--strategy", strategy, "--resume")
    assert status == 0, out
    assert_same({"ddp": two, "fsdp": shared}[strategy], folder)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", None)])
def test_another_strategy_goes_on(whole, tmp_path, before, after):
    """Or one process."""
    folder = tmp_path / "run"
    status, out = by_two(folder, "--strategy", before, "--die_at", 4)
    assert status != 0 and "SIGKILL" in out
    status, out = by_two(folder, "--strategy", after, "--resume") if after else finished(start(folder, "--resume"))
    assert status == 0, out
    if after:
        assert_same_losses(whole, folder)
    else:  # whose batch norms see other clips together
        assert [row["epoch"] for row in result(folder)[0]] == [1, 2, 3]


ALL = ["--accumulate", 2, "--batch", 11, "--average"]
MORE = ["--precise", "--checkpointed"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [("ddp",), ("ddp", *MORE), ("fsdp",), ("fsdp", *MORE)])
def test_with_a_running_average_too(tmp_path, more):
    """And parts of a step, true statistics and stages computed again: killed and resumed as in one go and as by one."""
    one, whole, run = (tmp_path / name for name in ("one", "whole", "run"))
    arguments = [*ALL, "--strategy", *more]
    assert by_two(whole, *arguments)[0] == 0
    status, out = by_two(run, *arguments, "--die_at", 3)
    assert status != 0 and "SIGKILL" in out
    status, out = by_two(run, *arguments, "--resume")
    assert status == 0, out
    assert_same(whole, run)
    if "--precise" in more:
        assert finished(start(one, *ALL, "--accumulate", 4, *MORE))[0] == 0
        (first, *_), (twin, *_) = result(whole)[0], result(one)[0]
        assert first == pytest.approx(twin, abs=1e-5)  # later Adam makes much of the last digits


@pytest.mark.slow
def test_bf16_with_a_shared_network(tmp_path):
    arguments = ["--large", "--precision", "bf16", "--strategy"]
    for strategy in ("ddp", "fsdp"):
        status, out = by_two(tmp_path / strategy, *arguments, strategy)
        assert status == 0, out
    (first, *_), (twin, *_) = (result(tmp_path / strategy)[0] for strategy in ("ddp", "fsdp"))
    assert first["train_loss"] == pytest.approx(twin["train_loss"], abs=1e-3)
    saved = result(tmp_path / "fsdp")[1]
    assert all(each.isfinite().all() and each.dtype != torch.bfloat16 for each in saved.values())


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


def test_validation_ends_the_run_where_no_process_has_a_sample_left():
    class Batches(list):
        bad, dataset = {"a.mp4": "a.mp4: damaged"}, range(2)

    network = torch.nn.Identity()
    network.spec = None
    measures = SimpleNamespace(to=lambda device: SimpleNamespace(compute=dict))
    task = SimpleNamespace(measures=lambda: measures, figures=dict)

    def validated(others):
        fabric = SimpleNamespace(world_size=2, device="cpu", all_reduce=lambda values, reduce_op: values + others)
        return fit._validate(fabric, network, task, Batches(), set())

    assert validated(others=1) == {"val_loss": 1}
    with pytest.raises(VideoError, match=r"no sample is left to validate on: 1 of 2 samples are bad, first a\.mp4"):
        validated(others=0)
