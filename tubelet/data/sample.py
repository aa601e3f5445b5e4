"""What a data set says: its samples, what is true of each, and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

Task = Literal["classify", "multilabel", "frames", "detect", "segment"]
Unit = Literal["frames", "s"]


class Span(NamedTuple):
    """A stretch of a video in which a class is seen.

    Attributes:
        start: first moment, in the unit of the sample.
        end: the moment after the last one.
        target: index of the class.
    """

    start: float
    end: float
    target: int


class Actor(NamedTuple):
    """Somebody in the middle frame of a sample, and what they do.

    Attributes:
        x1: left side; like the other three a fraction of the frame, 0..1.
        y1: upper side.
        x2: right side.
        y2: lower side.
        targets: indices of the classes.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    targets: tuple[int, ...]


Target = int | tuple[int, ...] | tuple[Span, ...] | tuple[Actor, ...] | Path


@dataclass(frozen=True, slots=True)
class Sample:
    """A video, or a part of it, or a scan, and what is true of it.

    Attributes:
        path: the video file, or the folder of its frames; of a scan the file or the folder of its DICOM series.
        target: by the task of the data set: classify, index of the class; multilabel, the indices of all its classes;
            frames, the spans in which each class is seen; detect, who is in the frame at `moment`; segment, the file
            of the mask.
        start: where the part begins, in `unit`.
        end: where it ends, itself left out; None means the end of the video.
        moment: where the boxes are, and the middle of a clip; None where the task is not detect.
        unit: what these and the spans count: source frames from 0, or seconds from the first frame.
        group: samples of one group (the same source, person, patient) belong in one split; empty where only the file
            itself is one.
        fps: rate of a folder of frames, where the data set tells it; a video file has its own.
        title: what it is called where its file is a copy of a part of another; empty where the path tells.
        more: the further channels of a scan that has a file for each.
    """

    path: Path
    target: Target
    start: float = 0
    end: float | None = None
    moment: float | None = None
    unit: Unit = "frames"
    group: str = ""
    fps: float | None = None
    title: str = ""
    more: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The title, else the path, with the part when it is not all."""
        if self.title:
            return self.title
        unit = " s" if self.unit == "s" else ""
        if self.moment is not None:
            return f"{self.path}[{self.moment}{unit}]"
        is_whole = self.start == 0 and self.end is None
        return f"{self.path}" + ("" if is_whole else f"[{self.start}:{'' if self.end is None else self.end}{unit}]")


@dataclass(frozen=True)
class VideoData:
    """What a path holds.

    Attributes:
        classes: class names in the order of the targets.
        splits: the samples of each split.
        task: what a target is, see `Sample`.
        layout: name of the layout that was recognised, and of the files it was read from.
        mirrored: class that each class becomes in a mirror, by index; None: a mirrored clip has no class here.
            Classes that are not listed stay what they are.
        reversed: the same for a clip played backwards; here what is not listed has no class when reversed.
        missing: videos that the lists name and that are not there; they are left out.
        evaluated: classes that the data set's own measure counts (60 of AVA's 80); empty means all.
        is_volume: the samples are scans, whose third axis is a depth.
        is_parted_here: nothing told the parts of scans with masks: `val` is a share of all that was set aside.
        ignored: label, the next after those of the classes, of voxels of the masks that do not count; None without.
        missing_of: the missing videos of each split; empty where the lists do not tell the splits.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]
    task: Task = "classify"
    layout: str = ""
    mirrored: Mapping[int, int | None] = field(default_factory=dict)
    reversed: Mapping[int, int] = field(default_factory=dict)
    missing: int = 0
    evaluated: tuple[int, ...] = ()
    is_volume: bool = False
    is_parted_here: bool = False
    ignored: int | None = None
    missing_of: Mapping[str, int] = field(default_factory=dict)

    def missing_in(self, split: str) -> int:
        """Missing videos of a split, or of the whole data where the lists do not tell the splits."""
        return self.missing_of.get(split, self.missing)


def shared_groups(data: VideoData) -> dict[str, tuple[str, ...]]:
    """The groups that are in several splits, each with these splits: what a network remembers of them it is tested on.

    A group is a sample's `group`, or its file where that is empty.
    """
    seen: dict[str, tuple[str, ...]] = {}
    for split, samples in data.splits.items():
        for group in {sample.group or str(sample.path) for sample in samples}:
            seen[group] = (*seen.get(group, ()), split)
    return dict(sorted((group, splits) for group, splits in seen.items() if len(splits) > 1))
