"""ClipSpec: what clip a set of weights eats."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["window", "percentile", "z_score"]


def whole_numbers(**counts: Any) -> None:
    """Raise ValueError that names the first of these that is no whole number."""
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} {value!r} must be a whole number")


def at_least_one(**counts: int) -> None:
    """Raise ValueError that names the first of these counts that is no whole number, or below 1."""
    whole_numbers(**counts)
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")


class Intensity(NamedTuple):
    """How the values of a scan become those that a network takes, channel by channel.

    Attributes:
        kind: window cuts them off at low and high and brings these to 0 and 1, after which `mean` and `std` of the spec
            count; percentile does so with the values below which `low` and `high` percent of the scan's own lie;
            z_score brings the scan to mean 0 and deviation 1.
        low: lower end: units of the scan (Hounsfield units of CT), or percent.
        high: upper end.
    """

    kind: Kind
    low: float = 0.0
    high: float = 0.0


def check_intensity(intensity: Intensity) -> None:
    """Raise ValueError unless it is of a known kind and its ends are in order."""
    kind, low, high = intensity
    if kind not in get_args(Kind):
        raise ValueError(f"intensity {kind!r}; there is {', '.join(get_args(Kind))}")
    if kind != "z_score" and not low < high:
        raise ValueError(f"intensity {kind} from {low:g} to {high:g}: the lower end must be below the upper")
    if kind == "percentile" and not (low >= 0 and high <= 100):
        raise ValueError(f"intensity percentile from {low:g} to {high:g}: percents lie in 0 to 100")


def is_orientation(letters: str) -> bool:
    """Whether these are three directions of the body, such as SPR, each along another axis of it."""
    return len(letters) == 3 and all(sum(letter in axis for letter in letters) == 1 for axis in ("RL", "AP", "SI"))


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """The clip that a network was trained on, and the names of what it answers.

    It travels with the weights, so that evaluation, prediction and streaming prepare their input
    exactly as training did.

    Attributes:
        num_frames: T of the clip.
        frame_stride: source frames between two frames of the clip, counted at `fps`.
        fps: rate (frames a second) to which a video is brought before `frame_stride` counts; None keeps its own.
        resize: short side in pixels before the crop, or the exact (height, width); None keeps the size.
        crop: (height, width) of the clip; one number is a square; None keeps the size.
        mean: of each channel, for values in 0..1; its length is the number of input channels.
        std: of each channel, for values in 0..1; as long as `mean`.
        classes: class names in the order of the logits; empty when unknown.
        spacing_mm: (depth, height, width) of a voxel to which scans are resampled; None keeps their own, and is right
            for video.
        orientation: where the axes (depth, height, width) of scans point, such as SPR (superior, posterior, right);
            None leaves them as they are stored.
        intensity: how the values of scans become those that the network takes; None: they are pictures, 0..255.
        is_multilabel: several classes may be true of a clip, so that each score is a sigmoid.
        mirror_axes: of scans, 0 (depth) to 2 (width), along which it was trained on mirrored windows, too; None where
            nobody knows.

    Raises:
        ValueError: a value is out of its range, or `mean` and `std` differ in length.
    """

    num_frames: int = 16
    frame_stride: int = 1
    fps: float | None = None
    resize: int | tuple[int, int] | None = 128
    crop: tuple[int, int] | None = (112, 112)
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    classes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    intensity: Intensity | None = None
    mirror_axes: tuple[int, ...] | None = None
    is_multilabel: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.crop, int):
            object.__setattr__(self, "crop", (self.crop, self.crop))
        for field in ("crop", "mean", "std", "classes", "spacing_mm", "mirror_axes"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))
        if isinstance(self.resize, list):
            object.__setattr__(self, "resize", tuple(self.resize))
        at_least_one(num_frames=self.num_frames, frame_stride=self.frame_stride)
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps {self.fps} must be above 0, or None for the video's own rate")
        sizes = [n for size in (self.resize, self.crop) for n in (size if isinstance(size, tuple) else (size,))]
        pairs = [size for size in (self.resize, self.crop) if isinstance(size, tuple)]
        if any(n is not None and n < 1 for n in sizes) or any(len(pair) != 2 for pair in pairs):
            raise ValueError(
                f"resize {self.resize} and crop {self.crop} must be at least 1 pixel, and a pair a (height, width)"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std {len(self.std)}: give as many")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std {self.std} must be above 0")
        if self.spacing_mm is not None and (len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0):
            raise ValueError(f"spacing_mm {self.spacing_mm} must be three lengths above 0: depth, height, width")
        if self.orientation is not None and not is_orientation(self.orientation):
            raise ValueError(f"orientation {self.orientation!r}; give one letter each of R or L, A or P, S or I")
        if self.intensity is not None:
            object.__setattr__(self, "intensity", Intensity(*self.intensity))
            check_intensity(self.intensity)
        if self.mirror_axes is not None and len({*self.mirror_axes} & {0, 1, 2}) != len(self.mirror_axes):
            raise ValueError(f"mirror_axes {self.mirror_axes}: axes are 0 (depth), 1 (height) and 2 (width), each once")

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    def with_channels(self, in_channels: int) -> ClipSpec:
        """The same spec for another number of channels, each with the average statistics of the old ones.

        Two channels are optical flow, whose mean is 0.5: nothing moves.
        """
        if in_channels == self.in_channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        if in_channels == 2:
            mean = 0.5
        return dataclasses.replace(self, mean=(mean,) * in_channels, std=(std,) * in_channels)

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, ready for json."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ClipSpec:
        """The spec that `to_dict` wrote. A file of a later version may hold more fields: they are an error."""
        known = {field.name for field in dataclasses.fields(ClipSpec)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown ClipSpec fields {unknown}: the file is from a newer tubelet")
        return ClipSpec(**values)


TORCHVISION = ClipSpec(
    num_frames=16,
    fps=15.0,
    resize=(128, 171),
    crop=(112, 112),
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
IMAGENET = ClipSpec(
    num_frames=8,
    frame_stride=8,
    resize=256,
    crop=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def kinetics(num_frames: int, frame_stride: int, resize: int = 256, crop: int = 224) -> ClipSpec:
    """The clip of PySlowFast's and PyTorchVideo's networks: so many frames, square, at 30 frames a second."""
    return ClipSpec(num_frames, frame_stride, fps=30.0, resize=resize, crop=(crop, crop))
