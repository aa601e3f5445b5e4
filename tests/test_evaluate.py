"""Evaluation against figures worked out by hand, what it writes, and the motion audit."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import tubelet
from tubelet import feed, metrics
from tubelet.compare import fuse, is_right, read_scores
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
        "f1": pytest.approx(2 / 3),
        "mostly taken for": "dark",
    }
    assert rows["dark"]["precision"] == pytest.approx(2 / 3)
    assert "top5" not in table.summary


def test_auc_counts_pairs_in_the_right_order(measured):
    """Of each class against the rest, an equal pair as half of one; then the mean over classes."""
    table, out = measured
    found = read_scores(out)
    values = []
    for k in range(3):
        own, others = found.scores[found.targets == k, k], found.scores[found.targets != k, k]
        pairs = own[:, None] - others
        values.append(((pairs > 0).double() + (pairs == 0).double() / 2).mean().item())
    assert table.summary["auc"] == pytest.approx(sum(values) / 3, abs=1e-4)
    assert min(values) < 1
    assert 0.5 <= table.summary["auc_low"] < table.summary["auc"] <= table.summary["auc_high"] <= 1


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
    assert {"classes.csv", "confusion.png", "audit.png", "report.html"} <= {file.name for file in out.iterdir()}


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
    missing = {"missing": 9, "missing_of": {"train": 2, "val": 7}}
    monkeypatch.setattr(feed, "open_data", lambda *args, **options: dataclasses.replace(open_data(*args), **missing))
    table = tubelet.evaluate(Brightness(), tmp_path / "data", on_bad="skip", **options)
    assert {name: table.summary[name] for name in ("samples", "bad", "missing", "top1", "audit as is")} == {
        "samples": 5, "bad": 1, "missing": 7, "top1": 1, "audit as is": 1,
    }  # fmt: skip
    report = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert list(report["bad"]) == [str(tmp_path / "data" / "val" / "light" / "1.mp4")]
    with pytest.raises(ValueError, match="on_bad substitute is for training"):
        tubelet.evaluate(Brightness(), tmp_path / "data", on_bad="substitute", **options)
    with pytest.raises(ValueError, match="task 'dance'; evaluate measures classify"):
        tubelet.evaluate(Brightness(), tmp_path / "data", task="dance", **options)
    for path in (tmp_path / "data" / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no video of val gives a clip .*, first .*\.mp4"):
        tubelet.evaluate(Brightness(), tmp_path / "data", on_bad="skip", **options)
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


def test_short_videos_do_what_they_did_in_training(halves, tmp_path):
    small = {"num_frames": 12, "frame_stride": 1, "crop": 16, "resize": "none", "short": "hold"}
    run = tubelet.train(halves, model="tiny_2d", epochs=1, workers=0, out=tmp_path / "run", **small)
    options = {"views": 1, "crops": 1, "workers": 0, "audit": False, "out": tmp_path / "out"}
    assert tubelet.evaluate(run.out, halves, **options).summary["samples"] == 2
    with pytest.raises(ValueError, match="8 frames, and a clip reaches over 12"):
        tubelet.evaluate(run.out, halves, short="error", **options)


def test_a_run_is_measured_on_its_own_fold(ucf, tmp_path, capsys, monkeypatch):
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
    assert measured(run.load()) == (2, 4)  # it knows the file that it was loaded from
    of_nothing = run.load()
    del of_nothing.loaded_from
    assert measured(of_nothing) == (None, 2)  # the first fold
    monkeypatch.chdir(tmp_path)  # the path of the data is told from above the run, too
    assert Path(json.loads((run.out / "run.json").read_text())["data"]) == ucf
    text = (run.out / "run.json").read_text().replace(str(ucf), "ucf")
    (run.out / "run.json").write_text(text)
    assert measured("run", "ucf") == (2, 4)
    monkeypatch.chdir(run.out)
    assert measured(".", "../ucf") == (2, 4)
    far = shutil.move(shutil.copytree(run.out, tmp_path / "one" / "run"), tmp_path / "one" / "x")
    shutil.copytree(ucf, tmp_path / "one" / "ucf")
    assert measured(far, tmp_path / "one" / "ucf") == (2, 4)
    assert measured(far, ucf) == (None, 2)  # of this name, further above the run
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


def test_the_report_is_whole(measured, data):
    """One answer of six is wrong, light for dark; a share of 5 / 6 over six samples lies within 1/2 and 1."""
    table, out = measured
    report = json.loads((out / "evaluate.json").read_text())
    assert (table.summary["top1_low"], table.summary["top1_high"]) == pytest.approx((0.5, 1))
    assert report["summary"] == table.summary
    assert (report["task"], report["split"], report["combine"], report["protocol"]) == (
        "classify",
        "val",
        "scores",
        None,
    )
    assert (report["models"], report["arguments"]["views"], report["clip"]["crop"]) == (["Brightness"], 2, [16, 16])
    assert [row["class"] for row in report["per_class"]] == list(CLASSES) == report["classes"]
    (mistake,) = report["mistakes"]
    assert (mistake["target"], mistake["answer"]) == ("light", "dark")
    assert mistake["path"] == mistake["sample"] == str(data / "val" / "light" / "1.mp4")
    assert mistake["score"] > 0.9 > 0.1 > mistake["score_of_target"]
    bins = report["calibration"]
    assert sum(row["samples"] for row in bins) == 6
    error = sum(row["samples"] * abs(row["score"] - row["accuracy"]) for row in bins) / 6
    assert error == pytest.approx(table.summary["calibration_error"], abs=1e-6)
    assert set(report["environment"]) == {"tubelet", "torch", "python", "system", "device"}


def test_volumes_of_a_file_with_a_test_part_alone(tmp_path, monkeypatch):
    """Trained on one npz, measured on another: samples are called by their place there."""
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    rng = numpy.random.default_rng(0)
    for name, parts in (("a", ("train", "val")), ("b", ("test",))):
        held = {}
        for part in parts:
            held[f"{part}_labels"] = numpy.array([[0], [1]] * 3)
            held[f"{part}_images"] = rng.integers(0, 256, (6, 8, 16, 16), dtype=numpy.uint8)
        numpy.savez(tmp_path / f"{name}.npz", **held)
    run = tubelet.train(
        tmp_path / "a.npz", model="tiny_3d", num_frames=6, frame_stride=1, resize="none", crop=16, epochs=1,
        batch_size=3, workers=0, out=tmp_path / "run",
    )  # fmt: skip
    table = tubelet.evaluate(run.out, tmp_path / "b.npz", split="test", views=1, crops=1, workers=0)
    assert table.summary["samples"] == 6 and 0 <= table.summary["auc"] <= 1
    found = read_scores(run.out / "evaluate")
    assert found.samples[4] == f"{tmp_path / 'b.npz'}[test 4]" and found.targets.tolist() == [0, 1] * 3


def test_a_class_without_samples_has_no_recall(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val" / "rising")
    table = tubelet.evaluate(Brightness(), tmp_path / "data", **ONCE, out=tmp_path / "out")
    assert math.isnan(table.rows[2]["recall"])
    assert json.loads((tmp_path / "out" / "evaluate.json").read_text())["per_class"][2]["recall"] is None


class Views(nn.Module):
    """Of a dark clip the logits are (3, 0), of a light one (0, 9)."""

    def __init__(self, **spec):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        values = {"num_frames": 2, "resize": None, "crop": (16, 16), "classes": ("dark", "light")}
        self.spec = tubelet.ClipSpec(**{**values, **spec})

    def forward(self, x):
        is_light = (x.mean((1, 2, 3, 4)) > 0).float()
        return self.scale * torch.stack([3 * (1 - is_light), 9 * is_light], 1)


ONCE = {"views": 1, "crops": 1, "workers": 0, "audit": False}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A video that is dark in its first half and light in its second, and a dark one."""
    root = tmp_path_factory.mktemp("halves")
    for name, frames in (("dark", flat(20)), ("light", [*flat(20, 4), *flat(220, 4)])):
        for part in ("train", "val"):
            path = root / part / name / "0.mp4"
            path.parent.mkdir(parents=True)
            write_video(path, frames, 25.0)
    return root


def softmax(a, b):
    return math.exp(a) / (math.exp(a) + math.exp(b)), math.exp(b) / (math.exp(a) + math.exp(b))


@pytest.mark.parametrize("average", ["scores", "logits"])
def test_what_is_averaged(halves, tmp_path, average):
    options = {**ONCE, "views": 2, "average": average, "out": tmp_path}
    table = tubelet.evaluate(Views(), halves, **options)
    means = (softmax(3, 0)[0] + softmax(0, 9)[0]) / 2, (softmax(3, 0)[1] + softmax(0, 9)[1]) / 2
    expected = means if average == "scores" else softmax(1.5, 4.5)
    found = read_scores(tmp_path)
    assert found.scores[1].tolist() == pytest.approx(expected, abs=1e-5)
    assert table.summary["top1"] == 1 == is_right(found.scores, found.targets).mean()
    assert json.loads((tmp_path / "evaluate.json").read_text())["combine"] == average
    assert f"mean of the {average}" in table.title


def test_a_protocol_sets_views_crops_and_sizes(halves, tmp_path):
    seen = set()
    model = Views()
    model.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[1:])))
    options = {"workers": 0, "audit": False, "out": tmp_path}
    table = tubelet.evaluate(model, halves, protocol="ucf101-10x1", **options)
    assert (table.summary["views"], table.summary["crops"], seen) == (10, 1, {(3, 2, 112, 112)})
    with pytest.raises(ValueError, match="views 3, but protocol ucf101-10x1 has 10"):
        tubelet.evaluate(model, halves, protocol="ucf101-10x1", views=3, **options)
    with pytest.raises(ValueError, match="average logits, but protocol ucf101-10x1 has scores"):
        tubelet.evaluate(model, halves, protocol="ucf101-10x1", average="logits", **options)
    with pytest.raises(ValueError, match="protocol 'ucf101'; there is ucf101-10x1"):
        tubelet.evaluate(model, halves, protocol="ucf101", **options)
    with pytest.raises(ValueError, match=r"charades-10x3 takes the highest scores .* multilabel"):
        tubelet.evaluate(model, halves, protocol="charades-10x3", **options)
    with pytest.raises(ValueError, match="average 'median'; there is scores, logits"):
        tubelet.evaluate(model, halves, average="median", **options)


class Sure(nn.Module):
    """Says dark or light with a logit of 4 (98 %), by the first frame."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.spec = Views().spec

    def forward(self, x):
        is_light = (x.mean((1, 2, 3, 4)) > 0).float()
        return self.scale * torch.stack([1 - is_light, is_light], 1)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """In val and in test three of four clips are under the right name: the honest score is 75 %, a logit of log 3."""
    root = tmp_path_factory.mktemp("noisy")
    for part in ("train", "val", "test"):
        for name, levels in (("dark", (20, 20, 20, 220)), ("light", (220, 220, 220, 20))):
            (root / part / name).mkdir(parents=True)
            for number, level in enumerate(levels):
                write_video(root / part / name / f"{number}.mp4", flat(level, 2), 25.0)
    return root


@pytest.mark.parametrize("split", ["test", "val"])
def test_temperature_makes_scores_honest(noisy, tmp_path, split):
    table = tubelet.evaluate(Sure(), noisy, split=split, temperature=True, out=tmp_path, **ONCE)
    found = table.summary
    assert found["temperature"] == pytest.approx(4 / math.log(3), rel=1e-4)
    assert found["calibration_error"] == pytest.approx(softmax(4, 0)[0] - 0.75, abs=1e-5)
    report = json.loads((tmp_path / "evaluate.json").read_text())
    assert report["temperature"]["fitted_on"] == "val"
    if split == "test":
        assert found["calibration_error_tempered"] == pytest.approx(0, abs=1e-5)
    else:  # even and odd samples: two of four right, and four of four, which fits the hottest and the coldest end
        assert found["calibration_error_tempered"] == pytest.approx(0.5, abs=0.02)
    assert len(read_scores(tmp_path).samples) == 8


def test_temperature_is_for_one_class_a_video(noisy):
    with pytest.raises(ValueError, match="temperature is for one class a video, not for task multilabel"):
        tubelet.evaluate(Sure(), noisy, task="multilabel", temperature=True)


def test_several_models_are_fused(data, tmp_path):
    """One knows nothing of what rises, the other nothing else; together they know all that one of them knows."""
    flow = Brightness()
    level = flow.forward
    flow.forward = lambda x: level(x) * torch.tensor([0.0, 0.0, 1.0])
    rgb = Brightness()
    rgb.forward = lambda x: level(x) * torch.tensor([1.0, 1.0, 0.0])
    table = tubelet.evaluate([rgb, flow], data, out=tmp_path, views=2, crops=1, workers=0, audit=False)
    parts = [read_scores(tmp_path / name) for name in ("1-Brightness", "2-Brightness")]
    expected = fuse(parts)
    found = read_scores(tmp_path)
    assert found.samples == expected.samples
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert table.summary["top1"] == pytest.approx(is_right(expected.scores, expected.targets).mean().item())
    for number, part in enumerate(parts, start=1):
        name = f"{number}-Brightness"
        alone = is_right(part.scores, part.targets).mean().item()
        assert table.summary[f"top1 of {name}"] == pytest.approx(alone)
        assert json.loads((tmp_path / name / "evaluate.json").read_text())["summary"]["top1"] == pytest.approx(alone)
    report = json.loads((tmp_path / "evaluate.json").read_text())
    assert report["models"] == ["Brightness", "Brightness"] and report["clip"] is None
    assert report["alone"] == [str(tmp_path / "1-Brightness"), str(tmp_path / "2-Brightness")]
    assert "2 models fused" in table.title
    assert "top1 of 1-Brightness" in (tmp_path / "report.html").read_text()
    other = Brightness()
    other.spec = dataclasses.replace(other.spec, classes=(*CLASSES[:2], "rising", "falling"))
    with pytest.raises(ValueError, match="the models know different classes"):
        tubelet.evaluate([rgb, other], data, out=tmp_path)
    with pytest.raises(ValueError, match="no model"):
        tubelet.evaluate([], data)


def test_models_of_several_folds_are_not_fused(ucf, tmp_path):
    for fold in (1, 2):
        folder = tmp_path / f"run{fold}"
        tubelet.save(small_model(), folder / "model.safetensors")
        (folder / "run.json").write_text(json.dumps({"fold": fold, "data": str(ucf), "task": "classify"}))
    with pytest.raises(ValueError, match=r"models differ in fold: .*run1 has 1, .*run2 has 2; .*--fold"):
        tubelet.evaluate([tmp_path / "run1", tmp_path / "run2"], ucf, out=tmp_path / "out", **ONCE)
    loaded = [tubelet.load(tmp_path / name) for name in ("run1", "run2")]
    with pytest.raises(ValueError, match=r"models differ in fold: 1-\w+ has 1, 2-\w+ has 2; .*--fold"):
        tubelet.evaluate(loaded, ucf, out=tmp_path / "out", **ONCE)


def small_model():
    model = tubelet.create("tiny_2d", num_classes=2)
    values = {"num_frames": 2, "frame_stride": 1, "crop": (16, 16), "resize": None, "classes": ("dark", "light")}
    model.spec = dataclasses.replace(model.spec, **values)
    return model


@pytest.mark.parametrize("text", ['{"fold": 2', "[]", '{"fold": "two"}', '{"data": 3}', "\udcff"])
def test_a_broken_run_json_is_told_in_one_line(halves, tmp_path, text):
    tubelet.save(small_model(), tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"run\.json: damaged \(.*\); move it away") as caught:
        tubelet.evaluate(tmp_path / "run", halves, **ONCE)
    assert "\n" not in str(caught.value)


def test_the_task_is_that_of_the_run(halves, tmp_path):
    tubelet.save(small_model(), tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"task": "frames", "data": str(halves)}))
    with pytest.raises(ValueError, match=r"run: its head is Classify, and task frames wants PerFrame: .*--task"):
        tubelet.evaluate(tmp_path / "run", halves, **ONCE)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"task": "dance", "data": str(halves)}))
    with pytest.raises(ValueError, match=r"task 'dance' of .*run; evaluate measures classify, multilabel, frames"):
        tubelet.evaluate(tmp_path / "run", halves, **ONCE)


def test_a_failed_run_leaves_what_was_there(data, tmp_path):
    tubelet.evaluate(Brightness(), data, out=tmp_path / "out", **ONCE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "val" / "rising" / "1.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rising/1\.mp4"):
        tubelet.evaluate(Brightness(), tmp_path / "data", out=tmp_path / "out", **ONCE)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_is_written_among_the_videos(data):
    with pytest.raises(ValueError, match="is, or lies in, the folder of the videos"):
        tubelet.evaluate(Brightness(), data, out=data / "val" / "evaluate", **ONCE)
    assert not (data / "val" / "evaluate").exists()


class Facets(nn.Module):
    """Sigmoid scores: is it light, does it rise, is it always."""

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(Brightness().spec, classes=("always", "light", "rises"))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        level, rise = x.mean((1, 2, 3, 4)), (x[:, :, -1] - x[:, :, 0]).mean((1, 2, 3))
        return self.scale * torch.stack([torch.ones_like(level), level, rise], 1)


@pytest.fixture(scope="module")
def labelled(data, tmp_path_factory):
    """The clips of `data` with several labels each; the light one under the wrong name counts as light."""
    file = tmp_path_factory.mktemp("labelled") / "list.csv"
    labels = {"dark": "always", "light": "always;light", "rising": "always;rises"}
    rows = [["path", "labels", "split"]]
    for part in ("train", "val"):
        for name, of_class in labels.items():
            rows += [[str(data / part / name / f"{i}.mp4"), of_class, part] for i in range(2)]
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return file


def test_multilabel_by_hand(labelled, tmp_path):
    """Brightness 220, 118 (rising, twice), 40, 30 (light by name), 20: AP of light is (1/1 + 2/5) / 2."""
    table = tubelet.evaluate(Facets(), labelled, views=2, crops=1, workers=0, out=tmp_path)
    rows = {row["class"]: row for row in table.rows}
    assert [row["samples"] for row in table.rows] == [6, 2, 2]
    precisions = [rows[name]["average_precision"] for name in ("always", "light", "rises")]
    assert precisions == pytest.approx([1, (1 + 2 / 5) / 2, 1], abs=1e-6)
    assert table.summary["map"] == pytest.approx(2.7 / 3, abs=1e-6)
    assert table.summary["audit as is"] == pytest.approx(2.7 / 3, abs=1e-6)
    assert table.summary["audit reversed"] < 2.7 / 3
    found = read_scores(tmp_path)
    assert found.targets.tolist() == [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2 + [[1, 0, 1]] * 2
    assert metrics.average_precision(found.scores, found.targets).tolist() == pytest.approx(precisions, abs=1e-6)
    report = json.loads((tmp_path / "evaluate.json").read_text())
    assert (report["task"], report["confusion"]) == ("multilabel", None)
    # of the dark one that is light by name: what it is scores lowest, and higher scores what it is not
    first = report["mistakes"][0]
    scores = found.scores[[*found.samples].index(first["sample"])]
    truth = found.targets[[*found.samples].index(first["sample"])].bool()
    assert first["score"] == pytest.approx(scores[~truth].max().item()) and first["target"] == "light"
    assert first["score_of_target"] == pytest.approx(scores[truth].min().item())
    mistaken = {each["sample"] for each in report["mistakes"]}
    for name, row, true in zip(found.samples, found.scores, found.targets.bool(), strict=True):
        assert (name in mistaken) == bool(row[~true].max() > row[true].min())
    assert not (tmp_path / "confusion.png").exists()
    assert "90.0 %" in (tmp_path / "report.html").read_text()


def test_an_audit_without_a_label_is_not_drawn(data, tmp_path):
    (tmp_path / "empty.mp4").touch()
    rows = ["empty.mp4,always;light;rises,val", f"{data / 'val' / 'dark' / '0.mp4'},,val"]
    (tmp_path / "list.csv").write_text("\n".join(["path,labels,split", *rows]) + "\n")
    table = tubelet.evaluate(Facets(), tmp_path / "list.csv", **ONCE | {"audit": True}, on_bad="skip", out=tmp_path)
    assert math.isnan(table.summary["audit as is"]) and not (tmp_path / "audit.png").exists()


def test_multilabel_by_protocol_takes_the_highest_score(labelled, tmp_path):
    model = Facets()
    options = {"task": "multilabel", "workers": 0, "audit": False, "out": tmp_path}
    table = tubelet.evaluate(model, labelled, protocol="charades-10x3", **options)
    assert (table.summary["views"], table.summary["crops"]) == (10, 3)
    found = read_scores(tmp_path)
    rows = [row for row in csv.DictReader((tmp_path / "scores.csv").open()) if row["sample"] == found.samples[4]]
    assert len(rows) == 30
    assert found.scores[4, 1].item() == pytest.approx(max(float(row["light"]) for row in rows))
    assert json.loads(rows[0]["target"]) == ["always", "rises"]


def test_multilabel_models_are_fused(labelled, tmp_path):
    options = {**ONCE, "task": "multilabel", "out": tmp_path}
    table = tubelet.evaluate([Facets(), Facets()], labelled, **options)
    assert table.summary["map"] == pytest.approx(table.summary["map of 1-Facets"])
    assert read_scores(tmp_path).targets.shape == (6, 3)


class Steps(nn.Module):
    """Says dark or light of every second frame."""

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(Views().spec, num_frames=8, classes=("light", "dark"))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        level = x.mean((1, 3, 4)).unfold(1, 2, 2).mean(-1)
        return self.scale * torch.stack([level, -level], 1)


@pytest.mark.parametrize("num_frames", [8, 4, 6])
def test_frames_by_hand(halves, tmp_path, monkeypatch, num_frames):
    """Labels turn light at frame 5 of 8, the network at frame 4; in the other video it says nothing but dark, rightly.

    15 of 16 frames; of the light and the dark span of the first, the overlaps are 3/4 and 4/5, so F1 at 0.5 is 1. In
    clips of six frames the last one shares four with the one before it, which must not count twice.
    """
    (tmp_path / "groundTruth").mkdir()
    for name, video, turn in (("a", "light", 5), ("b", "dark", 8)):
        shutil.copy(halves / "val" / video / "0.mp4", tmp_path / f"{name}.mp4")
        (tmp_path / "groundTruth" / f"{name}.txt").write_text("dark\n" * turn + "light\n" * (8 - turn))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.split1.bundle").write_text("a.txt\nb.txt\n")
    (tmp_path / "splits" / "train.split1.bundle").write_text("b.txt\n")
    options = {"task": "frames", "workers": 0, "out": tmp_path.with_name("frames")}
    model = Steps()
    model.spec = dataclasses.replace(model.spec, num_frames=num_frames)
    monkeypatch.chdir(tmp_path)
    table = tubelet.evaluate(model, Path(), **options)
    assert table.summary["frame_accuracy"] == pytest.approx(15 / 16)
    assert table.summary["edit"] == table.summary["f1_50"] == pytest.approx(1)
    assert (table.summary["samples"], table.rows) == (2, [])
    assert "views" not in table.summary
    report = json.loads((tmp_path.with_name("frames") / "evaluate.json").read_text())
    assert report["summary"]["frame_accuracy"] == pytest.approx(15 / 16)
    page = (tmp_path.with_name("frames") / "report.html").read_text()
    assert "93.8 %" in page and "whole videos" in page and "Worst videos" in page
    assert [row["frame_accuracy"] for row in report["worst"]] == pytest.approx([7 / 8, 1])
    assert report["worst"][0]["sample"] == str(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"b\.mp4: .*--on_bad skip"):
        tubelet.evaluate(model, tmp_path, **options)
    skipped = tubelet.evaluate(model, tmp_path, on_bad="skip", **options)
    assert (skipped.summary["samples"], skipped.summary["bad"]) == (1, 1)
    assert skipped.summary["frame_accuracy"] == pytest.approx(7 / 8)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"no video of val gives a clip \(2 of 2"):
        tubelet.evaluate(model, tmp_path, on_bad="skip", **options)
    with pytest.raises(ValueError, match="crops 3 of whole videos"):
        tubelet.evaluate(model, tmp_path, crops=3, **options)
    for more in ({"average": "logits"}, {"temperature": True}):
        with pytest.raises(ValueError, match="average and temperature are not for task frames"):
            tubelet.evaluate(Steps(), tmp_path, **options, **more)


class Boxes(nn.Module):
    """Says of the largest box that it sits, of the others that they stand."""

    def __init__(self):
        super().__init__()
        spec = {"num_frames": 2, "resize": None, "crop": None, "classes": ("stand", "sit")}
        self.spec = dataclasses.replace(Views().spec, **spec)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, boxes):
        area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
        return self.scale * torch.stack([-area, area], 1) / 100


def test_boxes_by_hand(data, tmp_path):
    """Two keyframes of 24 x 16 pixels: areas 192 (sits), 96 (stands), and 48 (sits), so sit is ranked right, wrong,
    right: AP (1 + 2/3) / 2; stand is ranked wrong (48), right: 1/2.
    """
    shutil.copy(data / "val" / "dark" / "0.mp4", tmp_path / "film.mp4")
    rows = ["film,0,0,0,0.5,1,2,1", "film,0,0,0,0.5,0.5,1,2", "film,0.12,0,0,0.25,0.5,2,1"]
    for part in ("train", "val"):
        (tmp_path / f"ava_{part}_v2.2.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "ava_action_list_v2.2.pbtxt").write_text(
        "".join(f'label {{\n  name: "{name}"\n  label_id: {i}\n}}\n' for i, name in ((1, "stand"), (2, "sit")))
    )
    options = {"task": "detect", "workers": 0, "out": tmp_path.with_name("boxes")}
    file, model = tmp_path.with_name("file"), Boxes()
    file.touch()
    model.forward = None
    with pytest.raises(FileExistsError):  # before anything is measured
        tubelet.evaluate(model, tmp_path, **options | {"out": file})
    table = tubelet.evaluate(Boxes(), tmp_path, **options)
    assert [(row["class"], row["boxes"]) for row in table.rows] == [("stand", 1), ("sit", 2)]
    assert [row["average_precision"] for row in table.rows] == pytest.approx([1 / 2, (1 + 2 / 3) / 2])
    assert table.summary["map"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert table.summary["samples"] == 2
    assert "66.7 %" in (tmp_path.with_name("boxes") / "report.html").read_text()
    with pytest.raises(ValueError, match="2 views x 1 crops of boxes"):
        tubelet.evaluate(Boxes(), tmp_path, views=2, **options)
