"""Training runs: what they leave, replay, resume after kill -9 bit for bit, errors of one line."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from lightning.fabric.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tubelet
from tubelet import feed, memory, speed, weights
from tubelet.data import motion
from tubelet.data.augment import RECIPES, Augment
from tubelet.data.sample import Sample, VideoData
from tubelet.data.video import write_video
from tubelet.run import folder_of

SMALL = ["--model", "tiny_3d", "--batch_size", "4", "--num_frames", "4", "--crop", "32x32", "--workers", "1"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes of motion, six clips each."""
    root = tmp_path_factory.mktemp("clips")
    for i, name in enumerate(["left", "right"] * 6):
        (root / name).mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(i)
        write_video(root / name / f"{i:02}.mp4", motion.draw([name], 12, generator).unbind(1), 25.0)
    return root


def hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background of a shell does not


def command(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "tubelet", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
        start_new_session=True,
    )


def finished(*arguments, cwd):
    process = command(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def state(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=False)


def assert_same_weights(one, other):
    a, b = state(one)["model"], state(other)["model"]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """an uninterrupted run."""
    cwd = tmp_path_factory.mktemp("whole")
    status, out, err = finished("train", clips, *SMALL, "--epochs", 8, "--out", "run", cwd=cwd)
    assert status == 0, err
    return cwd / "run", out, err


def test_a_run_leaves_its_files(whole):
    folder, out, err = whole
    assert {"run.json", "metrics.csv", "curves.png", "model.safetensors", "last.ckpt"} <= {
        file.name for file in folder.iterdir()
    }
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
    assert "best top-1" in out and "epoch 8/8" in err
    model = tubelet.load(folder)
    assert model.spec.classes == ("left", "right") and model.spec.num_frames == 4 and model.spec.crop == (32, 32)
    kept = weights.read(folder / "model.safetensors").header["metrics"]
    assert kept["val_top1"] == max(float(row["val_top1"]) for row in rows)


def test_run_json_replays_the_run(whole, clips, tmp_path):
    folder, _, _ = whole
    status, _, err = finished("train", "--config", folder / "run.json", "--out", "again", cwd=tmp_path)
    assert status == 0, err
    assert_same_weights(folder, tmp_path / "again")


def test_tensorboard_gets_the_figures(clips, tmp_path):
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "epochs": 2, "workers": 0, "batch_size": 4}
    run = tubelet.train(clips, logger="tensorboard", out=tmp_path / "run", **options)
    events = EventAccumulator(str(run.out / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "val_top1", "lr"):
        seen = [event.value for event in events.Scalars(name)]
        assert seen == pytest.approx([row[name] for row in run.history])


def test_a_logger_of_ones_own_leaves_a_run_that_can_be_replayed(clips, tmp_path):
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "epochs": 1, "workers": 0}
    logger = CSVLogger(tmp_path / "mine")
    run = tubelet.train(clips, logger=logger, out=tmp_path / "run", **options)
    assert json.loads((run.out / "run.json").read_text())["logger"] == "csv"
    tubelet.train(clips, logger=logger, out=tmp_path / "run", resume=True, **options)


def test_a_network_is_left_as_free_as_it_was(clips, tmp_path):
    network = tubelet.create("tiny", num_classes=2)
    network.stem.conv.weight.requires_grad_(False)
    before = [weight.requires_grad for weight in network.parameters()]
    options = {"crop": 32, "num_frames": 4, "epochs": 1, "workers": 0, "frozen_stages": 1, "stochastic_depth": 0.5}
    tubelet.train(clips, model=network, out=tmp_path / "run", norm_parts=2, **options)
    assert [weight.requires_grad for weight in network.parameters()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_logger_that_is_not_there(clips, tmp_path):
    with pytest.raises(ValueError, match="logger 'wandb'; give csv, tensorboard or a Lightning logger"):
        tubelet.train(clips, model="tiny_3d", crop=32, num_frames=4, logger="wandb", out=tmp_path / "run")


def test_a_long_run_takes_fast_convolutions_and_keeps_its_choice(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tubelet.train.__globals__["speed"], "choose", partial(speed.choose, seconds=0))
    monkeypatch.setitem(tubelet.train.__globals__, "LONG_S", 0)
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "epochs": 1, "workers": 0}
    run = tubelet.train(clips, out=tmp_path / "run", **options)
    assert "convolutions: " in capsys.readouterr().err
    ways = tmp_path / "run" / "convolutions.json"
    assert len(json.loads(ways.read_text())) > 3
    again = tubelet.train(clips, out=tmp_path / "again", convolutions=ways, **options)
    assert [row["val_loss"] for row in again.history] == [row["val_loss"] for row in run.history]
    with pytest.raises(ValueError, match="gone: no such file; leave it out"):
        tubelet.train(clips, out=tmp_path / "other", convolutions="gone", **options)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    tubelet.train(clips, out=moved, convolutions=ways, resume=True, **options)  # as its run.json has it


def test_a_step_is_made_to_fit_into_the_memory(clips, tmp_path, monkeypatch, capsys):
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "epochs": 1, "batch_size": 8, "workers": 0}
    plain = tubelet.train(clips, out=tmp_path / "plain", **options)
    again = tubelet.train(clips, out=tmp_path / "again", checkpointed_stages=2, **options)
    assert [row["train_loss"] for row in again.history] == [row["train_loss"] for row in plain.history]
    peak = memory.predict_peak(tubelet.create("tiny_3d", num_classes=2), torch.rand(8, 3, 4, 32, 32)).total
    monkeypatch.setattr(memory, "available_bytes", lambda device: peak)
    run = tubelet.train(clips, out=tmp_path / "run", memory="auto", **options)
    arguments = json.loads((run.out / "run.json").read_text())
    assert arguments["memory"] == "plain" and "MiB" in capsys.readouterr().err
    chosen = (arguments["precision"], arguments["accumulate"], arguments["checkpointed_stages"])
    assert chosen != ("32", 1, 0) or arguments["returns_memory"]
    # gone on with beside other work, it keeps to what was chosen
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100 * peak)
    tubelet.train(clips, out=tmp_path / "run", memory="auto", resume=True, **options)
    with pytest.raises(ValueError, match=r"checkpointed_stages 9; the network has \d stages"):
        tubelet.train(clips, out=tmp_path / "other", checkpointed_stages=9, **options)


def interrupted(clips, cwd, sent, send=os.kill):
    """A run of eight epochs that gets a signal once its second epoch has begun."""
    process = command("train", clips, *SMALL, "--epochs", 8, "--out", "run", cwd=cwd)
    deadline = time.monotonic() + 240
    while not (cwd / "run" / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    send(process.pid, sent)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.slow
def test_kill_minus_nine_loses_at_most_an_epoch(whole, clips, tmp_path):
    status, _ = interrupted(clips, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    done = state(tmp_path / "run")["progress"]["epoch"]
    assert 1 <= done < 8, "the run was over before it could be killed"
    status, _, err = finished("train", clips, *SMALL, "--epochs", 8, "--out", "run", "--resume", cwd=tmp_path)
    assert status == 0, err
    assert f"epoch {done}/8" not in err and f"epoch {done + 1}/8" in err
    assert_same_weights(whole[0], tmp_path / "run")
    rows, again = (list(csv.DictReader((f / "metrics.csv").open())) for f in (whole[0], tmp_path / "run"))
    for row, twin in zip(rows, again, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in twin.items() if k != "seconds"}


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "send"), [(signal.SIGINT, os.kill), (signal.SIGTERM, os.killpg)])
def test_asked_to_stop_it_says_how_to_resume(whole, clips, tmp_path, sent, send):
    """By Ctrl-C, and as Slurm and `timeout` do it: all processes of the run get the signal."""
    status, err = interrupted(clips, tmp_path, sent, send)
    assert status == 130 and "died" not in err
    assert "tubelet train --config run/run.json --resume" in err
    assert "Traceback" not in err
    status, _, err = finished("train", "--config", "run/run.json", "--resume", cwd=tmp_path)
    assert status == 0, err
    assert_same_weights(whole[0], tmp_path / "run")


def test_resume_wants_the_same_arguments(whole, clips):
    folder, _, _ = whole
    with pytest.raises(ValueError, match=r"label_smoothing None, now 0\.3"):
        tubelet.train(clips, model="tiny_3d", batch_size=4, num_frames=4, crop=(32, 32), workers=1, epochs=8,
                      label_smoothing=0.3, out=folder, resume=True)  # fmt: skip
    with pytest.raises(ValueError, match="holds a run"):
        tubelet.train(clips, model="tiny_3d", out=folder)


def test_a_run_from_a_checkpoint_and_any_network(whole, clips, tmp_path):
    folder, _, _ = whole
    options = {"num_frames": 4, "crop": (32, 32), "workers": 0, "epochs": 1, "batch_size": 4}
    fine = tubelet.train(clips, model="tiny_3d", weights=folder / "model.safetensors", out=tmp_path / "fine", **options)
    assert fine.history[0]["val_loss"] < 2

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            self.spec = tubelet.ClipSpec(num_frames=4, resize=None)

        def forward(self, x):
            return self.fc(x.mean((2, 3, 4)))

    run = tubelet.train(clips, model=Own(), out=tmp_path / "own", **options)
    assert len(run.history) == 1
    with pytest.raises(ValueError, match=r"did not make; build it .*own/model\.safetensors', model=net\)` instead"):
        run.load()
    own = run.load(model=Own())
    assert own.spec.classes == ("left", "right") and not own.training


def test_short_names_for_a_number_or_none(clips, tmp_path):
    run = tubelet.train(clips, model="tiny_2d", crop=32, resize="none", fps="none", num_frames=2, epochs=1, workers=0,
                        optimizer="sgd", out=tmp_path / "run")  # fmt: skip
    spec = run.load().spec
    assert (spec.crop, spec.resize, spec.fps) == ((32, 32), None, None)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resize"] == "none"


def test_a_loss_that_is_no_number_ends_the_run(clips, tmp_path):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            self.spec = tubelet.ClipSpec(num_frames=4, resize=None, crop=(32, 32))

        def forward(self, x):
            return self.fc(x.mean((2, 3, 4))) / 0

    with pytest.raises(ValueError, match="the loss is nan in epoch 1: lower lr"):
        tubelet.train(clips, model=Broken(), workers=0, epochs=2, out=tmp_path / "run")
    with pytest.raises(ValueError, match="task 'outline'"):
        tubelet.train(clips, task="outline")
    with pytest.raises(ValueError, match="class folders is read as classify, not as segment"):
        tubelet.train(clips, task="segment")
    with pytest.raises(ValueError, match="lr -1 must be above 0"):
        tubelet.train(clips, lr=-1)


def test_a_validation_loss_that_is_no_number_ends_the_run_and_keeps_no_model(clips, tmp_path):
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "workers": 0, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"^the validation loss is nan in epoch 1: lower lr"):
        tubelet.train(clips, optimizer="sgd", lr=1e30, clip_norm=0, epochs=1, **options)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": None}, r"^data None; give the path of a folder or a list, or motion$"),
        ({"seed": 2**70}, r"^seed 1180591620717411303424 must be at least -2\^63 and below 2\^64$"),
        ({"seed": 1.5}, r"^seed 1\.5 must be a whole number$"),
        ({"epochs": 1.5}, r"^epochs 1\.5 must be a whole number$"),
        ({"batch_size": 2.5}, r"^batch_size 2\.5 must be a whole number$"),
        ({"checkpoint_s": -1}, r"^checkpoint_s -1 must be at least 0$"),
        ({"precision": 8}, r"^precision '8'; there is 32, bf16, 16$"),
        ({"mixing": {"mixup": 0.2}}, r"^mixing \{'mixup': 0\.2\}; give a tubelet\.data\.mixing\.Mixing, such as"),
        ({"augment": "kinetic"}, r"^augment 'kinetic'; there is plain, kinetics, strong, or give a tubelet\.data\.aug"),
        ({"augment": {"zoom": 1.2}}, r"^augment \{'zoom': 1\.2\}; there is plain, kinetics, strong, or give"),
        ({"distort": 3}, r"^distort 3; there is none, light, nnunet, varied, or give a tubelet\.data\.distort\.Dis"),
        ({"out": __file__}, r"test_train\.py: a file is in the way; move it, or give another path as out$"),
        ({"out": f"{__file__}/run"}, r"test_train\.py/run: a part of this path is a file, not a folder; give another"),
        (
            {"is_norm_frozen": True, "precise_norms": 2},
            r"^is_norm_frozen True, precise_norms 2: .*leave one of the two",
        ),
        ({"frozen_stages": 3, "precise_norms": 2}, r"^precise_norms 2: the network has no batch norm whose statistics"),
    ],
)
def test_values_of_another_kind_are_told_in_a_line(clips, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    fitting = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "workers": 0, "epochs": 1}
    with pytest.raises(ValueError, match=says) as caught:
        tubelet.train(**{"data": clips, **fitting, **options})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_is_meant_is_taken_and_what_is_done_is_said(clips, tmp_path, capsys):
    """Names of augmentations, a number as precision; steps have no more clips than an epoch, and a CPU has no fp16."""
    options = {"model": "tiny_3d", "crop": 32, "num_frames": 4, "workers": 0, "epochs": 1}
    run = tubelet.train(clips, augment="kinetics", precision=32, batch_size=1000, out=tmp_path / "run", **options)
    err = capsys.readouterr().err
    clips_a_step = int(re.search(r"tiny_3d on (\d+) clips", err)[1])
    assert f"batch {clips_a_step}\n" in err and f"for steps of {clips_a_step}, all that an epoch has\n" in err
    assert "bf16" not in err and "augment.zoom 1.25, augment.flip True: as asked" in err
    arguments = json.loads((run.out / "run.json").read_text())
    assert arguments["precision"] == "32" and Augment(**arguments["augment"]) == RECIPES["kinetics"]
    half = tubelet.train(clips, precision="16", out=tmp_path / "half", **options)
    assert "\n  precision bf16: a CPU has no 16\n" in capsys.readouterr().err
    assert json.loads((half.out / "run.json").read_text())["precision"] == "16"
    same = tubelet.train(clips, precision="bf16", out=tmp_path / "same", **options)
    assert same.history[0]["val_loss"] == half.history[0]["val_loss"]


def test_what_cannot_be_saved_is_said_before_training(clips, tmp_path):
    model = tubelet.create("tiny_2d", num_classes=2)
    model.head = torch.nn.Sequential(tubelet.heads.Classify(64, 2))
    with pytest.raises(ValueError, match="Sequential cannot be saved as a head"):
        tubelet.train(clips, model=model, num_frames=4, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="with a network in memory"):
        tubelet.train(clips, model=model, weights="gone.pth")


def test_a_damaged_checkpoint_is_one_line(whole, clips, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    options = {"model": "tiny_3d", "batch_size": 4, "num_frames": 4, "crop": (32, 32), "workers": 1, "epochs": 8}
    for name, match in (("last.ckpt", ""), ("previous.ckpt", r"last\.ckpt: damaged .*no checkpoint is whole")):
        content = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(content[: len(content) // 2])
        if not match:
            tubelet.train(clips, out=tmp_path / "run", resume=True, **options)
            assert "going on from" in capsys.readouterr().err
            assert_same_weights(whole[0], tmp_path / "run")
            (tmp_path / "run" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=match) as caught:
        tubelet.train(clips, out=tmp_path / "run", resume=True, **options)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_name_takes_the_next_free_folder(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": "tiny_2d", "num_frames": 2, "crop": 32, "epochs": 1, "workers": 0}
    runs = [tubelet.train(clips, **options) for _ in range(2)]
    assert [str(run.out) for run in runs] == [f"runs/{clips.name}-tiny_2d", f"runs/{clips.name}-tiny_2d-2"]
    assert str(tubelet.train(clips, resume=True, **options).out) == f"runs/{clips.name}-tiny_2d-2"


def test_the_last_run_is_resumed(tmp_path, monkeypatch):
    """Where a run between was deleted, and a folder after it is empty."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"runs/a: no run to resume"):
        folder_of(None, "a", resume=True)
    for name in ("a", "a-3"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "runs" / "a-2026").mkdir()  # no run
    (tmp_path / "runs" / "a-4").mkdir()
    assert str(folder_of(None, "a", resume=False)) == "runs/a-5"
    assert str(folder_of(None, "a", resume=True)) == "runs/a-3"


def test_a_run_that_cannot_begin_leaves_the_network_as_it_was(clips, tmp_path):
    model = tubelet.create("tiny_2d", num_classes=2)
    with pytest.raises(ValueError, match="layer_decay 2"):
        tubelet.train(clips, model=model, frozen_stages=1, layer_decay=2.0, epochs=1, workers=0, out=tmp_path / "run")
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not hasattr(model, "loaded_from")


@pytest.fixture(scope="module")
def damaged(clips, tmp_path_factory):
    """Both parts of a data set with a file that is no video, in validation alone in its batch of four."""
    root = tmp_path_factory.mktemp("damaged")
    for part, first, last in (("train", 0, 8), ("val", 8, 12)):
        for name in ("left", "right"):
            (root / part / name).mkdir(parents=True)
            for path in sorted((clips / name).iterdir()):
                if first <= int(path.stem) < last:
                    shutil.copy(path, root / part / name)
        (root / part / "right" / "zz.mp4").write_text("no video")
    return root


class Own(torch.nn.Module):
    """Stops as Ctrl-C does at one of its steps."""

    def __init__(self, stop=0):
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(3, 2)
        self.spec = tubelet.ClipSpec(num_frames=4, resize=None, crop=(32, 32))
        self.steps, self.stop = 0, stop

    def forward(self, x):
        self.steps += self.training
        if self.training and self.steps == self.stop:
            raise KeyboardInterrupt
        return self.fc(x.mean((2, 3, 4)))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_videos_are_left_out_counted_and_named(damaged, tmp_path, workers):
    options = {"batch_size": 4, "epochs": 3, "workers": workers}
    with pytest.raises(ValueError, match=r"train/right/zz\.mp4: .*\(--on_bad skip goes on"):
        tubelet.train(damaged, model=Own(), out=tmp_path / "run", **options)
    # on_bad is another one, as that of a run which ended at a bad file may be
    run = tubelet.train(damaged, model=Own(), out=tmp_path / "run", on_bad="skip", resume=True, **options)
    names = {str(damaged / part / "right" / "zz.mp4") for part in ("train", "val")}
    assert set(run.bad) == names
    assert str(run).endswith("2 bad, see " + str(tmp_path / "run" / "bad.csv"))
    assert {row["sample"] for row in csv.DictReader((tmp_path / "run" / "bad.csv").open())} == names
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        tubelet.train(damaged, model=Own(stop=5), out=tmp_path / "again", on_bad="skip", **options)
    again = tubelet.train(damaged, model=Own(), out=tmp_path / "again", on_bad="skip", resume=True, **options)
    assert [row["val_loss"] for row in again.history] == [row["val_loss"] for row in run.history]
    assert set(again.bad) == names


def test_bad_videos_have_substitutes(damaged, tmp_path):
    run = tubelet.train(damaged, model=Own(), out=tmp_path, on_bad="substitute", batch_size=3, epochs=1, workers=0)
    assert len(run.bad) == 2
    with pytest.raises(ValueError, match="on_bad 'ignore'; there is raise, skip, substitute"):
        tubelet.train(damaged, on_bad="ignore")


def test_a_run_is_not_written_among_the_videos(clips, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(clips)
    before = sorted(clips.rglob("*"))
    for out in (clips, clips / "left" / "run", tmp_path / "link" / "run"):
        with pytest.raises(ValueError, match="is, or lies in, the folder of the videos"):
            tubelet.train(clips, model="tiny_2d", num_frames=4, out=out)
    monkeypatch.chdir(clips)  # where the default, runs/, lies among them, too
    with pytest.raises(ValueError, match=r"runs: is, or lies in, the folder of the videos \(\.\)"):
        tubelet.train(".", model="tiny_2d", num_frames=4)
    assert sorted(clips.rglob("*")) == before


def test_a_run_that_failed_before_its_first_epoch_can_be_mended(clips, tmp_path):
    options = {"model": "tiny_2d", "crop": 32, "epochs": 1, "workers": 0, "out": tmp_path / "run"}
    for _ in range(2):  # a second start fails as the first one did, and not because of it
        with pytest.raises(ValueError, match=r"no video of train gives a clip .*num_frames"):
            tubelet.train(clips, num_frames=13, frame_stride=1, **options)
    run = tubelet.train(clips, num_frames=4, frame_stride=1, resume=True, **options)
    assert len(run.history) == 1 and run.load().spec.num_frames == 4
    assert json.loads((run.out / "run.json").read_text())["num_frames"] == 4


def test_ctrl_c_in_the_first_epoch_says_that_nothing_is_saved(damaged, tmp_path):
    options = {"batch_size": 4, "epochs": 1, "workers": 0, "on_bad": "skip", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt) as caught:
        tubelet.train(damaged, model=Own(stop=1), **options)
    assert str(caught.value) == (
        "interrupted in epoch 1: nothing is saved; begin again with: "
        f"tubelet train --config {tmp_path / 'run' / 'run.json'} --resume"
    )
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert len(tubelet.train(damaged, model=Own(), resume=True, **options).history) == 1


def test_ctrl_c_counts_what_is_done(clips, tmp_path):
    options = {"batch_size": 4, "epochs": 2, "workers": 0, "out": tmp_path / "run"}
    for stop, resume in ((4, False), (1, True)):
        with pytest.raises(KeyboardInterrupt, match=r"interrupted in epoch 2 of 2; go on with: tubelet train"):
            tubelet.train(clips, model=Own(stop=stop), resume=resume, **options)


def test_ctrl_c_after_the_last_epoch_loses_the_drawing_alone(clips, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    options = {"batch_size": 4, "epochs": 1, "workers": 0, "out": tmp_path / "run"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        patch.setattr("tubelet.plot.curves", interrupt)
        tubelet.train(clips, model=Own(), **options)
    assert str(caught.value) == (
        f"interrupted after the last epoch: {tmp_path / 'run' / 'model.safetensors'} is complete; draw its curves "
        f"with: tubelet train --config {tmp_path / 'run' / 'run.json'} --resume"
    )
    assert not (tmp_path / "run" / "curves.png").exists()
    run = tubelet.train(clips, model=Own(), resume=True, **options)
    assert len(run.history) == 1 and (tmp_path / "run" / "curves.png").exists()


def test_the_command_that_goes_on_does(whole, clips, tmp_path):
    """Of an older run, which has no fold and no strategy, too."""
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    arguments = json.loads(path.read_text())
    assert arguments.pop("fold") is None and arguments.pop("strategy") == "ddp"
    path.write_text(json.dumps({**arguments, "out": str(path.parent)}))
    with pytest.raises(ValueError, match="holds a run; go on with it") as caught:
        tubelet.train(clips, model="tiny_3d", out=path.parent)
    (told,) = re.findall(r"\(tubelet (.*)\)", str(caught.value))
    status, _, err = finished(*told.split(), cwd=tmp_path)
    assert status == 0 and "all 8 epochs are done already" in err


def test_a_video_cut_short_is_told_once(clips, tmp_path, capfd):
    shutil.copytree(clips, tmp_path / "clips")
    cut = tmp_path / "clips" / "left" / "00.mp4"
    write_video(cut, torch.randint(0, 256, (60, 3, 64, 64), dtype=torch.uint8), 25.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    tubelet.train(tmp_path / "clips", model=Own(), epochs=3, batch_size=4, workers=2, out=tmp_path / "run")
    err = capfd.readouterr().err
    assert err.count("cut short") == 1 and f"\n{cut}: the file is damaged or cut short" in err
    assert "Warning" not in err and ".py" not in err


def test_parts_without_samples_are_not_offered(clips, monkeypatch):
    data = VideoData(("a", "b"), {"train": [Sample(clips / "left" / "00.mp4", 0)], "test": []})
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: data)
    with pytest.raises(ValueError, match=r"no part 'val'; it has train; of one sample none is left to validate"):
        tubelet.train(clips)


def arrays(folder, channels):
    """A list of twelve arrays of two classes; flow or gray."""
    folder.mkdir(exist_ok=True)
    rows = ["path,label,split"]
    for number in range(12):
        array = np.random.default_rng(number).integers(0, 256, (channels, 8, 40, 40), dtype=np.uint8)
        np.save(folder / f"{number}.npy", array)
        rows.append(f"{number}.npy,{'ab'[number % 2]},{'train' if number < 8 else 'val'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"


QUICK = {"epochs": 1, "batch_size": 4, "num_frames": 4, "crop": (32, 32), "resize": None, "workers": 0}


def test_a_network_gets_the_channels_of_the_data(tmp_path, capsys):
    gray, flow = arrays(tmp_path / "gray", 1), arrays(tmp_path / "flow", 2)
    rgb = tubelet.create("tiny", num_classes=2)
    tubelet.save(rgb, tmp_path / "rgb.safetensors")
    augment = Augment(hue=0.2, color=0.2)
    run = tubelet.train(
        gray, model="tiny", weights=tmp_path / "rgb.safetensors", lr=1e-9, augment=augment, out=tmp_path / "a", **QUICK
    )
    assert "hue left out: not for 1 channel" in capsys.readouterr().err.replace("\n", " ")
    model = run.load()
    assert model.spec.in_channels == 1
    picture = torch.rand(1, 1, 4, 32, 32)
    maps = model.stem(picture), rgb.eval().stem(picture.expand(-1, 3, -1, -1, -1))
    assert torch.allclose(*maps, atol=1e-2)  # spread as `create` does
    assert tubelet.evaluate(run.out, gray, views=1, crops=1, audit=False, workers=0).summary["samples"] == 4
    with pytest.raises(ValueError, match=r"\.npy: 2 channels, and the clips of the network have 1"):
        tubelet.evaluate(run.out, flow, views=1, crops=1, audit=False, workers=0)
    with pytest.raises(ValueError, match=r"takes clips of 3 channels, .* have 1: make it with in_channels=1"):
        tubelet.train(gray, model=rgb, out=tmp_path / "b", **QUICK)


@pytest.mark.slow
def test_flow_of_videos_from_training_to_fusion(clips, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    options = {**QUICK, "num_frames": 2, "model": "tiny_3d"}
    run = tubelet.train(clips, input="flow", out=tmp_path / "flow", **options)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "flow").rglob("*.mjpeg")}
    assert len(kept) == 12 and run.load().spec.in_channels == 2
    assert json.loads((run.out / "run.json").read_text())["input"] == "flow"
    rgb = tubelet.train(clips, out=tmp_path / "rgb", **options)
    assert rgb.load().spec.in_channels == 3
    table = tubelet.evaluate([run.out, rgb.out], clips, views=2, crops=1, workers=0, out=tmp_path / "both")
    assert {"top1 of flow", "top1 of rgb", "top1"} <= set(table.summary)
    assert tubelet.predict(run.out, clips / "left" / "00.mp4").scores.shape[1] == 2
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())  # nothing is computed twice
    array = motion.draw(["left"], 12, torch.Generator().manual_seed(0))
    assert tubelet.predict(run.out, array).scores.shape[1] == 2
    with pytest.raises(ValueError, match="live, and the network takes optical flow"):
        tubelet.predict(run.out, "rtsp://localhost/none")
    # what takes flow gets it without being told; a network of other channels is an error
    fine = tubelet.train(clips, weights=run.out / "model.safetensors", out=tmp_path / "fine", **options)
    assert fine.load().spec.in_channels == 2
    of_flow = tubelet.create("tiny_3d", num_classes=2, in_channels=2)
    assert tubelet.train(clips, **{**options, "model": of_flow}, out=tmp_path / "c").load().spec.in_channels == 2
    with pytest.raises(ValueError, match=r"takes clips of 2 channels, and the videos of .* have 3"):
        tubelet.train(clips, **{**options, "model": of_flow}, input="rgb", out=tmp_path / "d")
    with pytest.raises(ValueError, match="input 'gray'; there is rgb, flow"):
        tubelet.train(clips, input="gray")


def test_bad_videos_end_the_computing_of_flow_unless_they_are_left_out(clips, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "left" / "00.mp4").write_bytes(b"no video")
    options = {**QUICK, "num_frames": 2, "model": "tiny_3d", "input": "flow"}
    with pytest.raises(ValueError, match=r"00\.mp4: .*--on_bad skip goes on"):
        tubelet.train(tmp_path / "clips", out=tmp_path / "a", **options)
    run = tubelet.train(tmp_path / "clips", out=tmp_path / "b", on_bad="skip", **options)
    assert len(run.bad) == 1


def test_what_is_left_of_a_run_is_not_written_over(whole, clips, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").unlink()
    (tmp_path / "run" / "previous.ckpt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="holds a run; go on with it"):
        tubelet.train(clips, model="tiny_3d", out=tmp_path / "run")


def test_convolutions_of_other_clips_are_forgotten(clips, tmp_path):
    """A run that failed before its first checkpoint and is begun with other clips chooses anew."""
    options = {"model": "tiny_3d", "epochs": 1, "num_frames": 4, "workers": 0, "out": tmp_path / "run"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"crop": [48, 48]}))
    (tmp_path / "run" / "convolutions.json").write_text("damaged")
    tubelet.train(clips, crop=32, **options)
    assert json.loads((tmp_path / "run" / "convolutions.json").read_text()) == []


def test_a_run_goes_on_with_other_devices(whole, clips, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    arguments = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(arguments | {"devices": 2}))
    status, _, err = finished(
        "train", "--config", tmp_path / "run" / "run.json", "--devices", 1, "--out", tmp_path / "run", "--resume",
        cwd=tmp_path,
    )  # fmt: skip
    assert status == 0 and "epochs are done already" in err
