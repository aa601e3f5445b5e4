"""What a class becomes in a mirror, and played backwards: told by the names of the classes, or by a class file.

A wrong answer teaches a network wrong labels, a missing one costs some augmentation: where names leave a doubt there is
no partner.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .classes import ClassFile

NONE = "-"  # in a class file: no class
Words = tuple[str, ...]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_SAME = {"anticlockwise": "counterclockwise"}


def _pairs(text: str) -> dict[Words, list[Words]]:
    """`a/b, c/d` as a map of phrases in both directions."""
    found: dict[Words, list[Words]] = defaultdict(list)
    for pair in text.split(","):
        one, other = (tuple(phrase.split()) for phrase in pair.split("/"))
        found[one].append(other)
        found[other].append(one)
    return found


_SIDES = _pairs("left/right, lefts/rights, leftward/rightward, leftwards/rightwards, clockwise/counterclockwise")
# "pulling it right out": no side
_ADVERBS = frozenset({"after", "away", "back", "before", "now", "out"})

# Whatever moves the one way moves the other way in time reversed. All of these words in a name turn together.
_TURNED = _pairs(
    "left/right, leftward/rightward, leftwards/rightwards, clockwise/counterclockwise, up/down, upward/downward,"
    "upwards/downwards, forward/backward, forwards/backwards, inward/outward, inwards/outwards, into/out of,"
    "onto/off of, onto/off, toward/away from, towards/away from, closer to/away from, approaching/moving away from,"
    "approach/move away from, growing/shrinking, grow/shrink, expanding/contracting, expand/contract,"
    "inflating/deflating, inflate/deflate, opening/closing, open/close, opens/closes, covering/uncovering,"
    "cover/uncover, folding/unfolding, fold/unfold, plugging/unplugging, plug/unplug, wrapping/unwrapping,"
    "wrap/unwrap, zipping/unzipping, zip/unzip, locking/unlocking, lock/unlock, packing/unpacking, pack/unpack,"
    "loading/unloading, load/unload, tying/untying, tie/untie, buttoning/unbuttoning, button/unbutton,"
    "screwing/unscrewing, screw/unscrew, attaching/detaching, attach/detach, connecting/disconnecting,"
    "connect/disconnect, assembling/disassembling, assemble/disassemble, dressing/undressing, dress/undress,"
    "putting/taking, put/take, inserting/removing, insert/remove, raising/lowering, raise/lower, rising/falling,"
    "rise/fall, ascending/descending, ascend/descend, entering/exiting, enter/exit, entering/leaving, enter/leave,"
    "accelerating/decelerating, accelerate/decelerate, filling/emptying, fill/empty"
)
# These turn with the others (pushed onto, pulled off) and tell nothing alone: PushUps are no PullUps backwards.
_CARRIED = _pairs("pushing/pulling, push/pull, pushes/pulls")
# And these may turn: "zooming in", "turning on", but "in front of", "rolling forward".
_MAYBE = _pairs("in/out, away/in, on/off, rolling/unrolling, roll/unroll")
_ANY = _TURNED.keys() | _CARRIED.keys() | _MAYBE.keys()
_MOST_TURNS = 8  # in one name; all ways to turn them are tried, and a name with more is a sentence
# A pose keeps its direction; what falls, an attempt and a consequence are nothing backwards.
_STAYING = frozenset({
    "thumb", "thumbs", "facing", "pointing", "point", "looking", "look", "holding", "hold", "showing", "show",
    "pretending", "pretend", "trying", "try", "failing", "fail", "but", "without", "until", "so", "then",
    "pouring", "pour", "spilling", "spill", "dropping", "drop", "throwing", "throw",
})  # fmt: skip
# Behind these a direction is that of a pose, a limb or a place.
_HELD = frozenset({
    "palm", "palms", "face", "faces", "head", "heads", "chin", "belly", "hand", "hands", "arm", "arms", "leg", "legs",
    "foot", "feet", "goal", "goals", "punch", "punching", "kick", "kicking", "standing", "lying", "sitting", "upper",
    "lower",
})  # fmt: skip
# A side before one of these words is a way to go; else it is that of a hand or a leg.
_AFTER_A_WAY = frozenset({
    "to", "from", "with", "by", "while", "in", "on", "onto", "into", "at", "over", "and", "or",
    "turn", "turns", "turning", "move", "moves", "moving", "movement", "motion", "swipe", "swiping", "slide", "sliding",
    "shift", "pan", "panning", "rotation",
})  # fmt: skip


def mirrors(classes: Sequence[str], told: ClassFile | None = None) -> dict[int, int | None]:
    """The class that each class becomes when its clips are flipped left to right, as `VideoData.mirrored` has it.

    A name with left, right, clockwise or counterclockwise has the class of the other name, or none when there is no
    such class; "left and right" stays what it is.

    Args:
        classes: their names.
        told: a class file, whose column `mirrored` goes before the names: a class, `-` for none, or nothing for the
            class itself.

    Raises:
        ValueError: the column names no class.
    """
    if told and told.mirrored is not None:
        places = {name: index for index, name in enumerate(classes)}
        cells = _told(told.file, "mirrored", told.mirrored, places)
        return {index: places.get(cell) for index, cell in cells.items()}
    names = [_words(name) for name in classes]
    by_words = _by_words(names)
    found: dict[int, int | None] = {}
    for index, words in enumerate(names):
        sure = _swapped(words, _ADVERBS)
        # what is doubtful turns where it makes another class
        partners = [by_words.get(turned) for turned in (_swapped(words, inside=True), _swapped(words), sure)]
        partner = next((each for each in partners if each not in (None, index)), None)
        if partner is not None or sure != words:
            found[index] = partner
    return found


def reversals(classes: Sequence[str], told: ClassFile | None = None) -> dict[int, int]:
    """The class that each class becomes when its clips are played backwards, as `VideoData.reversed` has it.

    Two classes are each other's when their names differ by opposite directions alone: opening and closing something.

    Args:
        classes: their names.
        told: a class file, whose column `reversed` goes before the names: a class, or nothing for none.

    Raises:
        ValueError: the column names no class.
    """
    if told and told.reversed is not None:
        places = {name: index for index, name in enumerate(classes)}
        cells = _told(told.file, "reversed", told.reversed, places)
        return {index: places[cell] for index, cell in cells.items() if cell != NONE}
    names = [_words(name) for name in classes]
    by_words = _by_words(names)
    found = {}
    for index, words in enumerate(names):
        if _STAYING.isdisjoint(words) and sum((word,) in _ANY for word in words) <= _MOST_TURNS:
            turned = {other for other, is_turned in _backwards(words) if is_turned and other != words}
            partners = [by_words[other] for other in turned if other in by_words]
            if len(partners) == 1:
                found[index] = partners[0]
    return {index: partner for index, partner in found.items() if found.get(partner) == index}


def _told(file: Path, column: str, cells: Mapping[str, str], places: Mapping[str, int]) -> dict[int, str]:
    """What a column says, by index of the class; cells without text are left out."""
    for name, cell in cells.items():
        if cell not in (*places, NONE, ""):
            raise ValueError(f"{file}, class {name}: {column} {cell!r} is no class; write a class or {NONE}")
    return {places[name]: cell for name, cell in cells.items() if name in places and cell}


def _words(name: str) -> Words:
    """Words of a name in any style: "Turning left", "turn_left", "TurnLeft"."""
    words = [word.lower() for word in _WORD.findall(name)]
    text = re.sub(r"\b(counter|anti) clockwise\b", "counterclockwise", " ".join(words))
    return tuple(_SAME.get(word, word) for word in text.split())


def _by_words(names: Sequence[Words]) -> dict[Words, int]:
    """Index by words; names that differ in style alone are left out."""
    count = Counter(names)
    return {words: index for index, words in enumerate(names) if count[words] == 1}


def _swapped(words: Words, adverbs: frozenset[str] = frozenset(), *, inside: bool = False) -> Words:
    """The words with left for right and right for left, but for "left and right", where both are meant alike.

    Args:
        words: of a name.
        adverbs: words before which there is no side.
        inside: whether a part of a word is one: "turnleft".
    """
    made = list(words)
    alike = {
        place
        for i, word in enumerate(words)
        if word in ("and", "or") and words[i - 1 : i] in _SIDES and words[i + 1 : i + 2] in _SIDES
        for place in (i - 1, i + 1)
    }
    for i, word in enumerate(words):
        if (word,) in _SIDES and i not in alike and not adverbs.intersection(words[i + 1 : i + 2]):
            made[i] = _SIDES[(word,)][0][0]
        elif (word,) not in _SIDES and inside:
            made[i] = re.sub("left|right", lambda side: _SIDES[(side[0],)][0][0], word)
    return tuple(made)


def _backwards(words: Words, is_turned: bool = False, before: str = "") -> Iterator[tuple[Words, bool]]:
    """All ways to turn the directions of a name, and whether any was turned; `before` is the word before."""
    if not words:
        yield (), is_turned
        return
    must_turn = False
    for length in (1, 2, 3):
        phrase = words[:length]
        for table, tells in ((_TURNED, True), (_CARRIED, False), (_MAYBE, True)):
            if len(phrase) == length and phrase in table and _is_way(words, before):
                must_turn |= length == 1 and table is not _MAYBE
                for other in table[phrase]:
                    for rest, is_any in _backwards(words[length:], is_turned or tells, phrase[-1]):
                        yield other + rest, is_any
    if not must_turn:
        for rest, is_any in _backwards(words[1:], is_turned, words[0]):
            yield words[:1] + rest, is_any


def _is_way(words: Words, before: str) -> bool:
    """Whether the first word, if it is a direction, is a way to go."""
    if (words[0] in ("left", "right", "up", "down") and before in _HELD) or words[:2] == ("lower", "body"):
        return False
    return words[0] not in ("left", "right") or not words[1:] or words[1] in _AFTER_A_WAY
