"""The page of a run: what stands on it, that its commands can be pasted, and what happens where files are gone."""

import base64
import csv
import inspect
import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch
from painted_scans import painted
from test_evaluate import Brightness, flat, rising
from test_page import Page

import tubelet
from tubelet import cli, evaluate, train
from tubelet.data.augment import RECIPES, Augment
from tubelet.data.distort import Distort
from tubelet.data.mixing import Mixing
from tubelet.data.video import Video, write_video
from tubelet.data.volume import Grid, write_volume
from tubelet.report import MOST_BAD, MOST_PAIRS, _draw_scan, command
from tubelet.run import write_bad


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of two epochs in `run`, its `clips`, and an evaluation with mistakes and a temperature."""
    root = tmp_path_factory.mktemp("report")
    for part in ("train", "val"):
        for name, frames in (("flat", flat(60, 30)), ("rising", rising(9)), ("dark", flat(20))):
            (root / "clips" / part / name).mkdir(parents=True)
            for number in range(2):
                write_video(root / "clips" / part / name / f"{number}.mp4", frames, 10.0)
    options = {"num_frames": 4, "frame_stride": 1, "resize": "none", "crop": (16, 24), "workers": 0}
    tubelet.train(root / "clips", model="tiny_2d", epochs=2, lr=0.01, out=root / "run", **options)
    tubelet.evaluate(root / "run", root / "clips", views=2, crops=1, workers=0, temperature=True)
    return root


def shown(path):
    return re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8"))


def titles(path):
    return re.findall(r"<h2>(.*?)</h2>", path.read_text(encoding="utf-8"))


def test_evaluate_writes_the_page_of_the_run(measured):
    path = measured / "run" / "evaluate" / "report.html"
    page, found = Page(path), json.loads(path.with_name("evaluate.json").read_text())
    assert titles(path) == ["Commands", "Training", "Figures", "Confusion", "Worst mistakes", "Classes",
                            "Motion audit", "Calibration", "Data", "Environment"]  # fmt: skip
    top1, low, high = (100 * found["summary"][name] for name in ("top1", "top1_low", "top1_high"))
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", path.read_text()))
    assert tiles["top-1"] == f"{top1:.1f} %" and tiles["samples"] == "6"
    assert tiles["95 % interval"] == f"{low:.1f} to {high:.1f} %"
    assert len(page.all("img")) == 4 and len(page.all("video")) == len(found["mistakes"]) > 0
    assert all(image["alt"] for image in page.all("img"))
    worst = found["mistakes"][0]
    assert page.all("video")[0]["aria-label"].startswith(f"{worst['target']}, taken for {worst['answer']}\n")
    assert found["layout"] in shown(path) and found["environment"]["torch"] in shown(path)
    assert f"{found['summary']['temperature']:.3f}" in shown(path)
    assert path.stat().st_size < 1e6


def test_a_thumbnail_is_the_middle_of_the_sample(measured, tmp_path):
    """Of a list, its part alone; of six seconds the middle four, in at most 50 frames."""
    place = tmp_path / "evaluate.json"
    shutil.copy(measured / "run" / "evaluate" / "evaluate.json", place)
    found = json.loads(place.read_text())
    write_video(tmp_path / "long.mp4", (torch.full((3, 240, 480), i, dtype=torch.uint8) for i in range(180)), 30.0)
    row = found["mistakes"][0] | {"sample": "x", "path": str(tmp_path / "long.mp4"), "fps": None}
    parts = [row | {"start": 0, "end": None, "unit": "frames"}, row | {"start": 1.0, "end": 2.0, "unit": "s"}]
    place.write_text(json.dumps(found | {"mistakes": parts}))
    for video, (seconds, number, first) in zip(
        Page(tubelet.report(tmp_path)).all("video"), [(4, 50, 30), (1, 30, 30)], strict=True
    ):
        (tmp_path / "t.mp4").write_bytes(base64.b64decode(video["src"].split(",")[1]))
        with Video(tmp_path / "t.mp4") as played:
            assert (played.num_frames, played.height, played.width) == (number, 112, 224)
            assert played.duration_s == pytest.approx(seconds, rel=0.01)
            assert played.frames([0]).double().mean().item() == pytest.approx(first, abs=4)


def test_what_is_gone_or_damaged_is_told(measured, tmp_path):
    shutil.copytree(measured / "run", tmp_path / "run")
    path = tmp_path / "run" / "evaluate" / "evaluate.json"
    found = json.loads(path.read_text())
    found["mistakes"][0]["path"] = "/gone/away.mp4"
    found["bad"] = {f"clips/{i}.mp4": "no frames" for i in range(MOST_BAD + 30)}
    found["summary"] |= {"bad": MOST_BAD + 30, "missing": 1234}
    path.write_text(json.dumps(found))
    page = tubelet.report(tmp_path / "run", tmp_path / "page.html")
    assert "/gone/away.mp4: no such file" in shown(page)
    assert "1,234" in shown(page) and "clips/99.mp4" in shown(page) and "and 30 more" in shown(page)
    assert len(Page(page).all("video")) == len(found["mistakes"]) - 1
    with pytest.raises(ValueError, match=r"run: a folder; give the name of a file"):
        tubelet.report(tmp_path / "run", tmp_path / "run")
    with pytest.raises(ValueError, match=r"clips: no run\.json and no evaluate\.json in it"):
        tubelet.report(measured / "clips")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"evaluate\.json: not whole"):
        tubelet.report(tmp_path / "run")


def test_a_run_that_is_not_measured_has_a_page_too(measured, tmp_path):
    for name in ("run.json", "metrics.csv"):
        shutil.copy(measured / "run" / name, tmp_path / name)
    with (tmp_path / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample", "reason"), ("clips/x.mp4", "no frames")])
    page = tubelet.report(tmp_path)
    assert page == tmp_path / "report.html" and titles(page) == ["Commands", "Training", "Data"]
    assert "top-1, best epoch" in shown(page) and "clips/x.mp4" in shown(page)


def test_bad_files_whose_names_are_not_utf8_are_on_the_page(measured, tmp_path):
    shutil.copy(measured / "run" / "run.json", tmp_path / "run.json")
    write_bad({"\udcff.mp4": "no frames"}, tmp_path)
    assert b"\xff.mp4,no frames" in (tmp_path / "bad.csv").read_bytes()
    assert "\\udcff.mp4" in shown(tubelet.report(tmp_path))


def test_the_best_epoch_is_that_of_a_number(measured, tmp_path):
    shutil.copy(measured / "run" / "run.json", tmp_path / "run.json")
    (tmp_path / "metrics.csv").write_text("epoch,val_auc\n1,nan\n2,0.8\n3,0.7\n")
    assert "AUC, best epoch80.0 %" in shown(tubelet.report(tmp_path)).replace("\n", "").replace("  ", "")


def test_the_page_is_of_what_was_measured_into_the_folder(measured, tmp_path):
    """Another measurement lies below it, and another run beside it."""
    shutil.copytree(measured / "run", tmp_path / "other")
    options = {"views": 1, "crops": 1, "workers": 0, "audit": False}
    tubelet.evaluate(measured / "run", measured / "clips", split="train", out=tmp_path / "other", **options)
    page = shown(tmp_path / "other" / "report.html")
    assert "Part train, 1 x 1 clips" in page
    assert f"--out {measured / 'run'}" in page and f"--out {tmp_path}" not in page.split("Training")[0].splitlines()[0]


def test_a_page_can_be_made_from_another_folder(measured, tmp_path, monkeypatch):
    monkeypatch.chdir(measured)
    model = Brightness()
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ("flat", "dark", "rising")})
    tubelet.evaluate(model, "clips", views=1, crops=1, workers=0, audit=False, out=tmp_path)
    assert len(Page(tmp_path / "report.html").all("video")) > 0
    monkeypatch.chdir(tmp_path)
    before = Page(tmp_path / "report.html").all("video")
    page = tubelet.report(tmp_path)
    assert [each["src"] for each in Page(page).all("video")] == [each["src"] for each in before]
    assert f"The files are in {measured / 'clips'}" in shown(page)


def test_an_interval_that_is_not_known_is_left_out(measured, tmp_path):
    found = json.loads((measured / "run" / "evaluate" / "evaluate.json").read_text())
    found["summary"] |= {"top1_low": None, "top1_high": None}
    (tmp_path / "evaluate.json").write_text(json.dumps(found))
    assert "95 % interval" not in shown(tubelet.report(tmp_path))


def test_many_classes_are_a_table_of_pairs(measured, tmp_path):
    """Of 51 classes, i is taken for the next one i times: the matrix would be too small to read."""
    shutil.copy(measured / "run" / "evaluate" / "evaluate.json", tmp_path)
    found = json.loads((tmp_path / "evaluate.json").read_text())
    confusion = torch.diag(torch.full((51,), 50)) + torch.diag(torch.arange(50), 1)
    found |= {"classes": [f"word {i}" for i in range(51)], "confusion": confusion.tolist(), "mistakes": []}
    (tmp_path / "evaluate.json").write_text(json.dumps(found))
    page = tubelet.report(tmp_path)
    rows = Page(page).cells
    at = rows.index(["target", "taken for", "times", "of its samples (%)"])
    assert rows[at + 1] == ["word 49", "word 50", "49", "49.5"]
    assert rows[at + MOST_PAIRS][:3] == ["word 20", "word 21", "20"]
    assert "1,225 wrong answers in 49 pairs of the 51 classes" in shown(page) and "No answer is wrong" in shown(page)


def test_a_missing_extra_is_one_line_and_the_figures_stay(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    options = {"views": 1, "crops": 1, "workers": 0, "audit": False, "out": tmp_path}
    model = Brightness()
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ("dark", "flat", "rising")})
    assert tubelet.evaluate(model, measured / "clips", **options).summary["samples"] == 6
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "report.html" in line)
    assert "tubelet[plot]" in line and not (tmp_path / "report.html").exists()


def test_a_network_in_memory_has_no_command(measured, tmp_path):
    model = Brightness()
    model.spec = tubelet.ClipSpec.from_dict({**model.spec.to_dict(), "classes": ("dark", "flat", "rising")})
    tubelet.evaluate([model, model], measured / "clips", views=1, crops=1, workers=0, audit=False, out=tmp_path)
    page = shown(tmp_path / "report.html")
    assert "Measured from Python, on a network in memory" in page and "top1 of 1-Brightness" in page


# Masks


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A `run` with reasons, and masks measured into it: whole, one voxel of four off, and without one of two cubes."""
    pytest.importorskip("SimpleITK")
    root = tmp_path_factory.mktemp("masked")
    grid = Grid((12, 12, 12), (2.0, 1.0, 1.0))
    rows = [("image", "label", "split")]
    for number, (shift, has_right) in enumerate([(0, True), (1, True), (0, False)]):
        truth = np.zeros(grid.size, np.uint8)
        truth[2:6, 2:6, 2:6], truth[7:9, 7:9, 7:9] = 1, 2
        answer = np.roll(truth, shift, 0) * (1 if has_right else truth < 2)
        files = {"scans": truth.astype(np.float32), "truth": truth, "answers": answer.astype(np.uint8)}
        for folder, array in files.items():
            (root / folder).mkdir(exist_ok=True)
            write_volume(root / folder / f"case{number}.nii.gz", array, grid)
        rows.append((f"scans/case{number}.nii.gz", f"truth/case{number}.nii.gz", "val"))
    with (root / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    run = root / "run"
    run.mkdir()
    arguments = {"data": str(root), "model": "plain_unet3d", "task": "segment", "out": str(run), "distort": None}
    (run / "run.json").write_text(json.dumps(arguments | {"plan": str(run / "plan.json")}))
    (run / "plan.json").write_text(json.dumps({"reasons": ["batch 2: memory for no more", "as asked"]}))
    (run / "metrics.csv").write_text("epoch,train_loss,val_loss,val_dice,seconds\n1,1,1,0.5,9\n2,0.5,0.6,0.75,9\n")
    tubelet.evaluate(root / "answers", root / "cases.csv", task="segment", out=run / "evaluate", workers=0)
    return root


def tiles_of(path):
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", path.read_text()))


def test_masks_have_a_page_of_their_own(masked):
    """One voxel of four off: Dice 3/4 of the large cube and 1/2 of the small one, whose faces are 2 mm away."""
    path = tubelet.report(masked / "run")
    page = Page(path)
    assert titles(path) == ["Commands", "Choices", "Training", "Figures", "Dice by case", "Worst cases", "Classes",
                            "Cases", "Data"]  # fmt: skip
    tiles = tiles_of(path)
    left, right = (1 + 0.75 + 1) / 3, (1 + 0.5 + 0) / 3
    assert tiles["Dice"] == f"{50 * (left + right):.1f} %" and tiles["samples"] == "3"
    assert tiles["HD95"].endswith(" mm") and tiles["missed structures"] == "1" and "95 % interval" in tiles
    assert ["batch 2", "memory for no more"] in page.cells and ["as asked", ""] in page.cells
    at = page.cells.index(["class", "Dice (%)", "IoU (%)", "HD95 (mm)", "surface Dice (%)", "cases that miss it"])
    assert page.cells[at + 1][1] == f"{100 * right:.1f}" and page.cells[at + 1][-1] == "1"
    assert page.cells[at + 2][1] == f"{100 * left:.1f}" and page.cells[at + 2][-1] == "0"
    at = next(i for i, row in enumerate(page.cells) if row[:2] == ["case", "Dice (%)"])
    assert [row[0] for row in page.cells[at + 1 : at + 4]] == [f"case{i}.nii.gz" for i in (2, 1, 0)]
    assert page.cells[at + 1][1:] == ["50.0", "class 2", "0", "0", "class 2"]
    assert page.cells[at + 2][1:] == ["62.5", "class 2", "50", "2", ""]
    assert "tubelet train" in shown(path) and "--plan" not in shown(path)
    assert "Part val, whole scans" in shown(path) and str(masked / "scans") in shown(path)


def test_the_worst_scans_are_shown_worst_first(masked):
    images = Page(tubelet.report(masked / "run")).all("img")
    assert len(images) == 2 + 3 and all(image["alt"] for image in images)
    assert images[0]["alt"] == "Loss and Dice of run over its 2 epochs"
    told = [image["alt"].split("\n") for image in images[2:]]
    assert told[0] == ["case2.nii.gz: Dice 50.0 %", "class 2 0.0 %, missed; class 1 100.0 %, HD95 0.0 mm"]
    assert told[1] == ["case1.nii.gz: Dice 62.5 %", "class 2 50.0 %, HD95 2.0 mm; class 1 75.0 %, HD95 2.0 mm"]
    assert told[2][0] == "case0.nii.gz: Dice 100.0 %"


def test_classes_that_no_scan_has_and_many_classes(masked, tmp_path):
    shutil.copytree(masked / "run" / "evaluate", tmp_path / "evaluate")
    place = tmp_path / "evaluate"
    found = json.loads((place / "evaluate.json").read_text())
    names = [f"part {i}" for i in range(6)]
    row = found["per_class"][0] | {"missed": 0, "dice": 0.25}
    of_none = dict.fromkeys(("dice", "iou", "hd95_mm", "surface_dice"))
    rows = [row | {"class": name} | (of_none if name != "part 5" else {}) for name in names]
    found |= {"classes": ["background", *names], "per_class": rows, "summary": found["summary"] | {"hd95_mm": None}}
    (place / "evaluate.json").write_text(json.dumps(found))
    values = [["nan"] * 4] * 5 + [["0.25", "0.2", "3", "0.5"]]
    with (place / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", "dice", "iou", "hd95_mm", "surface_dice", "voxels"])
        for case in ("b/1.nii", "b/c/2.nii"):
            writer.writerows([case, name, *row, 5] for name, row in zip(names, values, strict=True))
    path = tubelet.report(place)
    page = Page(path)
    assert tiles_of(path)["HD95"] == "-"
    at = next(i for i, row in enumerate(page.cells) if row[:2] == ["class", "Dice (%)"])
    assert page.cells[at + 1][:2] == ["part 5", "25"] and page.cells[at + 2] == ["part 0", *"----", "0"]
    captions = [image["alt"] for image in page.all("img")[1:]]
    assert captions[0].startswith("1.nii: Dice 25.0 %\npart 5 25.0 %, HD95 3.0 mm; part 0 -")
    assert captions[0].endswith("; 2 more classes") and len(captions) == 2  # the third is of no scan
    at = next(i for i, row in enumerate(page.cells) if row[:2] == ["case", "Dice (%)"])
    assert page.cells[at + 2] == ["c/2.nii", "25", "part 5", "25", "3"]


def test_scans_that_are_gone_leave_the_figures_and_damaged_ones_are_named(masked, tmp_path):
    shutil.copytree(masked / "run" / "evaluate", tmp_path / "evaluate")
    place = tmp_path / "evaluate"
    lines = (place / "cases.csv").read_text().splitlines()
    for damaged in ([*lines[:-1]], [*lines[:-1], "x,y,z,1,1,1,1"]):
        (place / "cases.csv").write_text("\n".join(damaged))
        with pytest.raises(ValueError, match=r"cases\.csv: .*; evaluate again"):
            tubelet.report(place)
    (place / "cases.csv").unlink()
    path = tubelet.report(place)
    assert titles(path) == ["Commands", "Figures", "Classes", "Data"]


def test_a_run_of_masks_that_is_not_measured(masked, tmp_path):
    for name in ("run.json", "plan.json", "metrics.csv"):
        shutil.copy(masked / "run" / name, tmp_path / name)
    path = tubelet.report(tmp_path)
    assert titles(path) == ["Commands", "Choices", "Training", "Data"]
    assert tiles_of(path) == {"Dice, best epoch": "75.0 %", "epochs": "2"}
    (tmp_path / "plan.json").write_text("[")
    with pytest.raises(ValueError, match=r"plan\.json: not whole"):
        tubelet.report(tmp_path)


# Commands


def test_the_commands_of_a_page_can_be_pasted(measured, monkeypatch):
    """Typed again, they ask for the very arguments of the run."""
    asked = {}
    verbs = {name: lambda values, name=name: asked.update({name: values}) for name in ("train", "evaluate")}
    monkeypatch.setattr(cli, "_COMMANDS", verbs)
    text = (measured / "run" / "evaluate" / "report.html").read_text()
    for line in re.findall(r"<pre.*?>(.*?)</pre>", text):
        program, *arguments = shlex.split(re.sub("<.*?>", "", line))
        assert program == "tubelet" and cli.main(arguments) == 0
    run = json.loads((measured / "run" / "run.json").read_text())
    again = {name: list(value) if isinstance(value, tuple) else value for name, value in asked["train"].items()}
    again.pop("resume")
    assert {name: value for name, value in again.items() if value is not None and name in run} == {
        name: value for name, value in run.items() if value is not None and name != "convolutions"
    }
    arguments = json.loads((measured / "run" / "evaluate" / "evaluate.json").read_text())["arguments"]
    assert asked["evaluate"] | {"model": cli._names(asked["evaluate"]["model"])} == arguments


@pytest.mark.parametrize(
    ("values", "typed"),
    [
        ({"epochs": 3, "lr": 0.01, "seed": 0, "short": "error"}, "--epochs 3 --lr 0.01"),
        ({"crop": [56, 72], "resize": "none", "fps": 25.0}, "--fps 25.0 --resize none --crop 56x72"),
        ({"augment": vars(Augment(zoom=1.25, flip=True))}, "--augment.zoom 1.25 --augment.flip true"),
        ({"augment": vars(RECIPES["plain"])}, "--augment.reverse false"),
        (
            {"augment": vars(RECIPES["strong"])},
            "--augment.area '[0.08, 1]' --augment.flip true --augment.randaugment 2 "
            "--augment.magnitude 7 --augment.erase 0.25",
        ),
        ({"mixing": vars(Mixing(mixup=0.2))}, "--mixing.mixup 0.2"),
        ({"distort": vars(Distort(noise=(0.1, 0, 0.5)))}, "--distort.noise '[0.1, 0, 0.5]'"),
        ({"spacing_mm": (3.0, 0.5, 0.5)}, "--spacing_mm '[3.0, 0.5, 0.5]'"),
        ({"spacing_mm": (1, 1, 1)}, "--spacing_mm '[1, 1, 1]'"),
        ({"crop": (96, 112)}, "--crop 96x112"),
        ({"is_norm_frozen": False}, "--is_norm_frozen false"),
    ],
)
def test_defaults_are_left_out(values, typed):
    values = json.loads(json.dumps({"data": "my videos", **values}))
    assert command(train, values) == f"tubelet train 'my videos' {typed}"


def test_every_argument_of_the_verbs_can_be_typed():
    for verb in (train, evaluate):
        for name in inspect.signature(verb).parameters.keys() - {"data", "augment", "mixing", "distort"}:
            assert f"--{name} 7" in command(verb, {"data": "x", name: 7})


def test_the_verb(measured, tmp_path, capsys):
    assert cli.main(["report", str(measured / "run"), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert cli.main(["report", str(measured / "clips")]) == 2
    assert capsys.readouterr().err.startswith("tubelet: ")


def test_the_script_of_the_page_is_whole(measured, tmp_path):
    """Node reads it, where there is one: a slip in the template would leave tables unsorted and say nothing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is absent")
    (script,) = re.findall(r"<script>(.*?)</script>", (measured / "run/evaluate/report.html").read_text(), re.DOTALL)
    (tmp_path / "page.js").write_text(script)
    subprocess.run([node, "--check", tmp_path / "page.js"], check=True, capture_output=True)


def test_a_mistake_of_a_scan_is_drawn_as_slices(tmp_path):
    scan, _ = painted(0)
    write_volume(tmp_path / "scan.nii.gz", scan, Grid(scan.shape[-3:], (3.0, 1.0, 1.0)))
    _draw_scan({"path": str(tmp_path / "scan.nii.gz")}, tmp_path / "mistake.png")
    assert (tmp_path / "mistake.png").read_bytes().startswith(b"\x89PNG")
