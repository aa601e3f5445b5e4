import json

import pytest

from tubelet.data.layouts import open_data


def entries(*labels, first=0):
    return json.dumps(
        [
            {"vid_name": f"oVVLs_{first + i:05}", "label": label, "start_frame": 0, "end_frame": 90}
            for i, label in enumerate(labels)
        ]
    )


def test_diving48(touch, write):
    touch(*(f"rgb/oVVLs_{i:05}.mp4" for i in range(4)))
    write("Diving48_V2_train.json", entries(7, 12))
    write("Diving48_vocab.json", json.dumps([["Back", "15som", "05Twis", "FREE"]]))
    data = open_data(write("Diving48_V2_test.json", entries(12, 7, first=2)).parent)
    assert (data.layout, data.classes) == ("Diving48 (Diving48_V2_train.json, Diving48_V2_test.json)", ("7", "12"))
    assert [(each.path.name, each.target, each.end) for each in data.splits["val"]] == [
        ("oVVLs_00002.mp4", 1, None), ("oVVLs_00003.mp4", 0, None),
    ]  # fmt: skip


def test_an_entry_without_a_label(write):
    with pytest.raises(ValueError, match=r"a\.json, entry 1 .*: no vid_name or no label; get the file again"):
        open_data(write("a.json", '[{"vid_name": "oVVLs_00000"}]'))
