import json

import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Sample, Span


def video(subset, *annotations, **more):
    spans = [{"segment": [start, end], "label": label} for start, end, label in annotations]
    return {"subset": subset, "duration": 82.73, "url": "https://", "annotations": spans, **more}


OFFICIAL = {
    "version": "VERSION 1.3",
    "taxonomy": [{"parentName": "a long list"}] * 500,
    "database": {
        "QOlSCBRmfWY": video("training", (6.19, 77.73, "Ballet"), (78, 80.5, "Longboarding")),
        "gone4567890": video("training", (1, 2, "Ballet")),
        "ehGHCYKzyZ8": video("validation", (0.01, 1.0, "Longboarding"), (5, 5, "Ballet")),
        "NgFn1f_8Btg": video("testing"),
    },
}


@pytest.fixture
def activitynet(touch):
    return touch("videos/v_QOlSCBRmfWY.mp4", "videos/v_ehGHCYKzyZ8.mkv", "videos/v_NgFn1f_8Btg.mp4")


def test_spans(activitynet, write, caplog):
    file = write("activity_net.v1-3.min.json", json.dumps(OFFICIAL))
    with caplog.at_level("INFO", "tubelet"):
        data = open_data(file.parent)
    assert (data.task, data.classes, data.missing) == ("frames", ("Ballet", "Longboarding"), 1)
    spans = (Span(6.19, 77.73, 0), Span(78, 80.5, 1))
    assert data.splits["train"] == [
        Sample(activitynet / "videos/v_QOlSCBRmfWY.mp4", spans, unit="s", group="QOlSCBRmfWY")
    ]
    assert [sample.target for sample in data.splits["val"]] == [(Span(0.01, 1.0, 1),)]
    assert "test" not in data.splits
    assert "1 videos without annotations and 1 empty spans; left out" in caplog.text


def test_the_subset_goes_before_the_name_of_the_file(activitynet, write):
    data = open_data(write("activity_net_val.json", json.dumps(OFFICIAL)))
    assert [sample.path.stem for sample in data.splits["val"]] == ["v_ehGHCYKzyZ8"]


def test_a_span_that_begins_nowhere_is_left_out(activitynet, write):
    more = video("training", (float("nan"), 3, "Ballet"), (4, 5, "Ballet"))
    database = OFFICIAL["database"] | {"QOlSCBRmfWY": more}
    data = open_data(write("activity_net.v1-3.min.json", json.dumps(OFFICIAL | {"database": database})))
    assert [sample.target for sample in data.splits["train"]] == [(Span(4, 5, 0),)]


def test_each_span_as_a_sample(activitynet, write):
    data = open_data(write("activity_net.v1-3.min.json", json.dumps(OFFICIAL)), task="classify")
    path = activitynet / "videos/v_QOlSCBRmfWY.mp4"
    assert data.splits["train"] == [
        Sample(path, 0, 6.19, 77.73, unit="s", group="QOlSCBRmfWY"),
        Sample(path, 1, 78, 80.5, unit="s", group="QOlSCBRmfWY"),
    ]


def test_the_form_of_mmaction2(frames, write):
    frames("rawframes/v_QOlSCBRmfWY", "rawframes/v_ehGHCYKzyZ8")
    form = {"duration_second": 82.73, "duration_frame": 2067, "feature_frame": 2064, "fps": 25.0}
    one = {"v_QOlSCBRmfWY": {**form, "annotations": [{"segment": [6.19, 77.73], "label": "Ballet"}]}}
    two = {"v_ehGHCYKzyZ8": {**form, "annotations": [{"segment": [0.0, 77.73], "label": "Ballet"}]}}
    train = write("annotations/anet_anno_train.json", json.dumps(one))
    write("annotations/anet_anno_val.json", json.dumps(two))
    for path in (train, train.parent, train.parents[1]):
        data = open_data(path)
        assert [len(data.splits[split]) for split in ("train", "val")] == [1, 1]
    assert data.splits["train"][0].path.name == "v_QOlSCBRmfWY"
    assert data.splits["train"][0].fps == pytest.approx(2067 / 82.73)


def test_thumos_trains_on_its_validation_part(touch, write):
    database = {
        "video_validation_0000690": video("Validation", (7.1, 10.9, "BaseballPitch"), fps=30.0),
        "video_test_0000004": video("Test", (0.2, 1.1, "CricketBowling"), (0.2, 1.1, "BaseballPitch"), fps=30.0),
    }
    touch(*(f"video/{name}.mp4" for name in database))
    data = open_data(write("thumos14.json", json.dumps({"version": "Thumos14-30fps", "database": database})))
    assert {split: [s.path.stem for s in samples] for split, samples in data.splits.items()} == {
        "train": ["video_validation_0000690"], "val": ["video_test_0000004"],
    }  # fmt: skip
    assert data.splits["val"][0].target == (Span(0.2, 1.1, 1), Span(0.2, 1.1, 0))


def test_what_thumos_calls_ambiguous_is_no_class(touch, write, caplog):
    database = {
        "video_validation_0000690": video("Validation", (7.1, 10.9, "BaseballPitch"), (1, 2, "Ambiguous"), fps=30.0),
        "video_test_0000004": video("Test", (0.2, 1.1, "BaseballPitch"), fps=30.0),
    }
    touch(*(f"video/{name}.mp4" for name in database))
    caplog.set_level("INFO", logger="tubelet")
    data = open_data(write("thumos14.json", json.dumps({"version": "Thumos14-30fps", "database": database})))
    assert data.classes == ("BaseballPitch",) and "1 spans are marked Ambiguous; left out" in caplog.text
    assert data.splits["train"][0].target == (Span(7.1, 10.9, 0),)


def test_hacs_segments(touch, write):
    touch("v_--0edUL8zmA.mp4", "v_--8jh-IsoHw.mp4")
    database = {
        "--0edUL8zmA": video("training", (1, 2, "Archery")),
        "--8jh-IsoHw": video("validation", (1, 2, "Archery")),
    }
    data = open_data(write("HACS_segments_v1.1.1.json", json.dumps({"database": database})))
    assert [len(data.splits[split]) for split in ("train", "val")] == [1, 1]


def resnets(**annotations):
    subsets = {"v_Run_g01_c01": "training", "v_Dive_g02_c01": "training", "v_Run_g03_c01": "validation"}
    database = {
        name: {"subset": subset, "annotations": {"label": name.split("_")[1], **annotations}}
        for name, subset in subsets.items()
    }
    database["v_X_g04_c01"] = {"subset": "testing", "annotations": {}}
    return json.dumps({"labels": ["Run", "Dive"], "database": database})


@pytest.mark.parametrize(("segment", "part"), [({}, (0, None)), ([1, 31], (0, None)), ([11, 31], (10, 30))])
def test_the_form_of_3d_resnets(frames, write, segment, part):
    frames("jpg/Run/v_Run_g01_c01", "jpg/Dive/v_Dive_g02_c01", "jpg/Run/v_Run_g03_c01", name="image_{:05}.jpg")
    data = open_data(write("ucf101_01.json", resnets(**({"segment": segment} if segment else {}))).parent)
    assert (data.layout, data.classes) == ("3D-ResNets json (ucf101_01.json)", ("Run", "Dive"))
    train, val = ([(each.path.name, each.target) for each in data.splits[split]] for split in ("train", "val"))
    assert train == [("v_Run_g01_c01", 0), ("v_Dive_g02_c01", 1)] and val == [("v_Run_g03_c01", 0)]
    assert (data.splits["train"][0].start, data.splits["train"][0].end) == part


def test_a_wrong_file_of_3d_resnets(write):
    with pytest.raises(ValueError, match=r"video v_Run_g01_c01: .*; get the file again"):
        open_data(write("ucf101_01.json", resnets(segment="1-31")))


ERRORS = {
    "a subset that is not known": ({"x": video("half", (1, 2, "a"))}, r"video x: split 'half' is none of"),
    "annotations of another form": (
        {"x": {"subset": "training", "annotations": {"label": "a", "segment": [1, 2]}}},
        r"video x: annotation 'label' is not \{segment: \[start, end\], label\}",
    ),
    "a database that is none": ([], r"`database` is no map of videos; get the file again"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_wrong_files(write, what):
    database, message = ERRORS[what]
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        open_data(write("a.json", json.dumps({"database": database})))
