"""Runs on scans: what is planned is stored, replayed and resumed; masks, classes, any network, dense video."""

import json

import numpy as np
import pytest
import torch
from painted_scans import SIZE, Thresholds, painted, write_scans, write_table
from torch import nn

import tubelet
from tubelet import cli, feed, fit, plan, plot, segment
from tubelet.data.distort import Distort
from tubelet.data.sample import VideoData
from tubelet.data.scans import ScanWindows
from tubelet.data.volume import Grid, read_volume, write_volume

PLAIN = {"distort": Distort(), "workers": 0, "epochs": 2, "lr": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Networks of a few channels; no pages and pictures, which tests/test_cases.py has made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tubelet.evaluate.__globals__, "_write_page", lambda folder: None)
        patch.setattr(plot, "slices", lambda *_, **__: None)
        patch.setattr(plan, "WIDTHS", {"cpu": 4, "cuda": 4})
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = write_scans(tmp_path_factory.mktemp("scans"), 6)
    return write_table(root, [0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """An uninterrupted run."""
    return tubelet.train(table, out=tmp_path_factory.mktemp("run") / "run", **PLAIN)


def assert_same_weights(one, other):
    a, b = (torch.load(run / "last.ckpt", weights_only=False)["model"] for run in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_its_plan(whole, capsys):
    held = json.loads((whole.out / "plan.json").read_text())
    assert len(held["reasons"]) == 7 and held["channels"][0] == 4 and held["batch_size"] == 2
    arguments = json.loads((whole.out / "run.json").read_text())
    assert arguments["task"] == "segment"
    assert arguments["plan"] == str((whole.out / "plan.json").resolve()) and arguments["crop"] is None
    network = whole.load()
    assert network.spec.classes == ("background", "class 1", "class 2") and network.spec.intensity.kind == "z_score"
    assert (network.spec.num_frames, *network.spec.crop) == (20, 24, 20) and network.spec.orientation == "SPL"
    assert whole.figure == "val_dice" and {"val_dice", "val_iou", "val_loss"} <= whole.history[0].keys()


def test_run_json_replays_the_run(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "WIDTHS", {"cpu": 8, "cuda": 8})  # what would be chosen now is another network
    assert cli.main(["train", "--config", str(whole.out / "run.json"), "--out", str(tmp_path / "again")]) == 0
    assert_same_weights(whole.out, tmp_path / "again")
    told = capsys.readouterr().err
    assert "plain_unet3d on 4 scans of 3 classes, 2 to validate; windows 20x24x20; adamw, batch 2" in told
    assert not {"frames", "stride", "augment", "clips", "mixing", "class_weights"} & {
        word.strip(",:") for line in told.splitlines() if not line.strip().startswith("lr") for word in line.split()
    }
    assert (tmp_path / "again" / "plan.json").read_text() == (whole.out / "plan.json").read_text()


def test_changes_fade_until_the_last_epoch(table, tmp_path, monkeypatch):
    def seen(self, epoch):
        fades.add(self.fades)
        return augment(self, epoch)

    fades, augment = set(), ScanWindows._augment
    monkeypatch.setattr(ScanWindows, "_augment", seen)
    tubelet.train(table, out=tmp_path / "run", **{**PLAIN, "epochs": 5})
    assert fades == {(2, 4)}


def test_an_interrupted_run_is_gone_on_with(whole, table, tmp_path, monkeypatch):
    read = ScanWindows.__getitem__

    def interrupted(self, key):
        if key[0] == 1:
            raise KeyboardInterrupt
        return read(self, key)

    monkeypatch.setattr(ScanWindows, "__getitem__", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch 2 of 2"):
        tubelet.train(table, out=tmp_path / "run", **PLAIN)
    monkeypatch.setattr(ScanWindows, "__getitem__", read)
    monkeypatch.setattr(plan, "WIDTHS", {"cpu": 8, "cuda": 8})
    run = tubelet.train(table, out=tmp_path / "run", resume=True, **PLAIN)
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert_same_weights(whole.out, run.out)


@pytest.mark.slow
def test_layouts_and_choices(table, tmp_path, capsys):
    listed = [{"image": f"images/c{i:02}.nii.gz", "label": f"labels/c{i:02}.nii.gz"} for i in range(6)]
    names = {"0": "background", "1": "ball", "2": "cube"}
    (table.parent / "dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": names, "training": listed[:4], "validation": listed[4:]})
    )
    try:
        status = cli.main(
            ["train", str(table.parent / "dataset.json"), "--epochs", "1", "--workers", "0",
             "--intensity", "window -120 120", "--spacing_mm", "[2,1,1]", "--num_frames", "8", "--crop", "16x12",
             "--distort", "none", "--out", str(tmp_path / "run")]
        )  # fmt: skip
    finally:
        (table.parent / "dataset.json").unlink()
    assert status == 0
    spec = tubelet.load(tmp_path / "run").spec
    assert spec.classes == ("background", "ball", "cube") and (spec.num_frames, *spec.crop) == (8, 16, 12)
    assert spec.spacing_mm == (2.0, 1.0, 1.0) and spec.intensity == ("window", -120.0, 120.0)
    assert capsys.readouterr().err.count("as asked") >= 4
    table.rename(table.with_suffix(".off"))
    try:
        run = tubelet.train(table.parent, model="tiny", out=tmp_path / "tiny", **{**PLAIN, "epochs": 1})
        assert type(run.load().head).__name__ == "Segment"
        assert tubelet.evaluate(run.out, table.parent).summary["samples"] == 1  # the fifth that was set aside
    finally:
        table.with_suffix(".off").rename(table)


def test_from_training_to_masks_and_figures(whole, table, tmp_path, capsys):
    out = tmp_path / "masks"
    assert cli.main(["predict", str(table.parent / "images"), "--model", str(whole.out), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.err.count("wrote ") == 6 and "ml" in told.out
    for model, name in ((whole.out, "e"), (out, "m")):
        assert cli.main(["evaluate", str(table), "--model", str(model), "--out", str(tmp_path / name)]) == 0
    summaries = [json.loads((tmp_path / name / "evaluate.json").read_text())["summary"] for name in "em"]
    assert summaries[0] == summaries[1] and summaries[0]["samples"] == 2
    further = write_scans(tmp_path / "further", 3)  # nothing tells their parts
    assert tubelet.evaluate(whole.out, further, out=tmp_path / "f").summary["samples"] == 3


def test_sides_that_a_class_file_names_are_not_mixed_in_prediction(tmp_path, monkeypatch):
    table = write_table(write_scans(tmp_path, 3), [0, 0, 1])
    (tmp_path / "classes.csv").write_text("name,mirrored\nbackground,\nball,cube\ncube,ball\n")
    monkeypatch.setattr(fit, "open_fabric", lambda **_: pytest.exit("no need to train"))
    network = Thresholds()
    options = {**PLAIN, "distort": Distort(flip=(0, 1, 2)), "memory": "plain", "out": tmp_path / "run"}
    with pytest.raises(pytest.exit.Exception):
        tubelet.train(table, model=network, **options)
    assert network.spec.orientation == "SPL" and network.spec.mirror_axes == (0, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num_frames", "8"], "num_frames 8, crop None: of scans give both"),
        (["--fps", "3"], "fps is for videos, and the data has none"),
        (["--augment", "flip"], "no such recipe"),
        (["--augment.flip", "true"], "augment"),
        (["--intensity", "soft"], "intensity 'soft'"),
        (["--spacing_mm", "[0,1,1]"], "spacing_mm"),
        (["--distort", "strong"], "--distort strong: no such recipe; there is none, light, nnunet, varied"),
        (["--plan", "gone.json"], "plan gone.json: no such file"),
        (["--fold", "9"], "fold 9; there is 0, 1, 2"),
        (["--task", "classify"], "give task segment"),
        (["--loss", "binary"], "loss"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(table, tmp_path, capsys, options, says):
    status = cli.main(["train", str(table), "--workers", "0", "--out", str(tmp_path / "run"), *options])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tubelet: ")]
    assert status == 2 and len(lines) == 1 and says in lines[0] and "Traceback" not in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [{"spacing_mm": (1.0, 1.0, 1.0)}, {"distort": Distort(flip=(0,))}, {"plan": "x"}])
def test_options_of_scans_are_not_for_videos(tmp_path, monkeypatch, option):
    monkeypatch.setattr(feed, "open_parts", lambda *_: VideoData(("a", "b"), {"train": [], "val": []}))
    with pytest.raises(ValueError, match=f"{next(iter(option))} is for scans, and the data has none"):
        tubelet.train(tmp_path / "data", model="tiny", out=tmp_path / "run", **option)


def test_a_label_that_is_no_class_is_told_before_anything_is_written(tmp_path):
    root = write_scans(tmp_path / "data", 5)
    (root / "classes.txt").write_text("background\nball\n")
    with pytest.raises(
        ValueError, match=r"^[^:]*labels/c0\d\.nii\.gz: label 2, and the classes are 0 to 1; correct the"
    ):
        tubelet.train(root, out=tmp_path / "runs" / "run", **PLAIN)
    for i in range(4):
        mask = read_volume(root / "labels" / f"c{i:02}.nii.gz")
        write_volume(root / "labels" / f"c{i:02}.nii.gz", np.minimum(mask.array, 1), mask.grid)
    with pytest.raises(ValueError, match=r"^[^:]*labels/c04\.nii\.gz: label 2.*--on_bad skip"):
        tubelet.train(root, out=tmp_path / "runs" / "run", **PLAIN)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_bad_scan_ends_the_run_or_is_left_out(tmp_path):
    table = write_table(write_scans(tmp_path / "data", 6), [0, 1, 2, 0, 1, 2])
    (tmp_path / "data" / "images" / "c00.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ValueError, match=r"c00\.nii\.gz"):
        tubelet.train(table, out=tmp_path / "run", **PLAIN)
    assert not (tmp_path / "run").exists()
    run = tubelet.train(table, out=tmp_path / "run", on_bad="skip", **{**PLAIN, "epochs": 1})
    assert len(run.bad) == 1


def test_classes_of_scans(tmp_path, capsys):
    for i in range(8):
        scan, _ = painted(i)
        name = "bright" if i % 2 else "dark"
        (tmp_path / "scans" / name).mkdir(parents=True, exist_ok=True)
        write_volume(tmp_path / "scans" / name / f"{i}.nii.gz", scan + 200 * (i % 2), Grid(SIZE, (1.0, 1.0, 1.0)))
    options = {**PLAIN, "epochs": 1, "batch_size": 2}
    run = tubelet.train(tmp_path / "scans", model="tiny", num_frames=8, crop=16, intensity="window -200 400",
                        out=tmp_path / "run", **options)  # fmt: skip
    told = capsys.readouterr().err
    assert "mirrored along no axis" in told and "stages" not in told
    assert "stages" not in str(plan.read(run.out / "plan.json").reasons)
    spec = run.load().spec
    assert spec.classes == ("bright", "dark") and spec.intensity.kind == "window" and spec.in_channels == 1
    table = tubelet.evaluate(run.out, tmp_path / "scans")
    assert table.summary["samples"] == 2 and table.summary["top1"] == run.best["val_top1"]
    found = tubelet.predict(run.out, tmp_path / "scans")
    assert len(found.sources) == 8 and "scan" in str(found.top()) and "from s" not in str(found.top())
    parts = ["val"] * 4 + ["train"] * 4
    rows = [f"scans/{'bright' if i % 2 else 'dark'}/{i}.nii.gz,{'ba'[i % 2]},{part}" for i, part in enumerate(parts)]
    (tmp_path / "cases.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    small = {"model": "tiny", "num_frames": 8, "crop": 16}
    listed = tubelet.train(tmp_path / "cases.csv", out=tmp_path / "run2", **small, **options)
    assert listed.load().spec.classes == ("a", "b")
    capsys.readouterr()
    for out, status in (("seen.json", 0), ("seen", 0), ("seen.mp4", 2)):
        code = cli.main(["predict", str(tmp_path / "scans"), "--model", str(run.out), "--out", str(tmp_path / out)])
        assert code == status, capsys.readouterr().err
    with pytest.raises(ValueError, match="views and crops are for videos"):
        tubelet.evaluate(run.out, tmp_path / "scans", views=3)
    for out in ("python.csv", "python"):  # as from the command line
        assert len(tubelet.predict(run.out, tmp_path / "scans", out=tmp_path / out).sources) == 8
    assert (tmp_path / "python.csv").read_text() == (tmp_path / "python" / "windows.csv").read_text()
    assert (tmp_path / "python" / "windows.json").read_text() == (tmp_path / "seen.json").read_text()
    with pytest.raises(ValueError, match=r"x\.mp4: scans are not drawn"):
        tubelet.predict(run.out, tmp_path / "scans", out="x.mp4")


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (
            [nn.Conv3d(1, 2, 20), nn.AdaptiveAvgPool3d(1), nn.Flatten()],
            r"does not take a window \(1, 1, 16, 16, 16\): ",
        ),
        ([nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 3)], "tells 3 classes apart, and .* has 2 classes"),
        ([nn.Conv3d(1, 2, 1)], "does not answer for each scan, and .* has 2 classes"),
    ],
)
def test_a_classifier_that_does_not_fit_is_told_before_anything_is_written(tmp_path, layers, says):
    for i in range(4):
        (tmp_path / "scans" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        write_volume(tmp_path / "scans" / "ab"[i % 2] / f"{i}.nii.gz", painted(i)[0], Grid(SIZE, (1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match=f"^Sequential {says}"):
        tubelet.train(
            tmp_path / "scans", model=nn.Sequential(*layers), num_frames=16, crop=16, out=tmp_path / "run", **PLAIN
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_of_monai(table, tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    features = (8, 8, 16, 16, 16, 8)
    network = nets.BasicUNet(spatial_dims=3, in_channels=1, out_channels=3, features=features)
    options = {**PLAIN, "num_frames": 32, "crop": 32, "epochs": 2, "lr": 1e-2}
    run = tubelet.train(table, model=network, out=tmp_path / "run", **options)
    assert tubelet.evaluate(network, table, out=tmp_path / "e").summary["samples"] == 2
    again = run.load(model=nets.BasicUNet(spatial_dims=3, in_channels=1, out_channels=3, features=features))
    assert tubelet.evaluate(again, table, out=tmp_path / "a").summary["samples"] == 2
    found = tubelet.predict(network, table.parent / "images", out=tmp_path / "masks")
    assert len(found.cases) == 6 and run.best["val_dice"] > 0
    wrong = nets.BasicUNet(spatial_dims=3, in_channels=1, out_channels=4, features=features)
    with pytest.raises(ValueError, match=r"BasicUNet tells 4 classes apart, and .* has 3 classes"):
        tubelet.train(table, model=wrong, out=tmp_path / "wrong", **options)
    wrong = nets.BasicUNet(spatial_dims=3, in_channels=2, out_channels=3, features=features)
    with pytest.raises(ValueError, match="BasicUNet does not take a window"):
        tubelet.train(table, model=wrong, out=tmp_path / "wrong", **options)
    with pytest.raises(ValueError, match=r"BasicUNet does not take a window .* more than 1 spatial element"):
        tubelet.train(table, model=network, out=tmp_path / "wrong", **{**options, "num_frames": 16, "crop": 16})
    assert not (tmp_path / "wrong").exists()


def moving(seed, frames=12, side=32):
    """A clip (3, T, H, W) of two discs of noise on noise, of which one moves: its mask (T, H, W)."""
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 256, (frames, side, side)).astype(np.uint8)
    h, w = np.mgrid[:side, :side]
    texture = rng.integers(0, 256, (side, side)).astype(np.uint8)
    mask = np.zeros((frames, side, side), np.uint8)
    start, step = rng.integers(8, side - 8, 2), rng.choice([-1, 1], 2)
    place = start.astype(int)
    rest = (start + side // 2) % side
    still = (h - np.clip(rest[0], 6, side - 7)) ** 2 + (w - np.clip(rest[1], 6, side - 7)) ** 2 < 25
    for t in range(frames):
        clip[t] = rng.integers(0, 256, (side, side)) // 4 + 96
        clip[t][still] = texture[still]
        step = np.where((place + step < 6) | (place + step > side - 7), -step, step)
        place = place + step
        disc = (h - place[0]) ** 2 + (w - place[1]) ** 2 < 25
        clip[t][disc] = np.roll(texture, tuple(place), (0, 1))[disc]
        mask[t][disc] = 1
    return np.stack([clip] * 3), mask


@pytest.mark.slow
def test_dense_labels_over_video(tmp_path):
    """A disc that moves, beside one that is alike and rests: no frame by itself tells which is which."""
    for i in range(40):
        for folder, array in zip(("images", "labels"), moving(i), strict=True):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "data" / folder / f"clip{i:02}.npy", array)
    run = tubelet.train(
        tmp_path / "data", distort=Distort(flip=(0, 1, 2)), epochs=12, lr=5e-3, workers=0,
        out=tmp_path / "run",
    )  # fmt: skip
    assert run.best["val_dice"] > 0.8
    found = {"moving": [], "frozen": []}
    for i in (99, 100, 101):
        clip, mask = moving(i, frames=20)
        still = np.repeat(clip[:, 10:11], 20, 1), np.repeat(mask[10:11], 20, 0)
        for name, (x, truth) in {"moving": (clip, mask), "frozen": still}.items():
            (case,) = tubelet.predict(run.out, x).cases
            found[name].append(2 * (case.labels & truth).sum() / (case.labels.sum() + truth.sum()))
    assert np.mean(found["moving"]) > 0.8 > 0.7 > np.mean(found["frozen"]), found
    assert segment.dense_classes(run.load(), run.load().spec) == 2
