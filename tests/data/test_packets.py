from fractions import Fraction
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.data.headers import Hole
from tubelet.data.packets import (
    SETTINGS,
    Index,
    Key,
    Packet,
    Setting,
    by_decoding,
    from_numbers,
    is_untimed,
    judged,
    offered,
    to_numbers,
)

STEP = 40
SIZE = 100


def packets(num_frames, gop=12, held=0, **changes):
    """In their order of decoding; with frames held back, every third one is shown after the two behind it."""
    shown = list(range(num_frames))
    if held:
        shown = [number for at in range(0, num_frames, 3) for number in ((at + 2, at, at + 1))]
        shown = [number for number in shown if number < num_frames]
    return [
        Packet(
            pts=STEP * number,
            dts=STEP * (place - held),
            duration=STEP,
            pos=SIZE * place,
            size=SIZE,
            is_key=place % gop == 0,
            is_shown=True,
            is_double=False,
            is_sound=True,
        )._replace(**changes)
        for place, number in enumerate(shown)
    ]


def sound(found):
    return [packet.pos // SIZE for packet in found if packet.is_sound]


def test_a_whole_file_is_sound():
    assert judged(packets(40), []) == packets(40)


def test_damage_lasts_until_the_next_keyframe():
    assert sound(judged(packets(40), [Hole(17 * SIZE + 5, 17 * SIZE + 6)])) == [*range(17), *range(24, 40)]
    assert sound(judged(packets(40), [Hole(11 * SIZE + 5, 12 * SIZE + 6)])) == [*range(11), *range(24, 40)]
    assert sound(judged(packets(40), [Hole(30 * SIZE, inf)])) == list(range(30))


def test_a_hole_between_packets_swallowed_some():
    left = [packet for packet in packets(40) if not 15 <= packet.pos // SIZE < 20]
    found = judged(left, [Hole(15 * SIZE, 20 * SIZE)])
    assert sound(found) == [*range(15), *range(24, 40)]
    durations, lost = offered(found, [Fraction(STEP)], is_cut=False)
    assert sorted(durations) == [STEP * number for number in range(40)]
    assert lost == {STEP * number for number in range(15, 24)}


def test_frames_before_a_hole_at_the_beginning_count_from_zero():
    left = packets(40)[5:]
    found = judged(left, [Hole(0, 5 * SIZE)])
    durations, lost = offered(found, [Fraction(STEP)], is_cut=False)
    assert sorted(durations) == [STEP * number for number in range(40)]
    assert lost == {STEP * number for number in range(12)}


def test_frames_shown_before_a_keyframe_are_lost_with_those_they_refer_to():
    seen = packets(36, held=2)  # the first frame of each group in the file is the third that is shown
    found = judged(seen, [Hole(5 * SIZE, 5 * SIZE + 1)])
    lost = {packet.pts // STEP for packet in found if not packet.is_sound and packet.pts is not None}
    assert lost == {packet.pts // STEP for packet in seen[5:12]} | {12, 13}


@given(st.integers(1, 60), st.integers(0, 2))
def test_a_cut_file_offers_the_first_frames(num_left, held):
    left = packets(60, held=held)[:num_left]
    durations, lost = offered(left, [Fraction(STEP)], is_cut=True)
    assert sorted(durations) == [STEP * number for number in range(len(durations))]
    assert not lost
    assert num_left - 2 * held <= len(durations) <= num_left


def test_in_an_unsteady_file_nobody_knows_what_is_missing():
    times = [0, 30, 100, 110, 300, 350, 500, 510, 520, 600, 777, 780, 1000, 1010, 1100]
    seen = [packet._replace(pts=pts, dts=pts) for packet, pts in zip(packets(15), times, strict=True)]
    found = judged(seen, [Hole(5 * SIZE, 5 * SIZE + 1)])
    durations, lost = offered(found, [Fraction(40), Fraction(71)], is_cut=False)
    assert sorted(durations) == times
    assert sorted(lost) == times[5:12]


def test_a_steady_file_may_be_rounded():
    seen = [packet._replace(pts=round(number * 1001 / 30), dts=None) for number, packet in enumerate(packets(60))]
    found = judged([*seen[:14], *seen[20:]], [Hole(14 * SIZE, 20 * SIZE)])
    durations, lost = offered(found, [Fraction(20), Fraction(1001, 30)], is_cut=False)
    assert len(durations) == 60
    assert lost == {packet.pts for packet in seen[14:24]}


def test_a_joint_is_no_damage():
    seen = packets(48)
    seen[23] = seen[23]._replace(is_sound=False)
    assert sound(judged(seen, [])) == list(range(48))
    again = [packet._replace(pts=packet.pts - 960, dts=packet.dts - 960) for packet in seen[24:]]
    assert sound(judged([*seen[:24], *again], [])) == list(range(48))
    later = [packet._replace(pts=packet.pts + 400, dts=packet.dts + 400) for packet in seen[24:]]
    assert sound(judged([*seen[:24], *later], [])) == [*range(23), *range(24, 48)]


def test_what_timestamps_do_not_tell():
    assert not is_untimed(packets(40), "matroska,webm")
    assert not is_untimed(packets(40, held=2), "matroska,webm")
    assert not is_untimed(packets(40), "avi")
    assert is_untimed(packets(40, held=2), "avi")
    assert is_untimed(packets(40, pts=None), "h264")
    assert is_untimed(packets(40, is_key=False), "mpegts")
    assert is_untimed([*packets(40), *packets(40)], "mpegts")
    assert is_untimed(packets(40, is_double=True), "matroska,webm")


def test_times_by_decoding():
    seen = packets(9, held=2)
    shown = [1, 2, 0, 4, 5, 3, 7, 8, 6]
    found = by_decoding(seen, shown)
    assert [found[seen[number].pos] for number in shown] == sorted(packet.dts for packet in seen)
    assert by_decoding(seen, shown[:-1]) == {}
    assert by_decoding([packet._replace(pos=7) for packet in seen], shown) == {}
    assert by_decoding([packet._replace(dts=7) for packet in seen], shown) == {}


stamps = st.integers(-(2**62), 2**62)


@given(
    st.builds(
        Index,
        pts=st.lists(stamps, min_size=1),
        keys=st.lists(st.builds(Key, pts=stamps, dts=stamps, pos=st.none() | st.integers(0, 2**62))),
        lost=st.frozensets(stamps),
        labels=st.dictionaries(stamps, stamps),
        settings=st.lists(st.builds(Setting, pts=stamps, kind=st.sampled_from(SETTINGS), data=st.binary())),
        time_base=st.fractions(Fraction(1, 10**9), 10**6, max_denominator=10**9),
        duration_s=st.floats(0, 1e9),
        size=st.none() | st.tuples(st.integers(1, 10**5), st.integers(1, 10**5)),
        is_counted=st.booleans(),
        is_damaged=st.booleans(),
        skips=st.booleans(),
    )
)
def test_an_index_comes_back_from_its_numbers(index):
    assert from_numbers(to_numbers(index)) == index


@pytest.mark.parametrize(("wanted", "spans"), [([0, 1, 30, 31, 59], 3), (list(range(60)), 1), ([59], 1)])
def test_spans_are_cut_where_a_keyframe_saves_decoding(wanted, spans):
    index = Index(
        pts=[STEP * number for number in range(60)],
        keys=[Key(STEP * number, STEP * number, None) for number in range(0, 60, 12)],
        lost=frozenset(),
        labels={},
        settings=[Setting(100, "palette", b"a"), Setting(900, "new_extradata", b"b"), Setting(900, "palette", b"c")],
        time_base=Fraction(1, 1000),
        duration_s=2.4,
        size=None,
        is_counted=False,
        is_damaged=False,
        skips=True,
    )
    cut = list(index.spans(wanted))
    assert len(cut) == spans
    assert [number for span in cut for number in span] == wanted
    assert index.next_start(13) == 24
    assert index.next_start(48) is None
    assert [start.key and start.key.pts for start in index.starts(30)] == [24 * STEP, 12 * STEP, None]
    assert index.settings_at(0) == index.settings_at(899) == {"palette": b"a", "new_extradata": b"b"}
    assert index.settings_at(900) == {"palette": b"c", "new_extradata": b"b"}
