"""Evaluation against figures worked out by hand, what it writes, and the motion audit."""

import csv
import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn

import tubelet
from tubelet import feed, metrics
from tubelet.data.layouts import open_data
from tubelet.data.sample import VideoData
from tubelet.data.video import write_video

CLASSES = ("dark", "light", "rising")


class Brightness(nn.Module):
    """Knows three classes by rule: dark or light on average, or brighter at the end than at the start."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.spec = tubelet.ClipSpec(
            num_frames=4, resize=None, crop=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, classes=CLASSES
        )

    def forward(self, x):
        level, rise = x.mean((1, 2, 3, 4)), (x[:, :, -1] - x[:, :, 0]).mean((1, 2, 3))
        return self.scale * torch.stack([-level, level, 4 * rise - 1], 1)


def flat(level, frames=8):
    return [torch.full((3, 16, 24), level, dtype=torch.uint8)] * frames


def rising(frames=8):
    return [torch.full((3, 16, 24), 30 + 25 * i, dtype=torch.uint8) for i in range(frames)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two dark, two light (one under the wrong name), two rising clips, all in the validation part."""
    root = tmp_path_factory.mktemp("levels")
    clips = {"dark/0": flat(20), "dark/1": flat(40), "light/0": flat(220), "light/1": flat(30), "rising/0": rising(),
             "rising/1": rising()}  # fmt: skip
    for part in ("train", "val"):
        for name, frames in clips.items():
            path = root / part / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames, 25.0)
    return root


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return tubelet.evaluate(Brightness(), data, views=2, crops=3, workers=0, out=out), out


def test_figures(measured):
    table, _ = measured
    assert table.summary["top1"] == pytest.approx(5 / 6)
    assert table.summary["mean_class"] == pytest.approx((1 + 0.5 + 1) / 3)
    rows = {row["class"]: row for row in table.rows}
    assert rows["light"] == {
        "class": "light",
        "samples": 2,
        "recall": 0.5,
        "precision": 1.0,
        "mostly taken for": "dark",
    }
    assert rows["dark"]["precision"] == pytest.approx(2 / 3)
    assert "top5" not in table.summary


def test_audit_tells_what_needs_motion(measured):
    table, _ = measured
    assert table.summary["audit as is"] == pytest.approx(5 / 6)
    assert table.summary["audit reversed"] == pytest.approx(3 / 6)
    assert table.summary["audit single frame"] == pytest.approx(3 / 6)


def test_every_score_of_every_view_is_written(measured, data):
    table, out = measured
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == 6 * 2 * 3
    assert {(row["view"], row["crop"]) for row in rows} == {(str(v), str(c)) for v in range(2) for c in range(3)}
    right = 0
    for sample in {row["sample"] for row in rows}:
        views = [row for row in rows if row["sample"] == sample]
        scores = torch.tensor([[float(row[name]) for name in CLASSES] for row in views])
        assert torch.allclose(scores.sum(1), torch.ones(6), atol=1e-4)
        right += CLASSES[scores.mean(0).argmax()] == views[0]["target"]
    assert right / 6 == pytest.approx(table.summary["top1"])
    report = json.loads((out / "evaluate.json").read_text())
    assert report["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert {"classes.csv", "confusion.png", "audit.png"} <= {file.name for file in out.iterdir()}


def test_targets_follow_the_models_order(data, tmp_path):
    model = Brightness()
    order = ("rising", "dark", "light")
    plain = model.forward
    model.forward = lambda x: plain(x)[:, [2, 0, 1]]
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": order})
    table = tubelet.evaluate(model, data, views=1, crops=1, workers=0, audit=False, out=tmp_path)
    assert table.summary["top1"] == pytest.approx(5 / 6)


def test_mean_class_is_over_the_classes_that_occur():
    assert metrics.mean_class(torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 4]])) == pytest.approx(0.75)


def test_what_does_not_fit(data, tmp_path):
    model = Brightness()
    with pytest.raises(ValueError, match="no part 'test'; it has train, val"):
        tubelet.evaluate(model, data, split="test", out=tmp_path)
    with pytest.raises(ValueError, match="short 'wait'; there is error, loop, hold"):
        tubelet.evaluate(model, data, short="wait", out=tmp_path)
    with pytest.raises(ValueError, match="views 0"):
        tubelet.evaluate(model, data, views=0, out=tmp_path)
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ("dark", "light")})
    with pytest.raises(ValueError, match="does not know rising"):
        tubelet.evaluate(model, data, out=tmp_path)
    frames = tubelet.create("tiny", num_classes=3)
    frames.head = tubelet.heads.PerFrame(frames.channels[-1], 3)
    frames.spec = Brightness().spec
    with pytest.raises(ValueError, match="answers for each frame"):
        tubelet.evaluate(frames, data, views=1, crops=1, workers=0, out=tmp_path)
    with pytest.raises(ValueError, match="no such file of weights"):
        tubelet.evaluate(tmp_path / "gone.pth", data)
    with pytest.raises(ValueError, match="no such file of class names"):
        tubelet.evaluate(model, data, classes=tmp_path / "gone.txt")


def test_a_model_without_names_takes_them_from_a_file(data, tmp_path):
    model = Brightness()
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ()})
    with pytest.raises(ValueError, match="does not say what its classes are"):
        tubelet.evaluate(model, data, out=tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    options = {"classes": tmp_path / "names.txt", "views": 1, "crops": 1, "workers": 0, "audit": False, "out": tmp_path}
    assert tubelet.evaluate(model, data, **options).summary["top1"] == pytest.approx(5 / 6)


def test_a_published_file_tells_where_its_names_are(data, tmp_path):
    path = tmp_path / "X3D_XS.pyth"
    torch.save(tubelet.create("x3d_xs").state_dict(), path)
    with pytest.raises(ValueError, match=r"--classes FILE.* published at https://.*kinetics_classnames\.json"):
        tubelet.evaluate(path, data)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_and_missing_samples_are_counted(data, tmp_path, monkeypatch, workers):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "val" / "light" / "1.mp4").write_bytes(b"")
    options = {"views": 1, "crops": 1, "workers": workers, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match=r"light/1\.mp4: .*\(--on_bad skip goes on"):
        tubelet.evaluate(Brightness(), tmp_path / "data", **options)
    monkeypatch.setattr(feed, "open_data", lambda *args, **options: dataclasses.replace(open_data(*args), missing=7))
    table = tubelet.evaluate(Brightness(), tmp_path / "data", on_bad="skip", **options)
    assert {name: table.summary[name] for name in ("samples", "bad", "missing", "top1", "audit as is")} == {
        "samples": 5, "bad": 1, "missing": 7, "top1": 1, "audit as is": 1,
    }  # fmt: skip
    report = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert list(report["bad"]) == [str(tmp_path / "data" / "val" / "light" / "1.mp4")]
    with pytest.raises(ValueError, match="on_bad substitute is for training"):
        tubelet.evaluate(Brightness(), tmp_path / "data", on_bad="substitute", **options)
    with pytest.raises(ValueError, match="task 'detect'; evaluate measures classify"):
        tubelet.evaluate(Brightness(), tmp_path / "data", task="detect", **options)
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: VideoData(CLASSES, {"val": []}, missing=9))
    with pytest.raises(ValueError, match="no part 'val'; it has no samples at all"):
        tubelet.evaluate(Brightness(), tmp_path / "data", **options)


def test_a_network_that_answers_no_number_is_not_measured(data, tmp_path):
    model = Brightness()
    model.scale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"dark/0\.mp4: the network answers nan"):
        tubelet.evaluate(model, data, views=1, crops=1, workers=0, out=tmp_path)


@pytest.fixture
def ucf(tmp_path):
    """UCF101's lists: what is measured in one fold is trained on in the other."""
    lists = tmp_path / "ucf" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 dark\n2 light\n")
    names = {}
    for number, (name, level) in enumerate((("dark", 20), ("light", 220)), start=1):
        for group in (1, 2, 3):
            names[name, group] = f"{name}/v_{name}_g0{group}_c01.avi {number}"
            (tmp_path / "ucf" / name).mkdir(exist_ok=True)
            write_video(tmp_path / "ucf" / name / f"v_{name}_g0{group}_c01.mp4", flat(level), 25.0)
    for fold, tested in (("1", (1,)), ("2", (2, 3))):
        for part, is_in in (("train", lambda g, t=tested: g not in t), ("test", lambda g, t=tested: g in t)):
            rows = [text for (_, group), text in names.items() if is_in(group)]
            (lists / f"{part}list0{fold}.txt").write_text("\n".join(rows))
    return tmp_path / "ucf"


def test_a_run_is_measured_on_its_own_fold(ucf, tmp_path, capsys):
    options = {"views": 1, "crops": 1, "workers": 0, "audit": False}
    small = {"num_frames": 4, "frame_stride": 1, "crop": 16, "resize": "none"}
    run = tubelet.train(ucf, fold=2, model="tiny_2d", epochs=1, workers=0, out=tmp_path / "run", **small)
    assert json.loads((run.out / "run.json").read_text())["fold"] == 2

    def measured(model, data=ucf, **more):
        table = tubelet.evaluate(model, data, out=tmp_path / "out", **options, **more)
        report = json.loads((tmp_path / "out" / "evaluate.json").read_text())
        assert report["task"] == "classify"
        return report["fold"], table.summary["samples"]

    assert measured(run.out) == (2, 4) == measured(run.out / "model.safetensors")
    assert measured(run.out, fold=1) == (1, 2)
    assert measured(run.load()) == (None, 2)  # a network in memory is of no run: the first fold
    copy = shutil.copytree(ucf, tmp_path / "copy")
    assert measured(run.out, copy) == (None, 2)
    assert "trained on fold 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no fold 3; there is 1, 2"):
        measured(run.out, fold=3)


def test_videos_too_short_for_a_clip_are_not_to_be_skipped(data, tmp_path):
    model = Brightness()
    model.spec = dataclasses.replace(model.spec, num_frames=9)
    with pytest.raises(ValueError, match=r"no video of val gives a clip \(6 of 6 looked at\).*num_frames") as caught:
        tubelet.evaluate(model, data, workers=0, out=tmp_path)
    assert "on_bad" not in str(caught.value)


def test_a_video_cut_short_is_told_in_one_line(data, tmp_path, capfd):
    shutil.copytree(data, tmp_path / "data")
    cut = tmp_path / "data" / "val" / "rising" / "0.mp4"
    noise = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    write_video(cut, noise, 25.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    tubelet.evaluate(Brightness(), tmp_path / "data", views=1, crops=1, workers=1, out=tmp_path / "out")
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "cut short" in line)
    assert line.startswith(f"{cut}: ")
