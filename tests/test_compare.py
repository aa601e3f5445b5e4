"""Two runs compared and several fused: from files as evaluate writes them, against scipy and figures by hand."""

import csv
import json
import math
import os
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

import tubelet
from tubelet import cli, measure, metrics
from tubelet.compare import Scores, combine, compare, fuse, is_right, mcnemar, paired_bootstrap, read_scores
from tubelet.data.motion import draw
from tubelet.data.video import write_video

CLASSES = ("left", "right", "up")


def write(folder, rows, classes=CLASSES):
    """Rows (sample, target, view, crop, scores...) as evaluate writes them."""
    path = folder / "evaluate" / "scores.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["sample", "target", "view", "crop", *classes], *rows])
    return folder


def run(answers, targets=None, classes=CLASSES):
    """Scores of samples s0, s1, ... that are sure of these answers."""
    answers = torch.tensor(answers)
    targets = torch.zeros_like(answers) if targets is None else torch.tensor(targets)
    scores = torch.nn.functional.one_hot(answers, len(classes)).double() * 0.7 + 0.1
    return Scores(tuple(f"s{i}" for i in range(len(answers))), classes, targets, scores)


def test_views_are_averaged(tmp_path):
    rows = [
        ["a, b.mp4", "left", 0, 0, 0.6, 0.3, 0.1],
        ["a, b.mp4", "left", 0, 1, 0.2, 0.5, 0.3],
        ["ü.mp4[0:24]", "up", 0, 0, 0.1, 0.1, 0.8],
        ["ü.mp4[0:24]", "up", 0, 1, 0.3, 0.3, 0.4],
    ]
    folder = write(tmp_path, rows)
    for path in (folder, folder / "evaluate", str(folder / "evaluate" / "scores.csv")):
        found = read_scores(path)
        assert (found.samples, found.classes) == (("a, b.mp4", "ü.mp4[0:24]"), CLASSES)
        assert found.targets.tolist() == [0, 2]
        assert found.scores.flatten().tolist() == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.2, 0.6])


def test_what_evaluate_writes_is_read(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for part, name in product(("train", "val"), CLASSES[:2]):
        (tmp_path / "clips" / part / name).mkdir(parents=True)
        write_video(tmp_path / f"clips/{part}/{name}/0.mp4", draw([name], 12, generator).unbind(1), fps=25)
    model = tubelet.create("tiny", num_classes=2)
    model.spec = replace(model.spec, num_frames=8, frame_stride=1, classes=CLASSES[:2])
    options = {"views": 2, "crops": 2, "workers": 0, "audit": False, "out": tmp_path / "run" / "evaluate"}
    table = tubelet.evaluate(model, tmp_path / "clips", **options)
    found = read_scores(tmp_path / "run")
    assert len(found.samples) == 2 and found.classes == CLASSES[:2]
    assert torch.allclose(found.scores.sum(1), torch.ones(2).double(), atol=1e-5)
    assert is_right(found.scores, found.targets).mean() == table.summary["top1"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are of any bytes on Linux")
def test_videos_whose_names_are_not_utf8_are_measured(tmp_path):
    for part, name in product(("train", "val"), CLASSES[:2]):
        (tmp_path / "clips" / part / name).mkdir(parents=True)
        write_video(tmp_path / f"clips/{part}/{name}/0.mp4", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), fps=25)
    odd = (tmp_path / "clips/val/left/0.mp4").rename(tmp_path / "clips/val/left/\udcff.mp4")
    model = tubelet.create("tiny", num_classes=2)
    model.spec = replace(model.spec, num_frames=8, frame_stride=1, crop=(32, 32), classes=CLASSES[:2])
    tubelet.evaluate(model, tmp_path / "clips", workers=0, out=tmp_path / "run", views=1, crops=1)
    assert os.fsencode(odd) in (tmp_path / "run" / "scores.csv").read_bytes()
    assert str(odd) in read_scores(tmp_path / "run").samples


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "left", 0, 0, 0.5, 0.5]], "line 2 is not whole"),
        ([["a", "left", 0, 0, 0.5, 0.5, "x"]], "line 2 is not whole"),
        ([["a", "left", 0, 0, 0.5, 0.5, "nan"]], "line 2 is not whole"),
        ([["a", "down", 0, 0, 0.5, 0.5, 0]], "line 2 is not whole"),
        ([["a"]], "line 2 is not whole"),
        ([[]], "line 2 is not whole"),
        ([["a", "left", 0, 0, 1, 0, 0], ["a", "up", 0, 1, 1, 0, 0]], "a is left and up"),
        (
            [["a", "left", 0, 0, 1, 0, 0], ["a", "left", 0, 1, 1, 0, 0], ["b", "up", 0, 0, 1, 0, 0]],
            "1 rows for b, 2 for a: cut off",
        ),
        ([], "no samples"),
    ],
)
def test_files_that_are_not_whole(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_scores(write(tmp_path, rows))


def test_files_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"gone: no scores\.csv in it nor in its folder evaluate"):
        read_scores(tmp_path / "gone")
    (tmp_path / "scores.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="its header is not sample,target,view,crop and classes"):
        read_scores(tmp_path)


def test_mcnemar_by_hand():
    """A coin thrown five times shows the same side each time with 2 / 2^5, one time the other with 2 (1 + 5) / 2^5."""
    always = torch.ones(8, dtype=torch.bool)
    assert mcnemar(always, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]).bool()) == pytest.approx(2 / 32)
    a, b = torch.tensor([1, 1, 1, 1, 1, 0, 1, 0]).bool(), torch.tensor([0, 0, 0, 0, 0, 1, 1, 0]).bool()
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 * 7 / 64)
    assert mcnemar(a, a) == 1


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 3), (1, 9), (60, 41), (700, 800), (5000, 5200)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    stats = pytest.importorskip("scipy.stats")
    a = torch.arange(only_a + only_b + 50) < only_a
    b = (torch.arange(len(a)) >= only_a) & (torch.arange(len(a)) < only_a + only_b)
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_paired_bootstrap_is_the_paired_test():
    """Of a difference of 0.03 per sample, with a deviation of 0.3, over 400 samples: z = 2."""
    a = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    noise = 0.3 * (noise - noise.mean()) / noise.std() + 0.03
    found = paired_bootstrap(torch.mean, a, a + noise, rounds=4000)
    assert found.b - found.a == pytest.approx(0.03)
    assert (found.low, found.high) == pytest.approx((0.03 - 1.96 * 0.015, 0.03 + 1.96 * 0.015), abs=0.002)
    assert found.p == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.012)
    assert paired_bootstrap(torch.mean, a, a).p == 1
    assert paired_bootstrap(torch.mean, a, a + 1, rounds=99).p == pytest.approx(2 / 100)


def test_interval_and_p_agree():
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        a, b = (torch.rand(2, 60, generator=generator) < torch.tensor([[0.6], [0.75]])).double()
        found = paired_bootstrap(torch.mean, a, b, rounds=500)
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05) or found.p == pytest.approx(0.05, abs=0.02)


def test_compare_by_hand(tmp_path):
    targets = [0, 0, 0, 0, 1, 1, 1, 2]
    a, b = run([0, 0, 1, 1, 1, 0, 0, 0], targets), run([0, 0, 0, 0, 1, 1, 0, 2], targets)
    table = compare(a, b)
    rows = {row["figure"]: row for row in table.rows}
    assert list(rows) == ["top1", "mean_class"]
    assert (rows["top1"]["a"], rows["top1"]["b"], rows["top1"]["b - a"]) == pytest.approx((3 / 8, 7 / 8, 4 / 8))
    assert rows["top1"]["p"] == pytest.approx(2 / 2**4)
    assert rows["mean_class"]["a"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert rows["mean_class"]["b"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert rows["top1"]["low"] <= 4 / 8 <= rows["top1"]["high"]
    assert table.summary == {
        "samples": 8, "only in a": 0, "only in b": 0, "right in a alone": 0, "right in b alone": 4,
    }  # fmt: skip
    assert "mean_class" in str(table)


def test_compare_takes_what_both_have(tmp_path):
    """b has its samples and classes in another order; five samples are in a alone, one in b alone."""
    first = [[f"s{i}", CLASSES[i % 3], 0, 0, *(0.8 if k == i % 3 else 0.1 for k in range(3))] for i in range(8)]
    mixed = ("up", "left", "right")
    second = [[name, target, 0, 0, up, left, right] for name, target, _, _, left, right, up in reversed(first[:3])]
    second.append(["t", "up", 0, 0, 0.8, 0.1, 0.1])
    one, two = write(tmp_path / "one", first), write(tmp_path / "two", second, mixed)
    table = compare(one, two, rounds=50)
    assert all(row["a"] == row["b"] == row["p"] == 1 for row in table.rows)
    assert table.summary["samples"] == 3
    assert table.summary["only in a"] == "5: s3, s4, s5, ..."
    assert table.summary["only in b"] == "1: t"
    assert str(one) in table.title and str(two) in table.title


def test_top5_where_there_are_six_classes():
    classes = tuple("abcdef")
    a, b = run([0, 1], classes=classes), run([0, 0], classes=classes)
    a.scores[1] = torch.tensor([0.0, 0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)
    rows = {row["figure"]: row for row in compare(a, b, rounds=20).rows}
    assert list(rows) == ["top1", "top5", "mean_class"]
    assert (rows["top5"]["a"], rows["top5"]["b"]) == (0.5, 1)


def test_runs_that_do_not_fit():
    a = run([0, 1])
    with pytest.raises(ValueError, match="s0 is left in one run and right in the other, and so 1 samples"):
        compare(a, run([0, 1], [1, 0]))
    with pytest.raises(ValueError, match="differ in 2 classes, such as down"):
        compare(a, run([0, 1], classes=("left", "right", "down")))
    other = Scores(("x", "y"), CLASSES, a.targets, a.scores)
    with pytest.raises(ValueError, match="no sample is in both: a has s0, b x; evaluate both by one path"):
        compare(a, other)
    with pytest.raises(ValueError, match="level 95"):
        compare(a, a, level=95)


def test_fuse_by_hand():
    """Two streams that are each wrong once, and together right."""
    targets = torch.tensor([0, 1])
    frames = Scores(("s", "t"), CLASSES, targets, torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1]]).double())
    flow = Scores(("t", "s"), CLASSES, targets.flip(0), torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.5, 0.2]]).double())
    fused = fuse([frames, flow])
    assert fused.samples == ("s", "t")
    assert fused.scores.flatten().tolist() == pytest.approx([0.55, 0.3, 0.15, 0.3, 0.55, 0.15])
    assert is_right(fused.scores, fused.targets).tolist() == [1, 1]
    weighted = fuse([frames, flow], [3, 1])
    assert weighted.scores[0].tolist() == pytest.approx([(3 * 0.8 + 0.3) / 4, (0.3 + 0.5) / 4, 0.5 / 4])
    assert fuse([frames]).scores.equal(frames.scores)


def test_what_cannot_be_fused():
    a = run([0, 1])
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="for 2 runs: one a run, at least 0, some above 0"):
            fuse([a, a], weights)
    with pytest.raises(ValueError, match="for 0 runs"):
        fuse([])
    with pytest.raises(ValueError, match="runs 1 and 2 differ in 1 samples, such as s2"):
        fuse([a, run([0, 1, 2])])
    with pytest.raises(ValueError, match="s1 is left in one run and up in the other"):
        fuse([a, run([0, 1], [0, 2])])


@pytest.mark.parametrize("is_open", [False, True])
def test_combined_logits_are_those_of_the_network(is_open):
    """The mean of logits, worked out from scores alone."""
    logits = 4 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    scored = torch.sigmoid if is_open else lambda values: values.softmax(-1)
    scores = scored(logits)
    assert torch.allclose(combine(scores, "logits", is_open=is_open), scored(logits.mean(0)))
    assert combine(scores, "scores", is_open=is_open).equal(scores.mean(0))
    assert combine(scores, "max", is_open=is_open).equal(scores.max(0).values)


def test_a_score_of_0_or_1_has_an_answer():
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert combine(sure, "logits").tolist() == pytest.approx([1, 0])
    assert combine(sure, "logits", is_open=True).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_views_are_combined_as_evaluate_did(tmp_path):
    """Geometric means sqrt(0.9 x 0.1) = 0.3 and sqrt(0.05 x 0.8) = 0.2, sqrt(0.05 x 0.1) = 0.0707."""
    rows = [["a", "left", 0, 0, 0.9, 0.05, 0.05], ["a", "left", 1, 0, 0.1, 0.8, 0.1]]
    folder = write(tmp_path, rows)
    assert read_scores(folder).scores[0].tolist() == pytest.approx([0.5, 0.425, 0.075])
    report = folder / "evaluate" / "evaluate.json"
    report.write_text('{"combine": "logits"}')
    total = 0.3 + 0.2 + math.sqrt(0.005)
    assert read_scores(folder).scores[0].tolist() == pytest.approx([0.3 / total, 0.2 / total, math.sqrt(0.005) / total])
    for text in ('{"combine": "logi', '{"combine": "median"}', "[]"):
        report.write_text(text)
        with pytest.raises(ValueError, match=r"evaluate\.json: not whole; evaluate again"):
            read_scores(folder)


def test_samples_with_several_classes(tmp_path):
    rows = [["a", json.dumps(["up", "left"]), 0, 0, 0.9, 0.2, 0.6], ["b", "[]", 0, 0, 0.1, 0.3, 0.2]]
    one = read_scores(write(tmp_path / "one", rows))
    assert one.targets.tolist() == [[1, 0, 1], [0, 0, 0]]
    mixed = [[name, target, 0, 0, up, left, right] for name, target, _, _, left, right, up in reversed(rows)]
    two = read_scores(write(tmp_path / "two", mixed, ("up", "left", "right")))
    fused = fuse([one, two])
    assert fused.targets.equal(one.targets) and torch.allclose(fused.scores, one.scores)
    (row,) = compare(tmp_path / "one", tmp_path / "two", rounds=20).rows
    assert (row["figure"], row["a"], row["b - a"], row["p"]) == ("map", row["b"], 0, 1)
    other = replace(one, scores=one.scores.flip(0))
    (row,) = compare(one, other, rounds=20).rows
    told = paired_bootstrap(
        lambda scores, labels: metrics.average_precision(scores, labels).nanmean(),
        one.scores, other.scores, one.targets, rounds=20,
    )  # fmt: skip
    assert (row["a"], row["b"], row["low"], row["high"], row["p"]) == pytest.approx(
        (told.a, told.b, told.low, told.high, told.p)
    )
    with pytest.raises(ValueError, match=r"a is up in one run and left \+ up in the other"):
        fuse([replace(one, targets=torch.tensor([[0, 0, 1], [0, 0, 0]])), one])
    with pytest.raises(ValueError, match="one run has one class a sample, another several"):
        fuse([one, replace(one, targets=torch.tensor([0, 1]))])
    unknown = [["a", '["down"]', 0, 0, 0.9, 0.2, 0.6]]
    with pytest.raises(ValueError, match="line 2 is not whole"):
        read_scores(write(tmp_path / "three", unknown))


def test_sigmoid_scores_are_read_as_they_were(tmp_path):
    """1 and the sigmoid of 16 are alike in six digits, and their logits are not."""
    scores = torch.tensor([[16.0, -20.0]]).double().sigmoid()
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        measure._writer(file, CLASSES[:2])("a", torch.tensor([1, 0]), scores, 1)
    assert read_scores(tmp_path).scores.equal(scores)


def test_a_sample_that_is_there_twice(tmp_path):
    rows = [[name, "left", 0, 0, 1, 0, 0] for name in ("a", "b", "a")]
    with pytest.raises(ValueError, match="a is there twice"):
        read_scores(write(tmp_path, rows))


def command(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_runs_are_measured_fused_and_compared_by_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for part, name in product(("train", "val"), CLASSES[:2]):
        (tmp_path / "clips" / part / name).mkdir(parents=True)
        write_video(tmp_path / f"clips/{part}/{name}/0.mp4", draw([name], 12, generator).unbind(1), fps=25)
    for name in ("rgb", "flow"):
        model = tubelet.create("tiny", num_classes=2)
        model.spec = replace(model.spec, num_frames=8, frame_stride=1, classes=CLASSES[:2])
        tubelet.save(model, tmp_path / "runs" / name / "model.safetensors")
        options = ("--views", 1, "--crops", 1, "--workers", 0, "--audit", "false")
        assert command(capsys, "evaluate", "clips", "--model", f"runs/{name}", *options, "--temperature")[0] == 0
    both = ("--model", "runs/rgb", "--model", "runs/flow")
    status, out, err = command(capsys, "evaluate", "clips", *both, *options, "--out", "runs/both")
    assert status == 0, err
    assert "2 models fused" in out and "top1 of rgb: " in out and "top1 of flow: " in out
    arguments = {"model": ["runs/rgb", "runs/flow"], "data": "clips", "views": 1, "crops": 1, "audit": False}
    (tmp_path / "both.json").write_text(json.dumps(arguments | {"workers": 0}))
    assert command(capsys, "evaluate", "--config", "both.json", "--out", "runs/again")[1] == out
    fused = fuse([read_scores("runs/rgb"), read_scores("runs/flow")])
    assert torch.allclose(read_scores("runs/both").scores, fused.scores, atol=1e-5)
    status, out, err = command(capsys, "compare", "runs/rgb", "runs/both", "--rounds", 100)
    assert (status, err) == (0, "")
    assert "a: runs/rgb, b: runs/both" in out and "mean_class" in out and "only in b: 0" in out
    for arguments, says in (
        (
            ("compare", "runs/rgb", "runs/gone"),
            "runs/gone: no scores.csv in it nor in its folder evaluate; `tubelet ev",
        ),
        (("compare", "runs/rgb"), "`tubelet compare` also wants B"),
        (("compare", "runs/rgb", "runs/flow", "--level", 95), "level 95.0 must be above 0 and below 1"),
        (("evaluate", "clips", "--protocol", "k400"), "protocol 'k400'; there is "),
        (("evaluate", "clips", "--average", "best"), "--average best: `tubelet evaluate` takes scores or logits"),
    ):
        status, out, err = command(capsys, *arguments)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"tubelet: {says}")


def dice_of(folder, values):
    """Dice (class 1, class 2) of scans c0, c1, ... as evaluate writes them."""
    folder.mkdir()
    rows = [
        (f"c{i}", name, dice, 0, 0, 0, 9)
        for i, each in enumerate(values)
        for name, dice in zip("ab", each, strict=True)
    ]
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case", "class", "dice", "iou", "hd95_mm", "surface_dice", "voxels"], *rows])
    return folder


def test_masks_by_their_dice(tmp_path):
    generator = torch.Generator().manual_seed(0)
    first = 0.8 + 0.1 * torch.rand(30, 2, generator=generator)
    better = first + torch.tensor([0.03, 0.0])
    first[0, 1] = better[0, 1] = torch.nan  # in none of the two
    a, b = dice_of(tmp_path / "a", first.tolist()), dice_of(tmp_path / "b", better.tolist()[:29])
    table = compare(a, b, rounds=200)
    assert [row["figure"] for row in table.rows] == ["dice", "dice a", "dice b"]
    assert [row["b - a"] for row in table.rows] == pytest.approx([0.015, 0.03, 0], abs=1e-6)
    assert table.rows[1]["low"] == pytest.approx(0.03) and table.rows[1]["p"] < 0.05 < table.rows[2]["p"]
    assert table.rows[0]["a"] == pytest.approx((first[:29, 0].mean() + first[1:29, 1].mean()).item() / 2)
    assert (table.summary["samples"], table.summary["only in a"]) == (29, "1: c29")
    (b / "cases.csv").write_text("case,class,dice\nc0,a,x\n")
    with pytest.raises(ValueError, match=r"cases\.csv: not whole; evaluate again"):
        compare(a, b)


def test_the_run_without_measures_of_its_masks_is_named(tmp_path):
    a = dice_of(tmp_path / "a", [[0.8, 0.9]] * 3)
    (tmp_path / "b").mkdir()
    for runs in ((a, tmp_path / "b"), (tmp_path / "b", a)):
        with pytest.raises(ValueError, match=r"^\S*/b: no cases\.csv in it .*, and \S*/a has one; `tubelet evaluate`"):
            compare(*runs)


def test_masks_that_were_changed_are_not_compared(tmp_path):
    a, b = (dice_of(tmp_path / name, [[0.8, 0.9]] * 3) for name in "ab")
    path = b / "cases.csv"
    *first, last = path.read_text().splitlines()
    path.write_text("\n".join([*first, last.rsplit(",", 1)[0] + ",999"]))
    with pytest.raises(
        ValueError, match=r"c2: \d+ voxels of b in the truth of a, 999 in that of b: the masks were chan"
    ):
        compare(a, b)
