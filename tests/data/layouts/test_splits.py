from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data.layouts import open_data
from tubelet.data.layouts.splits import group_in, labels_of, set_aside
from tubelet.data.sample import Actor, Sample, Span


def test_the_part_set_aside_is_a_fifth_and_always_the_same(tmp_path, touch):
    touch(*(f"{c}/{c}{i}.mp4" for c in "ab" for i in range(50)))
    before = open_data(tmp_path)
    assert before == open_data(tmp_path)
    assert [sum(s.target == t for s in before.splits["val"]) for t in (0, 1)] == [10, 10]
    assert not {s.path for s in before.splits["val"]} & {s.path for s in before.splits["train"]}
    touch("a/new.mp4")
    after = open_data(tmp_path)
    assert len({s.path for s in before.splits["val"]} ^ {s.path for s in after.splits["val"]}) <= 2


def test_files_of_one_name_are_set_aside_in_a_stable_order(tmp_path, touch):
    touch(*(f"{c}/person{i:02}/clip.mp4" for c in "ab" for i in range(20)))
    aside = [sample.path.relative_to(tmp_path) for sample in open_data(tmp_path).splits["val"]]
    assert [str(path) for path in aside] == [f"{c}/person{i:02}/clip.mp4" for c in "ab" for i in range(4)]


def test_samples_of_one_file_stay_on_one_side(touch, write):
    touch(*(f"{i}.mp4" for i in range(12)))
    rows = [f"{i}.mp4,{start},{start + 5},{'ab'[start // 5 % 2]}" for i in range(12) for start in (0, 5, 10)]
    rows += [f"{i}.mp4,20,25,b" for i in range(6)]
    data = open_data(write("list.csv", "path,start_frame,end_frame,label", *rows))
    train, val = ({sample.path for sample in data.splits[split]} for split in ("train", "val"))
    assert val
    assert not train & val
    assert len(data.splits["train"]) + len(data.splits["val"]) == len(rows)


def test_a_video_and_the_folder_of_its_frames_stay_on_one_side(tmp_path, touch, frames, caplog):
    touch(*(f"{c}/v{i}.{ending}" for c in "ab" for i in range(10) for ending in ("mp4", "avi")), "a/alone.mp4")
    frames(*(f"{c}/v{i}" for c in "ab" for i in range(10)))
    data = open_data(tmp_path)
    train, val = ({sample.group for sample in data.splits[split]} for split in ("train", "val"))
    assert not train & val
    assert train | val == {"", *(f"{c}/v{i}" for c in "ab" for i in range(10))}
    assert f"20 videos in several forms, first {tmp_path / 'a/v0'} and {tmp_path / 'a/v0.avi'}" in caplog.text


@pytest.mark.parametrize("column", ["group", "source", "person", "Patient", "subject"])
def test_a_column_of_groups(touch, write, column):
    touch(*(f"{i}.mp4" for i in range(40)))
    rows = [f"{i}.mp4,{'ab'[i % 2]},p{i // 4}" for i in range(40)]
    data = open_data(write("list.csv", f"path,label,{column}", *rows))
    train, val = ({sample.group for sample in data.splits[split]} for split in ("train", "val"))
    assert not train & val
    assert (len(train), len(val)) == (8, 2)


def sample(name, target, group=""):
    return Sample(Path(name), target, group=group)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_groups_are_never_cut_and_no_class_is_lost(drawn):
    samples = [sample(f"{i}.mp4", (target,), f"g{group}") for i, (target, group) in enumerate(drawn)]
    train, val = set_aside(samples, "abcd", "multilabel", Path("x"))
    assert sorted([*train, *val], key=samples.index) == samples
    assert not {s.group for s in train} & {s.group for s in val}
    assert {s.target for s in train} == {s.target for s in samples}
    for target in range(4):
        groups = {s.group for s in samples if s.target == (target,)}
        if len(groups) > 1 and {s.target for s in samples if s.group in groups} == {(target,)}:
            assert {s.group for s in val} & groups  # of a class with groups of its own, some are set aside


def test_a_class_of_one_group():
    samples = [sample(f"{i}.mp4", i // 4, f"p{i // 2}") for i in range(6)]
    with pytest.raises(
        ValueError, match=r"x: one group only \(p2\) for class b, so none is left to validate on; add videos"
    ):
        set_aside(samples, "ab", "classify", Path("x"))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("v_ApplyEyeMakeup_g08_c01.avi", "v_ApplyEyeMakeup_g08"),
        ("v_HandStandPushups_g25_c07", "v_HandStandPushups_g25"),
        ("-3B32lodo2M_000059_000069.mp4", "-3B32lodo2M"),
        ("a_b_c_d_e_f_000059_000069.mp4.mkv", "a_b_c_d_e_f"),
        ("clip_01.mp4", ""),
        ("long_name_of_a_clip_000001_000002.mp4", ""),
    ],
)
def test_groups_in_names(name, group):
    assert group_in(name) == group


def test_labels_of_each_task():
    assert labels_of(sample("a", 3), "classify") == {3}
    assert labels_of(sample("a", (1, 2)), "multilabel") == {1, 2}
    assert labels_of(sample("a", (Span(0, 1, 4), Span(1, 2, 4))), "frames") == {4}
    assert labels_of(sample("a", (Actor(0, 0, 1, 1, (5, 6)), Actor(0, 0, 1, 1, ()))), "detect") == {5, 6}
