"""Several processes from the command line: the losses of one, and a clear end where one is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch

import tubelet
from tubelet import checkpoints, fit
from tubelet.data import motion
from tubelet.data.video import write_video
from tubelet.launch import launch

OPTIONS = ["--model", "tiny_3d", "--batch_size", "4", "--num_frames", "4", "--crop", "32", "--workers", "1"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for i, name in enumerate(["left", "right"] * 6):
        (root / name).mkdir(exist_ok=True)
        clip = motion.draw([name], 12, torch.Generator().manual_seed(i))
        write_video(root / name / f"{i:02}.mp4", clip.unbind(1), 25.0)
    return root


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tubelet", "train", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def losses(folder):
    return [float(row["train_loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(clips, tmp_path, strategy):
    one, two = tmp_path / "one", tmp_path / "two"
    for more in ((one, "--accumulate", 2), (two, "--devices", 2, "--strategy", strategy)):
        status, out, err = finished(start(clips, *OPTIONS, "--epochs", 2, "--out", *more))
        assert status == 0, err
        assert out.count("best top-1") == 1 and err.count("epoch 2/2") == 1 and "Warning" not in err
    assert ("optimizer states shared among 2 processes" in err) == (strategy == "fsdp")
    assert json.loads((two / "run.json").read_text())["strategy"] == strategy
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    network, kept = tubelet.load(two), torch.load(two / checkpoints.LAST)["model"]
    assert network.spec.classes == ("left", "right")
    best = max(csv.DictReader((two / "metrics.csv").open()), key=lambda row: (row["val_top1"], -float(row["val_loss"])))
    if best["epoch"] == "2":
        assert all(torch.equal(each, kept[name]) for name, each in network.state_dict().items())


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(each) for each in listed.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_that_is_killed_ends_the_run_which_goes_on(clips, tmp_path, strategy):
    whole, run = tmp_path / "whole", tmp_path / "run"
    command = (clips, *OPTIONS, "--epochs", 4, "--devices", 2, "--strategy", strategy, "--checkpoint_s", 0, "--out")
    status, _, err = finished(start(*command, whole))
    assert status == 0, err
    process = start(*command, run)
    while not (run / checkpoints.LAST).exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    status, _, err = finished(process)
    assert status == 2 and "was ended by SIGKILL" in err and "Traceback" not in err
    status, _, err = finished(start(*command, run, "--resume"))
    assert status == 0, err
    assert losses(run) == losses(whole)
    one, other = (torch.load(folder / checkpoints.LAST)["model"] for folder in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_processes_have_time_to_write_a_checkpoint(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    configs = []
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch", lambda config, _: configs.append(config) or print
    )
    assert launch([], 2) == 0
    assert configs[0].shutdown_timeout == 600


@pytest.mark.parametrize(
    ("first", "second", "ends"), [("INT", "TERM", True), ("TERM", "INT", True), ("TERM", "TERM", False)]
)
def test_a_second_ctrl_c_ends_at_once_however_it_comes(first, second, ends):
    with fit._asked_to_stop() as is_asked:
        signal.raise_signal(signal.Signals[f"SIG{first}"])
        assert is_asked()
        with pytest.raises(KeyboardInterrupt) if ends else nullcontext():
            signal.raise_signal(signal.Signals[f"SIG{second}"])


def test_several_processes_want_a_launcher(clips, tmp_path):
    with pytest.raises(ValueError, match="torchrun --nproc_per_node 2"):
        tubelet.train(clips, model="tiny_3d", devices=2, out=tmp_path / "run")


def test_fsdp_wants_several_processes_and_a_precision_that_it_has(clips, tmp_path, monkeypatch):
    options = {"model": "tiny_3d", "num_frames": 4, "crop": 32, "out": tmp_path / "run"}
    with pytest.raises(
        ValueError, match=r"fsdp shares a network among processes, .*: give --devices 2 or more, or ddp$"
    ):
        tubelet.train(clips, strategy="fsdp", **options)
    with pytest.raises(ValueError, match="strategy 'zero'; there is ddp, fsdp"):
        tubelet.train(clips, strategy="zero", **options)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="fsdp has no precision 16: take bf16 or 32"):
        fit.open_fabric(strategy="fsdp", precision="16")
