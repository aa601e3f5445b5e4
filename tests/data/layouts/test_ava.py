import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Actor, Sample

ONE, TWO, THREE = "-5KQ66BBWC4", "_7oWZq_s_Sk", "1j20qq1JyX4"
NAMES = {1: "bend/bow (at the waist)", 12: "stand", 17: "carry/hold (an object)", 80: "watch (a person)"}


@pytest.fixture
def ava(write):
    write("annotations/ava_train_v2.2.csv",
          f"{ONE},0902,0.077,0.151,0.283,0.811,80,1", f"{ONE},0902,0.077,0.151,0.283,0.811,12,1",
          f"{ONE},0902,0.226,0.032,0.366,0.497,12,0", f"{ONE},0903,0.077,0.151,0.283,0.811,17,1",
          f"{TWO},1797,0.000,0.000,1.000,1.000,1,5", f"{TWO},1798,,,,,,")  # fmt: skip
    write("annotations/ava_val_v2.2.csv", f"{THREE},0950,0.1,0.2,0.3,0.4,12,7")
    write("annotations/ava_train_excluded_timestamps_v2.2.csv", f"{ONE},0903")
    write("annotations/ava_val_excluded_timestamps_v2.2.csv", f"{ONE},0902")
    return write("annotations/ava_included_timestamps_v2.2.txt", "0902", "0903").parents[1]


def label_map(names, key="label_id"):
    block = "label" if key == "label_id" else "item"
    return [
        f'{block} {{\n  name: "{name}"\n  {key}: {number}\n  label_type: PERSON_MOVEMENT\n}}' for number, name in names
    ]


@pytest.fixture
def maps(write):
    write("annotations/ava_action_list_v2.2.pbtxt", *label_map(NAMES.items()))
    evaluated = [(number, name) for number, name in NAMES.items() if number != 17]
    write("annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt", *label_map(evaluated, "id"))


def test_whole_films(ava, maps, touch):
    touch(*(f"videos/{video}.mkv" for video in (ONE, TWO, THREE)))
    data = open_data(ava)
    assert data.layout == "AVA csv (ava_train_v2.2.csv, ava_val_v2.2.csv)"
    assert (data.task, data.classes) == ("detect", tuple(NAMES.values()))
    assert data.evaluated == (0, 1, 3)
    actors = (Actor(0.077, 0.151, 0.283, 0.811, (1, 3)), Actor(0.226, 0.032, 0.366, 0.497, (1,)))
    assert data.splits["train"] == [  # second 903 is excluded
        Sample(ava / f"videos/{ONE}.mkv", actors, moment=902, unit="s", group=ONE),
        Sample(ava / f"videos/{TWO}.mkv", (Actor(0, 0, 1, 1, (0,)),), moment=1797, unit="s", group=TWO),
    ]
    assert data.splits["val"][0].moment == 950


@pytest.mark.parametrize("name", ["{video}_{{:06}}.jpg", "img_{{:05}}.jpg"])
def test_frames_begin_at_900_seconds(ava, maps, frames, name):
    for video in (ONE, TWO, THREE):
        frames(f"frames/{video}", name=name.format(video=video))
    sample = open_data(ava / "annotations/ava_val_v2.2.csv").splits["val"][0]
    assert (sample.moment, sample.unit, sample.fps) == (50, "s", 30)


def test_cut_copies_begin_at_900_seconds(ava, maps, touch):
    touch(*(f"videos_15min/{video}.mp4" for video in (ONE, TWO, THREE)))
    sample = open_data(ava).splits["val"][0]
    assert (sample.moment, sample.fps) == (50, None)


def test_ones_own_data_in_this_form(frames, write):
    frames("rawframes/lobby_1", "rawframes/lobby_2")
    write("my_train.csv", "lobby_1.mp4,0,0.1,0.1,0.2,0.2,1,-1", "lobby_1.mp4,1.5,0.1,0.1,0.2,0.2,2,0")
    data = open_data(write("my_val.csv", "lobby_2,12,0,0,1,1,1,0").parent)
    assert [sample.moment for samples in data.splits.values() for sample in samples] == [0, 1.5, 12]


def test_without_a_label_map(ava, touch):
    touch(*(f"videos/{video}.mp4" for video in (ONE, TWO, THREE)))
    data = open_data(ava)
    assert data.classes == ("1", "12", "80")
    assert data.evaluated == ()


def test_two_versions_are_ambiguous(ava, write):
    write("annotations/ava_train_v2.1.csv", f"{ONE},0902,0.077,0.151,0.283,0.811,80,1")
    with pytest.raises(
        ValueError, match=r"2 annotations \(ava_train_v2\.1\.csv; ava_train_v2\.2\.csv, ava_val.*\); give"
    ):
        open_data(ava)


ERRORS = {
    "an action that is not known": (
        f"{ONE},0902,0.1,0.1,0.2,0.2,81,1",
        r"row 1 \(.*\): action 81 is not in the label map",
    ),
    "a box outside": (f"{ONE},0902,0.1,0.1,1.2,0.2,80,1", r"row 1 \(.*\): a box is x1, y1, x2, y2 in fractions"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_wrong_rows(ava, maps, write, what):
    row, message = ERRORS[what]
    write("annotations/ava_train_v2.2.csv", row)
    with pytest.raises(ValueError, match=rf"ava_train_v2\.2\.csv, {message}"):
        open_data(ava)


def test_label_maps_of_different_versions(ava, maps, write):
    write("annotations/ava_action_list_v2.1.pbtxt", *label_map([(1, "something else")]))
    with pytest.raises(ValueError, match="give one number several names"):
        open_data(ava)
