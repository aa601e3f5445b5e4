"""Several processes from the command line: the losses of one, and a clear end where one is killed."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import tubelet
from tubelet import checkpoints
from tubelet.data import motion
from tubelet.data.video import write_video

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
def test_two_processes_train_as_one_does(clips, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for more in ((one, "--accumulate", 2), (two, "--devices", 2)):
        status, out, err = finished(start(clips, *OPTIONS, "--epochs", 2, "--out", *more))
        assert status == 0, err
        assert out.count("best top-1") == 1 and err.count("epoch 2/2") == 1
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert tubelet.load(two).spec.classes == ("left", "right")


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(each) for each in listed.stdout.split()]


@pytest.mark.slow
def test_one_that_is_killed_ends_the_run_which_goes_on(clips, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    command = (clips, *OPTIONS, "--epochs", 4, "--devices", 2, "--checkpoint_s", 0, "--out")
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


def test_several_processes_want_a_launcher(clips, tmp_path):
    with pytest.raises(ValueError, match="torchrun --nproc_per_node 2"):
        tubelet.train(clips, model="tiny_3d", devices=2, out=tmp_path / "run")
