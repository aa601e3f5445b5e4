import pytest

from tubelet.data.layouts.classes import read_classes
from tubelet.data.layouts.opposites import mirrors, reversals


def by_name(partners, classes):
    return {classes[i]: None if j is None else classes[j] for i, j in partners.items()}


# of Something-Something v2
SOMETHING = (
    "Approaching something with your camera",
    "Closing something",
    "Covering something with something",
    "Dropping something in front of something",
    "Folding something",
    "Holding something in front of something",
    "Lifting something up completely, then letting it drop down",
    "Lifting something up completely without letting it drop down",
    "Moving away from something with your camera",
    "Moving something and something away from each other",
    "Moving something and something closer to each other",
    "Moving something away from something",
    "Moving something away from the camera",
    "Moving something closer to something",
    "Moving something down",
    "Moving something towards the camera",
    "Moving something up",
    "Opening something",
    "Picking something up",
    "Plugging something into something",
    "Plugging something into something but pulling it right out as you remove your hand",
    "Pouring something into something",
    "Pouring something out of something",
    "Pretending to close something without actually closing it",
    "Pretending to open something without actually opening it",
    "Pretending to put something into something",
    "Pretending to take something out of something",
    "Pulling something from left to right",
    "Pulling something from right to left",
    "Pulling something onto something",
    "Pulling something out of something",
    "Pushing something from left to right",
    "Pushing something from right to left",
    "Pushing something off of something",
    "Pushing something onto something",
    "Putting something into something",
    "Putting something onto something",
    "Taking something out of something",
    "Turning something upside down",
    "Turning the camera downwards while filming something",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Turning the camera upwards while filming something",
    "Uncovering something",
    "Unfolding something",
)
PAIRS = (
    ("Approaching something with your camera", "Moving away from something with your camera"),
    ("Closing something", "Opening something"),
    ("Folding something", "Unfolding something"),
    ("Moving something and something away from each other", "Moving something and something closer to each other"),
    ("Moving something away from something", "Moving something closer to something"),
    ("Moving something away from the camera", "Moving something towards the camera"),
    ("Moving something down", "Moving something up"),
    # what pushes something to the right pulls it to the left when the film runs backwards
    ("Pulling something from left to right", "Pushing something from right to left"),
    ("Pulling something from right to left", "Pushing something from left to right"),
    ("Pulling something onto something", "Pushing something off of something"),
    ("Putting something into something", "Taking something out of something"),
    ("Turning the camera downwards while filming something", "Turning the camera upwards while filming something"),
    ("Turning the camera left while filming something", "Turning the camera right while filming something"),
)


def test_something_something_in_a_mirror():
    sided = [name for name in SOMETHING if " left" in name or "camera right" in name]
    swap = {"left": "right", "right": "left"}
    expected = {name: " ".join(swap.get(word, word) for word in name.split()) for name in sided}
    assert len(sided) == 6
    assert by_name(mirrors(SOMETHING), SOMETHING) == expected


def test_something_something_backwards():
    assert by_name(reversals(SOMETHING), SOMETHING) == dict([*PAIRS, *(pair[::-1] for pair in PAIRS)])


JESTER = {
    "Swiping Left": "Swiping Right", "Swiping Up": "Swiping Down", "Pushing Hand Away": "Pulling Hand In",
    "Sliding Two Fingers Left": "Sliding Two Fingers Right", "Rolling Hand Forward": "Rolling Hand Backward",
    "Turning Hand Clockwise": "Turning Hand Counterclockwise",
    "Zooming In With Full Hand": "Zooming Out With Full Hand",
}  # fmt: skip


def test_jester():
    classes = [*JESTER, *JESTER.values(), "Thumb Up", "Thumb Down", "Stop Sign", "Shaking Hand"]
    assert by_name(reversals(classes), classes) == JESTER | {other: one for one, other in JESTER.items()}
    sided = {one: other for one, other in JESTER.items() if "Left" in one or "Clockwise" in one}
    assert by_name(mirrors(classes), classes) == sided | {other: one for one, other in sided.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left", "right"), ("swipe_left", "swipe_right"), ("SwipeLeft", "SwipeRight"), ("leftHand", "rightHand"),
        ("LEFT TURN", "RIGHT TURN"), ("turn-left", "turn-right"), ("Rotate anti-clockwise", "Rotate clockwise"),
        ("counter_clockwise", "clockwise"), ("left to right", "right to left"), ("move leftwards", "move rightwards"),
        ("Swipe Left (left hand)", "Swipe Right (right hand)"), ("look_left2", "look_right2"),
    ],
)  # fmt: skip
def test_sides_in_any_style(one, other):
    assert mirrors(["wave", one, other]) == {1: 2, 2: 1}
    assert mirrors([one, "wave"]) == {0: None}


@pytest.mark.parametrize(
    "name",
    ["bright", "leftovers", "upright", "copyright", "putting it right back", "look left and right", "left or right"],
)
def test_names_without_a_side(name):
    assert mirrors([name, "right", "left"]) == {1: 2, 2: 1}


@pytest.mark.parametrize(
    "pair",
    [
        ("PushUps", "PullUps"), ("pushing car", "pulling car"), ("left hand wave", "right hand wave"),
        ("pointing left", "pointing right"), ("Thumb Up", "Thumb Down"), ("opening bottle", "opening can"),
        ("open", "opening"), ("pour in", "pour out"), ("trying to open it", "trying to close it"),
        ("sit", "stand"), ("covering x with y", "uncovering x"),
    ],
)  # fmt: skip
def test_no_opposites_in_time(pair):
    assert reversals(pair) == {}


@pytest.mark.parametrize(
    "pair",
    [
        ["palm up", "palm down"],
        ["hands up", "hands down"],
        ["Head Up", "Head Down"],
        ["lying belly up", "lying belly down"],
        ["goal_left", "goal_right"],
        ["lying face up", "lying face down"],
        ["punch_left", "punch_right"],
        ["upper left", "upper right"],
        ["raise body", "lower body"],
    ],
)
def test_poses_and_limbs_are_no_directions(pair):
    assert reversals(pair) == {}


def test_a_hand_keeps_its_side_in_time():
    classes = [f"swipe_{way}_with_{hand}_hand" for way in ("left", "right") for hand in ("left", "right")]
    assert reversals(classes) == {0: 2, 1: 3, 2: 0, 3: 1}
    assert mirrors(classes) == {0: 3, 1: 2, 2: 1, 3: 0}


@pytest.mark.parametrize(
    "pair",
    [
        ["turn left before crossing", "turn right before crossing"],
        ["left back kick", "right back kick"],
        ["turnleft", "turnright"],
        ["look left and right then left", "look left and right then right"],
    ],
)
def test_sides_in_doubt_turn_where_that_is_another_class(pair):
    assert mirrors(pair) == {0: 1, 1: 0}
    assert mirrors([pair[0], "bright light"]) in ({}, {0: None})


def test_several_opposites_are_none():
    assert reversals(["moving away from x", "moving towards x", "moving closer to x"]) == {}


def test_a_sentence_of_directions_is_not_tried_in_every_way():
    assert reversals([" ".join([*["up", "in", "on"] * 20, side]) for side in ("left", "right")]) == {}


def test_names_that_differ_in_style_alone_are_no_partners():
    assert mirrors(["turn left", "turn_right", "turn right"]) == {0: None, 1: 0, 2: 0}


def test_a_class_file(write):
    told = read_classes(
        write("classes.csv", "name,mirrored,reversed", "left,left,", "right,-,right", "up,,-", "down,,")
    )
    classes = ("left", "right", "up", "down")
    assert mirrors(classes, told) == {0: 0, 1: None}
    assert reversals(classes, told) == {1: 1}
    half = read_classes(write("half.csv", "name,mirrored", "up,down", "down,"))
    assert mirrors(classes, half) == {2: 3}
    assert reversals(classes, half) == {0: 1, 1: 0, 2: 3, 3: 2}


@pytest.mark.parametrize("column", ["mirrored", "reversed"])
def test_a_class_file_with_a_wrong_partner(write, column):
    told = read_classes(write("classes.csv", f"name,{column}", "left,rihgt", "right,left"))
    with pytest.raises(
        ValueError, match=rf"classes\.csv, class left: {column} 'rihgt' is no class; write a class or -"
    ):
        mirrors(("left", "right"), told) and reversals(("left", "right"), told)
