import pytest

from tubelet.data.layouts.classes import find_classes, read_classes

FORMS = {
    "a name a line": ("a.txt", ["jump", "high jump", "3 point shot"], {0: "jump", 1: "high jump", 2: "3 point shot"}),
    "numbers from 0": ("a.txt", ["0 jump", "1 high jump", "2 run"], {0: "jump", 1: "high jump", 2: "run"}),
    "numbers from 1, in any order": ("a.txt", ["2 run", "1 high jump"], {1: "high jump", 2: "run"}),
    "numbers with a gap are names": ("a.txt", ["1 jump", "3 run"], {0: "1 jump", 1: "3 run"}),
    "numbers after commas": ("a.csv", ["0,jump", '1,"run, fast"'], {0: "jump", 1: "run, fast"}),
    "a table": ("a.csv", ["id,name", "7,jump", '3,"run, fast"'], {7: "jump", 3: "run, fast"}),
    "a table by other names": ("a.csv", ["class_id,class_name", "0,jump", "1,run"], {0: "jump", 1: "run"}),
    "a table of labels": ("a.csv", ["label,mirrored,id", "jump,,1", "run,,0"], {0: "run", 1: "jump"}),
    "a table of names and labels": ("a.csv", ["label,class_name", "1,jump", "0,run"], {0: "run", 1: "jump"}),
    "a header over spaces": ("a.txt", ["index name", "1 high jump", "2 run"], {1: "high jump", 2: "run"}),
    "no header": ("a.txt", ["nothing", "1 jump"], {0: "nothing", 1: "1 jump"}),
    "a table of names": ("a.csv", ["name,mirrored", "jump,", "run,jump"], {0: "jump", 1: "run"}),
    "names to numbers": ("a.json", ['{"jump": 1, "run": 0}'], {1: "jump", 0: "run"}),
    "names in quotes of their own": ("a.json", ['{"\\"high jump\\"": 1, "run": 0}'], {1: "high jump", 0: "run"}),
    "names to numbers in quotes": ("a.json", ['{"Holding x": "1", "Turning": "0"}'], {1: "Holding x", 0: "Turning"}),
    "numbers to names": ("a.json", ['{"0": "jump", "1": "run"}'], {0: "jump", 1: "run"}),
    "a list": ("a.json", ['["jump", "run"]'], {0: "jump", 1: "run"}),
    "label map": ("a.pbtxt", ['label {\n name: "{b}" label_id: 3}', 'item { name: "c" id: 1 }'], {3: "{b}", 1: "c"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms(write, form):
    name, lines, names = FORMS[form]
    found = read_classes(write(name, *lines))
    assert found.names == names
    assert found.classes == tuple(names[number] for number in sorted(names))


def test_columns(write):
    found = read_classes(write("classes.csv", "reversed,name,mirrored", "close,open,", ",left,-"))
    assert found.mirrored == {"open": "", "left": "-"}
    assert found.reversed == {"open": "close", "left": ""}
    assert read_classes(write("classes.csv", "name", "open")).mirrored is None


ERRORS = {
    "a name twice": ("a.txt", ["jump", "run", "jump"], r"a\.txt: class 'jump' is there twice"),
    "a number twice": ("a.csv", ["id,name", "1,jump", "1,run"], r"a\.csv: number 1 is there twice"),
    "nothing": ("a.txt", [], r"a\.txt: no class names; write one a line"),
    "no number": ("a.csv", ["id,name", "x,jump"], r"a\.csv, row 2 \(x,jump\): 'x' is no number of a class"),
    "a header": ("a.csv", ["nr,klasse", "0,a", "1,b"], r"a\.csv: numbers in all lines but the first \(nr,klasse\)"),
    "no mark": ("a.csv", ["name,evaluated", "jump,1", "run,0"], r"a\.csv: evaluated '0'; write 1 for a class that is"),
    "no name": ("a.csv", ["id,name", "1,"], r"a\.csv, row 2 \(1,\): no name"),
    "another json": (
        "a.json",
        ['{"jump": [1]}'],
        r"a\.json: no class names; write a list of names or \{name: number\}",
    ),
    "half a label map": ("a.pbtxt", ['item { name: "run" }'], r"a\.pbtxt: .* has no name or no id"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_wrong_files(write, what):
    name, lines, message = ERRORS[what]
    with pytest.raises(ValueError, match=message) as caught:
        read_classes(write(name, *lines))
    assert "\n" not in str(caught.value)


def test_where_they_are_found(tmp_path, write):
    assert find_classes([tmp_path]) is None
    write("labels.csv", "path,label", "1.mp4,a")  # a list of videos in spite of its name
    write("class_list.txt", "1.mp4 a")
    write("README.txt", "words")
    assert find_classes([tmp_path]) is None
    file = write("label_map.txt", "jump", "run")
    assert find_classes([tmp_path]).file == file
    write("names_labels.txt", "0 jump", "1 run")  # says the same
    assert find_classes([tmp_path]).classes == ("jump", "run")
    write("categories.txt", "run", "jump")
    with pytest.raises(ValueError, match=r"categories\.txt and label_map\.txt give different classes; remove one"):
        find_classes([tmp_path])
    write("classes.csv", "name", "swim")
    assert find_classes([tmp_path]).classes == ("swim",)
    assert find_classes([tmp_path], [tmp_path / "classes.csv"], has_own=True) is None
