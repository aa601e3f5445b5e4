"""Clips of the samples of a data set, with what is true of each clip: random ones to train on, views to measure with.

The target of a clip, by the task of the data set:

- classify: the index of the class.
- multilabel: (K,) float, 1 for each class of the sample.
- frames: the classes of the clip's own frames. (T,) int64, -1 where no span lies; (K, T) float, 1 where a class is
  seen, in data sets where spans of different classes overlap anywhere.
- detect: a pair, boxes (N, 4) float as (x1, y1, x2, y2) in pixels of the clip, and (N, K) float, 1 for each class of
  each. The clip is centred at the sample's moment, which is frame T // 2; beyond the ends of the video its first or
  last frame stands. A `loader` makes one tensor of the boxes of all clips, rows (clip, x1, y1, x2, y2).

Spans and moments follow the frames of the clip, whatever its rate, and what mirrors or reverses a clip changes its
classes and boxes as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..spec import ClipSpec
from . import flow, sampling, transforms
from .augment import Augment, Change
from .sample import Actor, Sample, Span, VideoData
from .sampling import SHORTS, Short
from .video import Box, Video, VideoError

Target = int | Tensor | tuple[Tensor, Tensor]
Key = tuple[int, int] | tuple[int, int, int]

# Two frames are never this close: a time computed in floating point may fall short by a rounding error.
_TIME_TOLERANCE_S = 1e-6


class TrainClips(Dataset):
    """Random clips: (clip uint8 (C, T, H, W), target), the same for the same (seed, epoch, index, draw).

    Keys are (epoch, index) or (epoch, index, draw), so that worker processes need not be told of the epoch; another
    draw is another clip of the same sample. Keys of one sample that follow one another are read from one opening of
    its video. Boxes whose centre the crop leaves out are dropped, the others end at its edges.

    Args:
        data: a data set.
        split: which of its parts.
        spec: of the clips.
        augment: random changes. A clip of a class without a mirror image is not mirrored, one of a class that has no
            name backwards is not reversed, and what `Augment.undefined` names is left out.
        short: what videos with fewer frames than a clip do, see `sampling.fit`.
        seed: of all chance.

    Raises:
        ValueError: no such split or `short`; or `augment.randaugment` in a data set of boxes, which would not move with
            the picture.
    """

    def __init__(self, data: VideoData, split: str, spec: ClipSpec, augment: Augment, short: Short, seed: int) -> None:
        if data.task == "detect" and augment.randaugment:
            raise ValueError("randaugment turns and moves the picture and not its boxes: leave it out for detection")
        self.samples, self.truth = _samples(data, split, short), _Truth.of(data)
        undefined: dict[str, Any] = dict.fromkeys(augment.undefined(spec.in_channels), 0)
        self.augment = replace(augment, **undefined)
        self.spec, self.short, self.seed = spec, short, seed

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, key: Key) -> str:
        """Path of the video, with the part when it is not all."""
        return self.samples[_index(key)].name

    def __getitem__(self, key: Key) -> tuple[Tensor, Target]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Tensor, Target]]:
        """Items of several keys."""
        return list(chain.from_iterable(self._read(i, list(group)) for i, group in groupby(keys, _index)))

    def _read(self, index: int, keys: list[Key]) -> list[tuple[Tensor, Target]]:
        sample = self.samples[index]
        with _opened(sample, self.spec) as video:
            plans = [self._plan(sample, video, key) for key in keys]
            clips = _cut(video, plans)
            if self.spec.in_channels == 2:
                pairs = zip(plans, clips, strict=True)
                clips = [transforms.negated(clip) if plan.is_reversed else clip for plan, clip in pairs]
            return [(plan.change.apply(clip), plan.target) for plan, clip in zip(plans, clips, strict=True)]

    def _plan(self, sample: Sample, video: Video, key: Key) -> _Plan:
        epoch, index, draw = (*key, 0)[:3]
        generator = torch.Generator().manual_seed(hash((self.seed, epoch, index, draw)) & (2**63 - 1))
        spec, truth, augment = self.spec, self.truth, self.augment
        classes = truth.classes(sample)
        step, part = sampling.step(spec, video.fps), part_of(sample, video)
        is_reversed = False
        if truth.task == "detect":
            indices = _around(sample, video, part, spec.num_frames, step)
        else:
            augment = replace(augment, reverse=augment.reverse and classes <= truth.reversed.keys())
            indices, is_reversed = augment.choose(len(part), spec.num_frames, step, self.short, generator)
            indices = [part.start + index for index in indices]
        becomes = {name: truth.reversed[name] if is_reversed else name for name in classes}
        mirrored = {name: truth.mirrored.get(other, other) for name, other in becomes.items()}
        augment = replace(augment, flip=augment.flip and None not in mirrored.values())
        size = video.height, video.width
        change = augment.draw(size, spec, generator)
        if change.flip:
            becomes = cast("dict[int, int]", mirrored)
        if truth.task == "detect":
            return _Plan(indices, change, _in_crop(truth.boxes(sample, becomes), size, change))
        return _Plan(indices, change, truth.of_clip(sample, video, indices, becomes), is_reversed)


class ViewClips(Dataset):
    """All views of each sample: (clips uint8 (views * crops, C, T, H, W), target, index).

    Views are spread over the video, crops over the side with more room; view by view, crop by crop. The targets of
    frames are (views * crops, T) or (views * crops, K, T). Every box is there, cut at the edges of the crop; a spec
    without a crop shows them whole.

    Args:
        data: a data set.
        split: which of its parts.
        spec: of the clips.
        views: clips of each sample.
        crops: crops of each clip.
        short: what videos with fewer frames than a clip do, see `sampling.fit`.

    Raises:
        ValueError: no such split or `short`; or several views or crops of a data set of boxes.
    """

    def __init__(self, data: VideoData, split: str, spec: ClipSpec, views: int, crops: int, short: Short) -> None:
        if data.task == "detect" and (views, crops) != (1, 1):
            raise ValueError(f"{views} views x {crops} crops of boxes, which belong to one clip: take 1 x 1")
        self.samples, self.truth = _samples(data, split, short), _Truth.of(data)
        self.spec, self.views, self.crops, self.short = spec, views, crops, short

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Path of the video, with the part when it is not all."""
        return self.samples[index].name

    def __getitem__(self, index: int) -> tuple[Tensor, Target, int]:
        sample, spec, truth = self.samples[index], self.spec, self.truth
        with _opened(sample, spec) as video:
            lists = self._lists(sample, video)
            size = video.height, video.width
            area = transforms.spread_area(*transforms.resize_shape(*size, spec.resize), spec.crop, self.crops)
            clips = video.clips(lists, resize=spec.resize, crop=area)
            # cropped one by one: all views at full size may be gigabytes
            views = [torch.stack(transforms.spread_crops(clip, spec.crop, self.crops)) for clip in clips]
            same = {name: name for name in truth.classes(sample)}
            target: Target
            if truth.task == "detect":
                target = _in_view(truth.boxes(sample, same), size, spec)
            elif truth.task == "frames":
                targets = [cast(Tensor, truth.of_clip(sample, video, indices, same)) for indices in lists]
                target = torch.stack(targets).repeat_interleave(self.crops, dim=0)
            else:
                target = truth.of_clip(sample, video, [], same)
        return torch.cat(views), target, index

    def _lists(self, sample: Sample, video: Video) -> list[list[int]]:
        """Frame indices of each view."""
        num_frames, step, part = self.spec.num_frames, sampling.step(self.spec, video.fps), part_of(sample, video)
        if self.truth.task == "detect":
            return [_around(sample, video, part, num_frames, step)]
        starts = sampling.view_starts(len(part), sampling.span(num_frames, step), self.views)
        views = [sampling.fit(sampling.clip(start, num_frames, step), len(part), self.short) for start in starts]
        return [[part.start + index for index in indices] for indices in views]


class WholeVideos:
    """Samples of a data set of frames from end to end, in clips that follow one another.

    Args:
        data: a data set of the task frames.
        split: which of its parts.
        spec: of the clips.
        short: what videos with fewer frames than a clip do, see `sampling.fit`.

    Raises:
        ValueError: no such split or `short`.
    """

    def __init__(self, data: VideoData, split: str, spec: ClipSpec, short: Short) -> None:
        self.samples, self.truth = _samples(data, split, short), _Truth.of(data)
        self.spec, self.short = spec, short

    def clips(self, index: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """The clips of a sample: (C, T, H, W) uint8, its target, and which of its frames no other clip has.

        Frames lie as far apart as in any clip of the spec. The last clip is moved back to end with the video.

        Raises:
            VideoError: the video cannot be read, or is too short.
        """
        sample, spec = self.samples[index], self.spec
        with _opened(sample, spec) as video:
            part = part_of(sample, video)
            parts = sampling.consecutive(len(part), spec.num_frames, sampling.step(spec, video.fps), self.short)
            lists = [[part.start + frame for frame in indices] for indices, _ in parts]
            same = {name: name for name in self.truth.classes(sample)}
            clips = video.clips(lists, resize=spec.resize, crop=spec.crop)
            for clip, indices, (_, fresh) in zip(clips, lists, parts, strict=True):
                yield clip, cast(Tensor, self.truth.of_clip(sample, video, indices, same)), fresh


def _samples(data: VideoData, split: str, short: Short) -> list[Sample]:
    """The samples of a split; ValueError where there is no such split, or `short` is none of `SHORTS`."""
    if split not in data.splits:
        raise ValueError(f"no part {split!r}; there is {', '.join(data.splits)}")
    if short not in SHORTS:
        raise ValueError(f"short {short!r}; there is {', '.join(SHORTS)}")
    return data.splits[split]


def _index(key: Key) -> int:
    """The sample of a key of `TrainClips`."""
    try:
        return key[1]
    except TypeError:
        raise TypeError(f"key {key!r} is no (epoch, index); give `loader` an EpochOrder(len(dataset), seed)") from None


@dataclass(frozen=True)
class _Plan:
    """What is drawn for a clip before it is read."""

    indices: list[int]
    change: Change
    target: Target
    is_reversed: bool = False


@dataclass(frozen=True)
class _Truth:
    """What is true of the clips of a data set, besides its samples."""

    task: str
    num_classes: int
    has_overlaps: bool
    mirrored: dict[int, int | None]
    reversed: dict[int, int]

    @staticmethod
    def of(data: VideoData) -> _Truth:
        overlaps = data.task == "frames" and has_overlaps(data)
        return _Truth(data.task, len(data.classes), overlaps, dict(data.mirrored), dict(data.reversed))

    def classes(self, sample: Sample) -> set[int]:
        """All classes of a sample."""
        target = cast(Any, sample.target)
        if self.task == "classify":
            return {target}
        if self.task == "multilabel":
            return set(target)
        if self.task == "frames":
            return {span.target for span in target}
        return {name for actor in target for name in actor.targets}

    def of_clip(self, sample: Sample, video: Video, indices: list[int], becomes: dict[int, int]) -> int | Tensor:
        """Target of these source frames, with the class that each class becomes."""
        target = cast(Any, sample.target)
        if self.task == "classify":
            return becomes[target]
        if self.task == "multilabel":
            return self._hot([becomes[name] for name in target])
        at = torch.tensor(indices, dtype=torch.float64) if sample.unit == "frames" else video.times[indices]
        seen = torch.zeros(self.num_classes, len(indices))
        for span in target:
            inside = (at >= span.start - _TIME_TOLERANCE_S) & (at < span.end - _TIME_TOLERANCE_S)
            seen[becomes[span.target], inside] = 1
        if self.has_overlaps:
            return seen
        return torch.where(seen.any(0), seen.argmax(0), -1)

    def boxes(self, sample: Sample, becomes: dict[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) as fractions of the frame, and their classes (N, K)."""
        actors = cast("tuple[Actor, ...]", sample.target)
        boxes = torch.tensor([actor[:4] for actor in actors], dtype=torch.float32).reshape(-1, 4)
        hot = [self._hot([becomes[name] for name in actor.targets]) for actor in actors]
        return boxes, torch.stack(hot) if hot else torch.zeros(0, self.num_classes)

    def _hot(self, names: Sequence[int]) -> Tensor:
        return torch.zeros(self.num_classes).index_fill(0, torch.tensor(names, dtype=torch.int64), 1)


def has_overlaps(data: VideoData) -> bool:
    """Whether frames of a data set of spans have several classes: the targets of all its splits are then (K, T)."""
    return any(_overlap(cast(Any, sample.target)) for samples in data.splits.values() for sample in samples)


def _overlap(spans: Sequence[Span]) -> bool:
    """Whether two spans of different classes share a moment."""
    last: Span | None = None
    for span in sorted(spans):
        if last is not None and span.start < last.end - _TIME_TOLERANCE_S and span.target != last.target:
            return True
        last = span if last is None or span.end > last.end else last
    return False


def part_of(sample: Sample, video: Video) -> range:
    """Source frames that belong to the sample."""
    if sample.unit == "frames":
        end = video.num_frames if sample.end is None else int(sample.end)
        if end > video.num_frames:
            raise VideoError(f"{sample.name}: the video has {video.num_frames} frames only")
        if end <= sample.start:
            raise VideoError(f"{sample.name}: it begins where the video of {end} frames has ended")
        return range(int(sample.start), end)
    ends = torch.tensor([sample.start, torch.inf if sample.end is None else sample.end], dtype=torch.float64)
    first, end = torch.searchsorted(video.times, ends - _TIME_TOLERANCE_S).tolist()
    if end <= first:
        raise VideoError(f"{sample.name}: no frame lies there; the video lasts {video.duration_s:.2f} s")
    return range(first, end)


def _around(sample: Sample, video: Video, part: range, num_frames: int, step: float) -> list[int]:
    """The clip whose frame T // 2 is the sample's moment, held at the ends of the part."""
    moment = cast(float, sample.moment)
    if sample.unit == "s":
        if not 0 <= moment <= video.duration_s:
            raise VideoError(f"{sample.name}: the video lasts {video.duration_s:.2f} s")
        at = torch.tensor(moment + _TIME_TOLERANCE_S, dtype=torch.float64)
        middle = int(torch.searchsorted(video.times, at, right=True)) - 1
    else:
        middle = int(moment)
        if not 0 <= middle < video.num_frames:
            raise VideoError(f"{sample.name}: the video has frames 0 to {video.num_frames - 1}")
    offsets = sampling.clip(0, num_frames, step)
    start = middle - offsets[num_frames // 2]
    return [min(max(start + offset, part.start), part.stop - 1) for offset in offsets]


def _cut(video: Video, plans: Sequence[_Plan]) -> list[Tensor]:
    """The clip of each plan, cut out and resized; all from one pass over the video."""
    if len(plans) == 1:
        change = plans[0].change
        return [video.frames(plans[0].indices, box=change.box, resize=change.size)]
    union = _union([plan.change.box for plan in plans])
    order = sorted(range(len(plans)), key=lambda i: min(plans[i].indices))
    clips: dict[int, Tensor] = {}
    for i, clip in zip(order, video.clips([plans[i].indices for i in order], box=union), strict=True):
        top, left, height, width = plans[i].change.box
        top, left = top - union[0], left - union[1]
        clips[i] = transforms.resize(clip[..., top : top + height, left : left + width], plans[i].change.size)
    return [clips[i] for i in range(len(plans))]


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    bottom, right = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return top, left, bottom - top, right - left


def _in_crop(found: tuple[Tensor, Tensor], size: tuple[int, int], change: Change) -> tuple[Tensor, Tensor]:
    """Boxes as fractions of a frame of `size` -> pixels of the changed clip, those whose centre lies in it."""
    fractions, targets = found
    top, left, height, width = change.box
    scale = torch.tensor([change.size[1] / width, change.size[0] / height] * 2)
    boxes = (fractions * torch.tensor([size[1], size[0]] * 2) - torch.tensor([left, top] * 2)) * scale
    if change.flip:
        boxes = torch.stack([change.size[1] - boxes[:, 2], boxes[:, 1], change.size[1] - boxes[:, 0], boxes[:, 3]], 1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    room = torch.tensor([change.size[1], change.size[0]])
    is_in = ((middle >= 0) & (middle < room)).all(1)
    return _clamped(boxes, change.size)[is_in], targets[is_in]


def _in_view(found: tuple[Tensor, Tensor], size: tuple[int, int], spec: ClipSpec) -> tuple[Tensor, Tensor]:
    """Boxes as fractions of a frame of `size` -> pixels of the centre crop, all of them."""
    fractions, targets = found
    height, width = transforms.resize_shape(*size, spec.resize)
    crop = spec.crop or (height, width)
    corner = torch.tensor([(width - crop[1]) // 2, (height - crop[0]) // 2] * 2)
    return _clamped(fractions * torch.tensor([width, height] * 2) - corner, crop), targets


def _clamped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limits = torch.tensor([size[1], size[0]] * 2)
    return torch.minimum(boxes.clamp(min=0), limits)


@contextmanager
def _opened(sample: Sample, spec: ClipSpec) -> Iterator[Video]:
    """The video of a sample; whatever does not fit is an error that begins with its name."""
    with flow.open_video(sample.path, sample.fps, spec.in_channels) as video:
        try:
            check_channels(video, spec)
            yield video
        except VideoError:
            raise  # it has the name already
        except ValueError as error:
            raise VideoError(f"{sample.name}: {error}") from None


def check_channels(video: Video, spec: ClipSpec) -> None:
    """Raise VideoError unless a video has the channels of the clips that are to be cut from it."""
    if video.channels != spec.in_channels:
        raise VideoError(
            f"{video.path}: {video.channels} channels, and the clips of the network have {spec.in_channels}"
        )


def check_clip(video: Video, spec: ClipSpec) -> None:
    """Raise VideoError unless a video has the channels and the room of centred clips of a spec."""
    check_channels(video, spec)
    if spec.crop is not None:
        try:
            transforms.check_crop(*transforms.resize_shape(video.height, video.width, spec.resize), spec.crop)
        except ValueError as error:
            raise VideoError(f"{video.path}: {error}") from None
