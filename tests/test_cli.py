"""The command line as a new user meets it: answers, and one clear line for every mistake."""

import dataclasses
import errno
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_evaluate import flat, rising

import tubelet
from tubelet import cli
from tubelet.data.augment import RECIPES, Augment
from tubelet.data.motion import draw
from tubelet.data.video import Video, write_video

TRAIN = ["train", "clips", "--model", "tiny_2d", "--num_frames", "4", "--frame_stride", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with two classes of clips in `clips/` and a trained-looking model in `runs/one`."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        for name, frames in (("flat", flat(20 + 60 * i)), ("rising", rising())):
            (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
            write_video(tmp_path / "clips" / name / f"{i}.mp4", frames, 25.0)
    model = tubelet.create("tiny_2d", num_classes=2)
    values = {"num_frames": 4, "frame_stride": 1, "crop": (16, 16), "resize": None, "classes": ("flat", "rising")}
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), **values})
    tubelet.save(model, tmp_path / "runs" / "one" / "model.safetensors")
    return tmp_path


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(("filename", "told"), [(None, "a file"), ("out.csv", "out.csv")])
def test_a_full_disk_is_told_with_its_fix(monkeypatch, capsys, filename, told):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", filename)

    monkeypatch.setitem(cli._COMMANDS, "models", full)
    assert run(capsys, "models")[2] == f"tubelet: {told}: the disk is full; make room, or give a path on another one\n"


def test_predict_uses_the_newest_run_and_writes_what_the_ending_asks_for(here, capsys):
    status, out, err = run(capsys, "predict", "clips/flat/0.mp4")
    assert status == 0 and "0.mp4" in out and "model: runs/one" in err
    assert run(capsys, "predict", "clips/flat/0.mp4", "--model", "runs/one", "--out", "seen.csv")[0] == 0
    assert (here / "seen.csv").read_text().startswith("source,start_s,end_s,flat,rising\n")
    assert run(capsys, "predict", "clips/flat/0.mp4", "--model", "runs/one", "--out", "SEEN.CSV")[0] == 0
    assert (here / "SEEN.CSV").read_text() == (here / "seen.csv").read_text()
    assert run(capsys, "predict", "clips/flat", "--out", "seen")[0] == 0
    assert {file.name for file in (here / "seen").iterdir()} == {
        "windows.json",
        "windows.csv",
        "0_seen.mp4",
        "1_seen.mp4",
        "2_seen.mp4",
    }


def test_evaluate_and_names(here, capsys):
    status, out, _ = run(capsys, "evaluate", "clips", "--views", 2, "--crops", 1, "--workers", 0)
    assert status == 0 and "top1" in out and "audit reversed" in out
    assert (here / "runs" / "one" / "evaluate" / "scores.csv").exists()
    (here / "names.txt").write_text("still\nup\n")
    status, out, _ = run(capsys, "predict", "clips/flat/0.mp4", "--classes", "names.txt")
    assert status == 0 and "still" in out


def test_doctor_tells_by_its_status_whether_there_is_a_problem(here, capsys, monkeypatch):
    monkeypatch.setenv("TUBELET_CACHE", str(here / "cache"))
    (here / "few").mkdir()
    write_video(here / "few" / "a.mp4", draw(["left"], 20, torch.Generator().manual_seed(0)).unbind(1), 25.0)
    status, out, err = run(capsys, "doctor", "data", "few", "--workers", 1)
    assert status == 0 and out.startswith("no problems") and err == ""
    status, out, _ = run(capsys, "doctor", "data", "clips", "--workers", 1, "--full", "--out", "clean.csv")
    assert status == 1 and "- blank: 6 videos" in out and "fix: " in out
    assert (here / "clean.json").exists()


def test_prepare(here, capsys):
    status, out, _ = run(capsys, "prepare", "clips", "small", "--short_side", 16, "--workers", 1)
    assert status == 0 and out.startswith("6 videos prepared; sound is not kept\n")
    assert len(list((here / "small").rglob("*.mp4"))) == 6
    (here / "clips" / "flat" / "1.mp4").write_text("no video\n" * 50)
    status, out, err = run(capsys, "prepare", "clips", "small", "--short_side", 16)
    assert status == 2 and out.startswith("5 videos prepared, 5 of them by an earlier run")
    assert "tubelet: 1 video left out, see above" in err


def test_models(capsys):
    status, out, _ = run(capsys, "models")
    assert status == 0 and all(name in out for name in tubelet.models())
    status, out, _ = run(capsys, "models", "x3d*")
    assert status == 0 and "x3d_m" in out and "16x5, 256x256" in out and "X3D, 2020" in out and "tiny" not in out
    status, out, err = run(capsys, "models", "x3d_xm*")
    assert status == 2 and out == "" and "no network is called 'x3d_xm*'; did you mean x3d_" in err


def test_nothing_of_the_users_is_overwritten(here, capsys):
    source = here / "clips" / "flat" / "0.mp4"
    before = source.read_bytes()
    status, _, err = run(capsys, "predict", "clips/flat/0.mp4", "--out", "clips/flat/0.mp4")
    assert status == 2 and "is the video itself" in err
    assert run(capsys, "predict", "clips/flat/0.mp4", "--out", "clips/flat")[0] == 0
    assert source.read_bytes() == before
    for made in (here / "clips" / "flat").glob("*_seen.mp4"):
        made.unlink()
    status, out, _ = run(capsys, "predict", "clips", "--out", "seen")
    assert status == 0 and "clips/rising/0.mp4" in out
    drawn = {str(path.relative_to(here / "seen")) for path in (here / "seen").rglob("*.mp4")}
    assert drawn == {f"{name}/{i}_seen.mp4" for name in ("flat", "rising") for i in range(3)}


def test_a_bad_file_of_a_folder_is_left_out_and_told(here, capsys):
    (here / "clips" / "flat" / "1.mp4").write_text("no video\n" * 50)
    status, out, err = run(capsys, "predict", "clips/flat")
    assert status == 2 and "0.mp4" in out and "2.mp4" in out
    assert "1.mp4: not a video" in err and "1 video left out" in err


def test_a_run_goes_on_from_the_folder_in_which_it_was_begun(here, capsys, monkeypatch):
    (here / "runs" / "one" / "run.json").write_text(json.dumps({"data": "clips", "out": "runs/one"}))
    monkeypatch.chdir(here / "runs")
    status, _, err = run(capsys, "train", "--config", "one/run.json", "--resume")
    assert (status, err) == (
        2, f"tubelet: clips: not there, seen from here; paths of one/run.json begin in {here}: go on from there\n"
    )  # fmt: skip


def test_spelling_of_sizes_and_resume():
    assert cli._spelled_out(["train", "64x64", "--out", "20x20"]) == ["train", "64x64", "--out", "20x20"]
    assert cli._spelled_out(["--resume"]) == ["--resume=true"]
    assert cli._spelled_out(["--resume", "false", "--crop", "56x72", "--resize=8x9"]) == [
        "--resume", "false", "--crop", "[56,72]", "--resize=[8,9]"
    ]  # fmt: skip


def test_a_recipe_of_augmentations_by_its_name(here, capsys):
    options = [*TRAIN, "--crop", "16", "--resize", "none", "--epochs", "1", "--workers", "0"]
    status, _, err = run(capsys, *options, "--augment", "kinetics", "--augment.color", "0.2", "--out", "runs/a")
    assert status == 0, err
    expected = dataclasses.replace(RECIPES["kinetics"], color=0.2)
    assert Augment(**json.loads((here / "runs/a/run.json").read_text())["augment"]) == expected
    status, _, err = run(capsys, "train", "--config", "runs/a/run.json", "--augment=strong", "--out", "runs/b")
    assert status == 0, err
    assert Augment(**json.loads((here / "runs/b/run.json").read_text())["augment"]) == RECIPES["strong"]
    with pytest.raises(SystemExit):
        run(capsys, "train", "--help")
    assert "--augment RECIPE" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export"])
def test_the_help_is_for_people(capsys, command):
    with pytest.raises(SystemExit):
        run(capsys, command, "--help")
    assert "<" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("clips/flat/../flat/0.mp4", "0.mp4: is the video itself; give another path as --out"),
        ("link.mp4", "link.mp4: is the video itself"),
        ("folder.json", "folder.json: a folder, and a file is wanted"),
        ("clips/flat/1.mp4/x.json", "1.mp4: a file is in the way"),
        ("locked/x.json", "locked: no permission; give another path, or change its rights"),
        ("locked/new/x.json", "locked/new: no permission"),
        ("locked", "locked: no permission"),
        ("locked.json", "locked.json: no permission"),
    ],
)
def test_where_nothing_can_be_written_no_video_is_read(here, capsys, monkeypatch, out, says):
    (here / "link.mp4").symlink_to(here / "clips" / "flat" / "0.mp4")
    (here / "folder.json").mkdir()
    (here / "locked").mkdir()
    (here / "locked.json").write_text("")
    access, mkdir = os.access, Path.mkdir

    def locked_mkdir(path, *arguments, **options):
        if path == Path("locked/new"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *arguments, **options)

    # tests may run as root, who may do anything
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).stem != "locked" and access(path, mode))
    monkeypatch.setattr(Path, "mkdir", locked_mkdir)
    monkeypatch.setattr(cli, "predict", functools.wraps(cli.predict)(lambda *_, **__: pytest.fail("it was read")))
    status, stdout, err = run(capsys, "predict", "clips/flat/0.mp4", "--out", out)
    assert (status, stdout) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("tubelet: ") and says in line


def test_what_is_live_cannot_be_drawn(here, capsys, monkeypatch):
    monkeypatch.setattr(cli, "predict", functools.wraps(cli.predict)(lambda *_, **__: pytest.fail("it was read")))
    status, _, err = run(capsys, "predict", "rtsp://localhost/live", "--out", "seen.mp4")
    assert status == 2 and "seen.mp4: what was seen live is not kept; give a .json or a .csv" in err
    seen = tubelet.predict("runs/one", torch.zeros(3, 8, 16, 16, dtype=torch.uint8))
    (here / "seen").mkdir()
    assert [path.name for path in cli.write(seen, here / "seen")] == ["windows.json", "windows.csv"]


def test_a_folder_of_frames_is_one_video(here, capsys):
    with Video(here / "clips" / "rising" / "0.mp4") as video:
        frames = video.frames(range(video.num_frames))
    (here / "frames").mkdir()
    for number, frame in enumerate(frames.unbind(1)):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(here / "frames" / f"img_{number:05}.png")
    assert run(capsys, "predict", "frames", "--out", "seen.mp4")[0] == 0
    assert (here / "seen.mp4").exists()


def test_a_video_cut_short_is_told_in_one_line(here, capsys):
    cut = here / "cut.mp4"
    write_video(cut, torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8), 25.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    status, _, err = run(capsys, "predict", "cut.mp4", "--model", "runs/one")
    (line,) = err.splitlines()
    assert status == 0 and line.startswith("cut.mp4: the file is damaged or cut short: only ")


def test_ctrl_c_before_anything_is_trained_says_so(capsys, monkeypatch):
    def stopped(data, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "train", functools.wraps(cli.train)(stopped))
    status, _, err = run(capsys, "train", "clips")
    assert status == 130
    assert err.startswith("tubelet: interrupted before the training began: nothing new is saved; the same command ")


def test_an_error_of_the_system_without_a_path_keeps_its_words(capsys, monkeypatch):
    def failing(pattern):
        raise OSError("no room in the shared memory")

    monkeypatch.setattr(cli, "models", failing)
    assert run(capsys, "models")[::2] == (2, "tubelet: no room in the shared memory\n")


def bad_checkpoint(here):
    other = tubelet.create("tiny_3d", num_classes=2)
    torch.save(other.state_dict(), here / "other.pth")


def one_class(here):
    (here / "one" / "jump").mkdir(parents=True)
    (here / "one" / "jump" / "a.mp4").write_bytes((here / "clips/flat/0.mp4").read_bytes())


def one_file(here):
    (here / "file").write_text("")


def another_json(here):
    (here / "other.json").write_text('{"data": "clips", "epochs": 3}')
    (here / "empty.json").write_text("{}")
    (here / "text.json").write_text("no json")


def config(here):
    (here / "own.json").write_text('{"data": "clips", "epochz": 3}')


def text_as_video(here):
    (here / "text.mp4").write_text("this is no video\n" * 50)
    for name in ("flat", "rising"):
        for i in range(2):
            (here / "texts" / name).mkdir(parents=True, exist_ok=True)
            (here / "texts" / name / f"{i}.mp4").write_text("neither is this\n" * 50)


@pytest.mark.parametrize(
    ("prepare", "arguments", "says"),
    [
        (None, ["predict", "gone.mp4"], "gone.mp4: no such file"),
        (None, ["predict", "clips/flat/0.mp4", "--model", "gone"], "gone: no such file of weights, run or tag"),
        (None, ["train", "gone"], "gone: no such folder or list"),
        (lambda here: (here / "empty").mkdir(), ["train", "empty"], "empty: no videos"),
        (lambda here: (here / "empty").mkdir(), ["predict", "empty"], "empty: no videos"),
        (one_class, ["train", "one"], "one class only (jump)"),
        (text_as_video, ["predict", "text.mp4"], "text.mp4: not a video"),
        (text_as_video, ["train", "texts", "--model", "tiny_2d", "--workers", "1"], ".mp4: not a video"),
        (None, ["train", "clips", "--model", "tiny_2d"], "8 frames, and a clip reaches over 31"),
        (None, ["train", "clips", "--model", "tiny2"], "did you mean tiny"),
        (bad_checkpoint, [*TRAIN, "--weights", "other.pth"], "other.pth: the checkpoint"),
        (None, [*TRAIN, "--weights", "r3d_18.kinetics40"], "did you mean r3d_18.kinetics400"),
        (None, [*TRAIN, "--epochs", "0"], "epochs 0 must be at least 1"),
        (None, [*TRAIN, "--crop", "900"], "crop 900x900 does not fit"),
        (None, [*TRAIN, "--out", "runs/none", "--resume"], "no run to resume"),
        (None, [*TRAIN, "--epochs", "many"], "--epochs many: `tubelet train` takes a whole number"),
        (None, [*TRAIN, "--epoch", "3"], "--epoch: `tubelet train` has no such option; did you mean --epochs?"),
        (None, [*TRAIN, "--batch-size=3"], "--batch-size: `tubelet train` has no such option; did you mean --batch_s"),
        (None, [*TRAIN, "--zzz"], "--zzz: `tubelet train` has no such option; `tubelet train --help` lists them"),
        (None, [*TRAIN, "--optimizer", "adam"], "--optimizer adam: `tubelet train` takes adamw or sgd"),
        (None, [*TRAIN, "--crop", "big"], "--crop big: `tubelet train` takes a whole number or HEIGHTxWIDTH or none"),
        (None, [*TRAIN, "--augment.area", "1"], "--augment.area 1: `tubelet train` takes [NUMBER,NUMBER]"),
        (None, [*TRAIN, "--augment.flip", "yes_"], "--augment.flip yes_: `tubelet train` takes true or false"),
        (None, [*TRAIN, "--augment", "kinetic"], "--augment kinetic: no such recipe; there is plain, kinetics, strong"),
        (None, [*TRAIN, "--out"], "--out: it wants a value; see `tubelet train --help`"),
        (None, [*TRAIN, "--config", "gone.json"], "--config: File does not exist"),
        (config, ["train", "--config", "own.json"], "epochz: no argument of `tubelet train`; did you mean epochs?"),
        (None, [*TRAIN, "more"], "more: one argument too many; `tubelet train` takes DATA"),
        (None, ["--verson"], "--verson: `tubelet` has no such option; did you mean --version?"),
        (
            None,
            ["doctor", "data", "clips", "--wokers", "1"],
            "`tubelet doctor data` has no such option; did you",
        ),
        (None, [*TRAIN, "--fold", "2"], "fold 2, but no folds"),
        (None, ["evaluate", "clips", "--fold", "2"], "fold 2, but no folds"),
        (None, ["evaluate", "clips", "--task", "dance"], "--task dance: `tubelet evaluate` takes classify or"),
        (None, [*TRAIN, "--out", "clips/run"], "clips/run: is, or lies in, the folder of the videos (clips)"),
        (one_file, [*TRAIN, "--out", "file"], "file: a file is in the way; move it, or give another path"),
        (one_file, [*TRAIN, "--out", "file/run"], "file/run: a part of this path is a file, not a folder"),
        (one_file, ["evaluate", "clips", "--out", "file"], "file: a file is in the way"),
        (another_json, [*TRAIN, "--convolutions", "other.json"], "other.json: not the convolutions.json of a run (no"),
        (another_json, [*TRAIN, "--convolutions", "empty.json"], "empty.json: not the convolutions.json of a run (no"),
        (another_json, [*TRAIN, "--convolutions", "text.json"], "text.json: not the convolutions.json of a run ("),
        (None, [*TRAIN, "--convolutions", "runs/one"], "runs/one: a folder, and the file convolutions.json in that of"),
        (None, [*TRAIN, "--frozen_stages", "99"], "99 stages to freeze (num_stages; of train frozen_stages), and the"),
        (None, ["evaluate", "clips", "--model", "tinyy"], "`tubelet models` lists the "),
        (
            None,
            ["evaluate", "clips", "--model", "r3d_18"],
            "r3d_18 is a network, without weights; published for it: r",
        ),
        (None, ["evaluate", "clips", "--model", "tiny"], "tiny is a network, without weights"),
        (None, ["predict", "clips/flat/0.mp4", "--out", "seen.avi"], "seen.avi: ends in .avi"),
        (None, ["evaluate", "clips", "--split", "test"], "no part 'test'"),
        (None, ["watch", "clips"], "watch: `tubelet` has no such command; there is train, evaluate, predict"),
        (None, ["trian", "clips"], "trian: `tubelet` has no such command; did you mean train?"),
        (None, ["predict", "clips", "--out", "seen.mp4"], "seen.mp4: one file for a folder"),
        (None, ["predict", "clips/flat/0.mp4", "--model", "runs/on"], "did you mean runs/one"),
        (None, ["predict", "clips/flat/0.mp4", "--stride_s", "0"], "stride_s 0.0 must be above 0"),
        (None, ["predict", "clips/flat/0.mp4", "--out", "clips/flat/0.mp4/x.csv"], "clips/flat/0.mp4"),
        (None, ["doctor", "data", "gone"], "gone: no such folder or list"),
        (None, ["doctor", "data", "clips", "--model", "tiny5"], "tiny5: no such file of weights, run or tag"),
        (None, ["doctor", "data", "clips", "--out", "clean.txt"], "clean.txt: the clean list is a .csv file"),
        (None, ["doctor", "data", "clips", "--num_frames", "0"], "num_frames 0 must be at least 1"),
        (None, ["doctor"], "doctor"),
        (None, ["doctor", "disk"], "disk: `tubelet doctor` has no such command; there is data"),
        (None, ["prepare", "clips", "clips/small"], "clips/small: is the folder of the videos"),
        (None, ["prepare", "clips"], "`tubelet prepare` also wants OUT; see `tubelet prepare --help`"),
        (None, ["prepare", "clips", "small", "--crf", "60"], "crf 60"),
        (None, [*TRAIN, "--workers", "-1"], "workers -1 must be at least 0"),
        (None, [*TRAIN, "--lr", "fast"], "--lr fast: `tubelet train` takes a number"),
        (None, [*TRAIN, "--label_smoothing", "2"], "label_smoothing 2"),
        (None, [*TRAIN, "--augment.max_shift", "-3"], "max_shift -3"),
    ],
)
def test_a_mistake_gets_one_line_and_a_status(here, capsys, prepare, arguments, says):
    if prepare:
        prepare(here)
    status, out, err = run(capsys, *arguments)
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("tubelet: ") and says in last and len(last) < 600
    assert "Traceback" not in err and out == ""


def test_no_traceback_from_the_installed_command(here):
    done = subprocess.run([sys.executable, "-m", "tubelet", "predict", "gone.mp4"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().splitlines()[-1] == "tubelet: gone.mp4: no such file"
