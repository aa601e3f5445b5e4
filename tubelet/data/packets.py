"""What the packets of a video file tell without decoding: its frames, when they are shown, where decoding may start."""

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, pairwise, zip_longest
from math import inf
from typing import NamedTuple, Self

import numpy as np

from .headers import Hole

__all__ = [
    "SETTINGS",
    "Index",
    "Key",
    "Packet",
    "Setting",
    "Start",
    "by_decoding",
    "from_numbers",
    "is_untimed",
    "judged",
    "offered",
    "to_numbers",
]

# Frames between the last wanted one and the next keyframe that make a seek cheaper than decoding on.
_SEEK_GAP = 12

# Kinds of settings, by FFmpeg's names.
SETTINGS = ("palette", "new_extradata")

# Lists of numbers that an index is made of.
_NUM_LISTS = 10


class Packet(NamedTuple):
    """What a packet says, and whether it is as it was written and so are those that it refers to."""

    pts: int | None
    dts: int | None
    duration: int
    pos: int | None
    size: int
    is_key: bool
    is_shown: bool
    is_double: bool  # it holds two frames, the next none
    is_sound: bool


class Key(NamedTuple):
    """A keyframe: decoding may start here."""

    pts: int
    dts: int
    pos: int | None

    @classmethod
    def of(cls, packet: Packet) -> Self:
        """Where there is no decoding time, the two are one."""
        assert packet.pts is not None
        return cls(packet.pts, packet.pts if packet.dts is None else packet.dts, packet.pos)


class Setting(NamedTuple):
    """What a decoder is set to from a packet on: colours of a palette, or parameters. That packet alone brings it."""

    pts: int
    kind: str  # of SETTINGS
    data: bytes


class Start(NamedTuple):
    """Where a run starts (None: at the first packet), and whether it leaves out frames nobody refers to."""

    key: Key | None
    skips: bool


@dataclass(frozen=True)
class Index:
    """The frames of a file, in the order in which they are shown."""

    pts: list[int]  # ascending, one for each displayed frame
    keys: list[Key]  # ascending; none where an edit list hides them, or timestamps tell nothing
    lost: frozenset[int]  # of `pts`, those that are gone or refer to what is gone
    labels: dict[int, int]  # presentation times by the places of packets, where the file tells none
    settings: list[Setting]  # in the order of the file, the first of each kind from its beginning on
    time_base: Fraction
    duration_s: float
    size: tuple[int, int] | None  # height and width as shown; None where decoding alone tells
    is_counted: bool  # timestamps tell nothing: a frame's index is its number in the decoder's output
    is_damaged: bool
    skips: bool  # frames nobody refers to may be left out

    @cached_property
    def key_times(self) -> dict[int | None, int]:
        """Timestamps of keyframes by their places in the file."""
        return {key.pos: key.pts for key in self.keys if key.pos is not None}

    def settings_at(self, pts: int) -> dict[str, bytes]:
        """What a decoder that starts at this time is to be set to, by kind."""
        found: dict[str, bytes] = {}
        for setting in self.settings:
            if setting.kind not in found or setting.pts <= pts:
                found[setting.kind] = setting.data
        return found

    def starts(self, index: int) -> Iterator[Start]:
        """Where to try to decode this frame from, the cheapest first."""
        if self.pts[index] in self.lost:
            return
        if self.keys:
            number = self._key_before(index)
            yield Start(self.keys[number], self.skips)
            yield Start(self.keys[max(number - 1, 0)], False)
        yield Start(None, False)

    def next_start(self, index: int) -> int | None:
        """The first frame after this one that decoding may start at, where timestamps tell."""
        if self.is_counted:
            return None
        return next((frame for frame in map(self.frame_of, self.keys) if frame > index), None)

    def spans(self, wanted: list[int]) -> Iterator[list[int]]:
        """Ascending frame indices, cut where jumping to a keyframe is cheaper than decoding the gap."""
        span = wanted[:1]
        for last, index in pairwise(wanted):
            if self.keys and self._frame_of_key_before(index) - last > _SEEK_GAP:
                yield span
                span = []
            span.append(index)
        yield span

    def frame_of(self, key: Key) -> int:
        """The index of a keyframe."""
        return bisect_right(self.pts, key.pts) - 1

    def _key_before(self, index: int) -> int:
        return max(bisect_right(self.keys, self.pts[index], key=lambda key: key.pts) - 1, 0)

    def _frame_of_key_before(self, index: int) -> int:
        return self.frame_of(self.keys[self._key_before(index)])


def to_numbers(index: Index) -> np.ndarray:
    """(N,) int64, to be kept."""
    lists: tuple[Collection[int], ...] = (
        [index.time_base.numerator, index.time_base.denominator, int(np.float64(index.duration_s).view(np.int64))],
        [*(index.size or ()), index.is_counted, index.is_damaged, index.skips],
        index.pts,
        [key.pts for key in index.keys],
        [key.dts for key in index.keys],
        [-1 if key.pos is None else key.pos for key in index.keys],
        sorted(index.lost),
        index.labels.keys(),
        index.labels.values(),
        [*chain.from_iterable((pts, SETTINGS.index(kind), len(data), *data) for pts, kind, data in index.settings)],
    )
    return np.array([*map(len, lists), *chain.from_iterable(lists)], np.int64)


def from_numbers(numbers: np.ndarray) -> Index:
    """The index that was kept."""
    lengths, rest = np.split(numbers, [_NUM_LISTS])
    units, flags, shown, *keys, lost, places, stamps, settings = np.split(rest, lengths[:-1].cumsum())
    *size, is_counted, is_damaged, skips = flags.tolist()
    return Index(
        pts=shown.tolist(),
        keys=[Key(pts, dts, None if pos < 0 else pos) for pts, dts, pos in np.stack(keys, 1).tolist()],
        lost=frozenset(lost.tolist()),
        labels=dict(zip(places.tolist(), stamps.tolist(), strict=True)),
        settings=list(_settings(settings)),
        time_base=Fraction(*units[:2].tolist()),
        duration_s=units[2:].view(np.float64).item(),
        size=(size[0], size[1]) if size else None,
        is_counted=bool(is_counted),
        is_damaged=bool(is_damaged),
        skips=bool(skips),
    )


def _settings(numbers: np.ndarray) -> Iterator[Setting]:
    while len(numbers):
        pts, kind, size = numbers[:3].tolist()
        data, numbers = np.split(numbers[3:], [size])
        yield Setting(pts, SETTINGS[kind], bytes(data.tolist()))


def is_untimed(packets: list[Packet], form: str) -> bool:
    """Whether the timestamps of a file do not tell in which order its frames are shown.

    Args:
        packets: all of the file.
        form: FFmpeg's name of the container.
    """
    stamps = [packet.pts for packet in packets if packet.is_sound and packet.is_shown and packet.pts is not None]
    has_keys = any(packet.is_key and packet.is_sound and packet.pts is not None for packet in packets)
    if not has_keys or len(set(stamps)) < len(stamps) or any(packet.is_double for packet in packets):
        return True
    # AVI stores no presentation times. Those FFmpeg works out are right where nothing is reordered.
    return form == "avi" and any(packet.pts != packet.dts for packet in packets)


def by_decoding(packets: list[Packet], shown: list[int]) -> dict[int, int]:
    """Presentation times by the places of packets, for a file that tells none.

    Args:
        packets: all of the file.
        shown: their numbers in the order in which a decoder shows them.

    Returns:
        Empty where packets and frames are not one to one.
    """
    clock = sorted(packet.dts for packet in packets if packet.dts is not None)
    places = [packets[number].pos for number in shown]
    if not len(set(clock)) == len(set(places) - {None}) == len(packets) == len(shown):
        return {}
    return {place: stamp for place, stamp in zip(places, clock, strict=True) if place is not None}


def judged(packets: list[Packet], holes: Sequence[Hole]) -> list[Packet]:
    """Packets of a damaged file, sound until the damage and from the next keyframe on.

    Args:
        packets: all of the file, sound where nothing is known against them.
        holes: damaged bytes, ascending.

    Returns:
        The packets, and behind each hole one without a time, for those that it may have swallowed.
    """
    if not holes and all(packet.is_sound for packet in packets):
        return packets
    found: list[Packet] = []
    ahead = deque(holes)
    is_broken = False
    lead_until: int | None = None
    for packet, following in zip_longest(packets, packets[1:]):
        is_hit = not packet.is_sound and not _is_joint(packet, following)
        if ahead and packet.pos is not None:
            while ahead and ahead[0].end <= packet.pos:
                ahead.popleft()
                is_broken = True
                # Of the first frames, if they are gone, it is known that Matroska counts from 0.
                found.append(packet._replace(pts=None if found else 0, is_key=False, is_sound=False))
            is_hit |= bool(ahead) and ahead[0].start < packet.pos + packet.size
        if is_hit:
            is_broken = True
        elif is_broken and packet.is_key:
            is_broken = False
            lead_until = packet.pts
        # Decoded after a keyframe but shown before it, a frame may refer to those before both.
        is_lead = lead_until is not None and packet.pts is not None and packet.pts < lead_until
        found.append(packet._replace(is_sound=not is_broken and not is_lead))
    return found


def _is_joint(packet: Packet, following: Packet | None) -> bool:
    """Where recordings of a broadcast are joined, FFmpeg takes the last packet of the first for cut short."""
    if following is None or not following.is_key or packet.dts is None or following.dts is None:
        return False
    return following.dts - packet.dts <= packet.duration


def offered(packets: list[Packet], steps: Sequence[Fraction], *, is_cut: bool) -> tuple[dict[int, int], set[int]]:
    """The frames that a file offers.

    Args:
        packets: those that are shown, judged.
        steps: what may be the ticks from one frame to the next.
        is_cut: the file breaks off.

    Returns:
        The durations of the frames by their timestamps, and the timestamps of those among them that are lost.
    """
    sound = [number for number, packet in enumerate(packets) if packet.is_sound]
    end = sound[-1] + 1 if sound else 0
    durations = {packet.pts: packet.duration for packet in packets if packet.is_sound and packet.pts is not None}
    lost: set[int] = set()
    if 0 < len(sound) < end:
        unsound = {packet.pts for packet in packets[:end] if packet.pts is not None} - durations.keys()
        gaps = (_gaps(sorted(durations), unsound, step) for step in steps)
        lost = next((gap for gap in gaps if gap is not None), unsound)
    if is_cut or end < len(packets):
        # What is gone would be decoded, and so be shown, after all that is there was decoded.
        limit = max((packet.dts + packet.duration for packet in packets[:end] if packet.dts is not None), default=inf)
        durations = {pts: duration for pts, duration in durations.items() if pts <= limit}
    lost = {pts for pts in lost if durations and pts < max(durations)}
    return durations | dict.fromkeys(lost, 0), lost


def _gaps(sound: list[int], unsound: Set[int], step: Fraction) -> set[int] | None:
    """The timestamps that are missing among those of sound packets, if these stand at a steady step."""

    def number(pts: int) -> int | None:
        steps = round((pts - sound[0]) / step)
        return steps if abs(sound[0] + steps * step - pts) <= 1 else None

    there = [found for pts in sound if (found := number(pts)) is not None]
    num_steady = sum(after - before == 1 for before, after in pairwise(there))
    if len(set(there)) < len(sound) or 2 * num_steady < len(there) - 1:
        return None
    known = {found: pts for pts in unsound if (found := number(pts)) is not None}
    gone = set(range(min([0, *known]), there[-1])) - set(there)
    return {known.get(each, round(sound[0] + each * step)) for each in gone}
