"""The command line as a new user meets it: answers, and one clear line for every mistake."""

import subprocess
import sys

import pytest
import torch
from test_evaluate import flat, rising

import tubelet
from tubelet import cli
from tubelet.data.motion import draw
from tubelet.data.video import write_video


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


def test_predict_uses_the_newest_run_and_writes_what_the_ending_asks_for(here, capsys):
    status, out, err = run(capsys, "predict", "clips/flat/0.mp4")
    assert status == 0 and "0.mp4" in out and "model: runs/one" in err
    assert run(capsys, "predict", "clips/flat/0.mp4", "--model", "runs/one", "--out", "seen.csv")[0] == 0
    assert (here / "seen.csv").read_text().startswith("source,start_s,end_s,flat,rising\n")
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
    assert "1 videos were left out, see above" in err


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
    assert len(list((here / "seen").glob("*.mp4"))) == 6


def test_a_bad_file_of_a_folder_is_left_out_and_told(here, capsys):
    (here / "clips" / "flat" / "1.mp4").write_text("no video\n" * 50)
    status, out, err = run(capsys, "predict", "clips/flat")
    assert status == 2 and "0.mp4" in out and "2.mp4" in out
    assert "1.mp4: not a video" in err and "1 videos were left out" in err


def test_spelling_of_sizes_and_resume():
    assert cli._spelled_out(["train", "64x64", "--out", "20x20"]) == ["train", "64x64", "--out", "20x20"]
    assert cli._spelled_out(["--resume"]) == ["--resume=true"]
    assert cli._spelled_out(["--resume", "false", "--crop", "56x72", "--resize=8x9"]) == [
        "--resume", "false", "--crop", "[56,72]", "--resize=[8,9]"
    ]  # fmt: skip


def bad_checkpoint(here):
    other = tubelet.create("tiny_3d", num_classes=2)
    torch.save(other.state_dict(), here / "other.pth")


def one_class(here):
    (here / "one" / "jump").mkdir(parents=True)
    (here / "one" / "jump" / "a.mp4").write_bytes((here / "clips/flat/0.mp4").read_bytes())


def text_as_video(here):
    (here / "text.mp4").write_text("this is no video\n" * 50)
    for name in ("flat", "rising"):
        for i in range(2):
            (here / "texts" / name).mkdir(parents=True, exist_ok=True)
            (here / "texts" / name / f"{i}.mp4").write_text("neither is this\n" * 50)


TRAIN = ["train", "clips", "--model", "tiny_2d", "--num_frames", "4", "--frame_stride", "1"]


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
        (None, [*TRAIN, "--epochs", "many"], "many"),
        (None, [*TRAIN, "--epoch", "3"], "--epoch"),
        (None, ["predict", "clips/flat/0.mp4", "--out", "seen.avi"], "seen.avi: ends in .avi"),
        (None, ["evaluate", "clips", "--split", "test"], "no part 'test'"),
        (None, ["watch", "clips"], "watch"),
        (None, ["predict", "clips", "--out", "seen.mp4"], "seen.mp4: one file for a folder"),
        (None, ["predict", "clips/flat/0.mp4", "--model", "runs/on"], "did you mean runs/one"),
        (None, ["predict", "clips/flat/0.mp4", "--stride_s", "0"], "stride_s 0.0 must be above 0"),
        (None, ["predict", "clips/flat/0.mp4", "--out", "clips/flat/0.mp4/x.csv"], "clips/flat/0.mp4"),
        (None, ["doctor", "data", "gone"], "gone: no such folder or list"),
        (None, ["doctor", "data", "clips", "--model", "tiny5"], "tiny5: no such file of weights, run or tag"),
        (None, ["doctor", "data", "clips", "--out", "clean.txt"], "clean.txt: the clean list is a .csv file"),
        (None, ["doctor", "data", "clips", "--num_frames", "0"], "num_frames 0 must be at least 1"),
        (None, ["doctor"], "doctor"),
        (None, ["doctor", "disk"], "disk"),
        (None, ["prepare", "clips", "clips/small"], "clips/small: is the folder of the videos"),
        (None, ["prepare", "clips"], "out"),
        (None, ["prepare", "clips", "small", "--crf", "60"], "crf 60"),
        (None, [*TRAIN, "--workers", "-1"], "workers -1 must be at least 0"),
        (None, [*TRAIN, "--lr", "fast"], "--lr fast: not what it takes"),
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
    assert last.startswith("tubelet: ") and says in last
    assert "Traceback" not in err and out == ""


def test_no_traceback_from_the_installed_command(here):
    done = subprocess.run([sys.executable, "-m", "tubelet", "predict", "gone.mp4"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().splitlines()[-1] == "tubelet: gone.mp4: no such file"
