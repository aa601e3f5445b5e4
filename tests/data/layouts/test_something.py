import json

import pytest

from tubelet.data.layouts import open_data

TEMPLATES = ("Holding something", "Pushing something from left to right", "Pushing something from right to left")
LABELS = {TEMPLATES[1]: "0", TEMPLATES[2]: "1", TEMPLATES[0]: "2"}


def entry(number, template, *things):
    """As the real files have it: the label with the things filled in, the template with brackets."""
    bracketed = TEMPLATES[template].replace("something", "[something]")
    label = TEMPLATES[template].lower().replace("something", "a cup")
    return {"id": str(number), "label": label, "template": bracketed, "placeholders": list(things) or ["a cup"]}


@pytest.fixture(params=["something-something-v2-{}.json", "{}.json"])
def version2(request, write):
    def make(folder=""):
        name = f"{folder}{request.param}"
        write(name.format("labels"), json.dumps(LABELS))
        write(name.format("train"), json.dumps([entry(78687, 0), entry(42326, 1), entry(100904, 2)]))
        write(name.format("validation"), json.dumps([entry(74225, 1)]))
        return write(name.format("test"), json.dumps([{"id": "1420"}])).parent

    return make


def check(data, named, place):
    assert data.layout.startswith("Something-Something v2")
    assert data.classes == (TEMPLATES[1], TEMPLATES[2], TEMPLATES[0])
    assert named(data, "train") == [
        (place.format(78687), TEMPLATES[0]), (place.format(42326), TEMPLATES[1]), (place.format(100904), TEMPLATES[2]),
    ]  # fmt: skip
    assert named(data, "val") == [(place.format(74225), TEMPLATES[1])]
    assert "test" not in data.splits
    assert data.mirrored == {0: 1, 1: 0}


def test_version_2(version2, touch, named):
    touch(*(f"20bn-something-something-v2/{number}.webm" for number in (78687, 42326, 100904, 74225)))
    check(open_data(version2()), named, "20bn-something-something-v2/{}.webm")


def test_version_2_with_annotations_apart(version2, touch, frames, named):
    root = version2("annotations/").parent
    frames(*(f"rawframes/{number}" for number in (78687, 42326, 100904, 74225)))
    check(open_data(root), named, "rawframes/{}")
    check(open_data(next((root / "annotations").glob("*train.json"))), named, "rawframes/{}")


FRAME_LIST = "original_vido_id video_id frame_id path labels"


def test_the_frame_lists_of_pyslowfast(version2, frames, write, named):
    """Their labels are empty: what a video shows is in the json files beside them."""
    root = version2()
    frames("78687", "42326", "100904", "74225", name="x_{:06}.jpg")
    rows = [f'{video} {i} {j} {video}/x_{j + 1:06}.jpg ""' for i, video in enumerate((78687, 42326)) for j in range(3)]
    check(open_data(write("train.csv", FRAME_LIST, *rows)), named, "{}")
    check(open_data(root), named, "{}")


def test_version_2_with_wrong_files(version2, touch, write):
    root = version2()
    (labels,) = root.glob("*labels.json")
    labels.write_text(json.dumps({TEMPLATES[0]: "0"}))
    with pytest.raises(ValueError, match=r"train\.json, entry 2 \(42326\): 'Pushing .*' is not in the file of labels"):
        open_data(root)
    labels.unlink()
    with pytest.raises(ValueError, match=r"no file \*labels\.json; Something-Something v2 comes with one"):
        open_data(root)


@pytest.mark.parametrize("name", ["something-something-v1", "jester-v1"])
def test_version_1_and_jester(frames, write, named, name):
    """Their order of classes is that of the file of labels; frames are 12 a second."""
    write(f"{name}-labels.csv", "Swiping Left", "Swiping Right", "No gesture")
    write(f"{name}-train.csv", "100218;Swiping Right", "34870;No gesture", "9;Swiping Left")
    write(f"{name}-validation.csv", "56557;Swiping Left")
    root = write(f"{name}-test.csv", "70", "71").parent
    frames(*(f"20bn-{name}/{number}" for number in (100218, 34870, 56557, 70, 71)), name="{:05}.jpg")
    data = open_data(root)
    assert data.classes == ("Swiping Left", "Swiping Right", "No gesture")
    assert named(data, "train") == [(f"20bn-{name}/100218", "Swiping Right"), (f"20bn-{name}/34870", "No gesture")]
    assert named(data, "val") == [(f"20bn-{name}/56557", "Swiping Left")]
    assert data.splits["val"][0].fps == 12
    assert data.missing == 1
    assert (data.mirrored, data.reversed) == ({0: 1, 1: 0}, {0: 1, 1: 0})
