"""Random changes to training clips, alike for all frames of a clip: `Augment` says which, `Change` is one draw.

Chance and change are apart. `Augment.choose` draws the frames, `Augment.draw` the box and the changes of one clip as
plain numbers, `Change.apply` carries them out on uint8. The reader sits between them: it cuts the box and resizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..spec import ClipSpec
from . import sampling, transforms
from .sampling import Short
from .transforms import Box, Size, Steps

# The 14 changes of RandAugment: (value that changes nothing, how far it goes at magnitude 10, whether either way), in
# the units of `transforms.change`. The ranges are those of the paper's code, ordered as in timm, so that a greater
# magnitude always changes more; four bits are left of eight, as in torchvision, since none would be black.
RANDAUGMENT = {
    "identity": (0, 0, False),
    "autocontrast": (0, 0, False),
    "equalize": (0, 0, False),
    "rotate": (0, 30, True),
    "solarize": (256, -256, False),
    "saturation": (1, 0.9, True),
    "posterize": (8, -4, False),
    "contrast": (1, 0.9, True),
    "brightness": (1, 0.9, True),
    "sharpness": (1, 0.9, True),
    "shear_x": (0, 0.3, True),
    "shear_y": (0, 0.3, True),
    "translate_x": (0, 0.45, True),
    "translate_y": (0, 0.45, True),
}
RANGES = {
    "zoom": (1, 4),
    "color": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "randaugment": (0, len(RANDAUGMENT)),
    "magnitude": (0, 10),
    "erase": (0, 1),
    "rate": (0, 3),
    "drop": (0, 1),
}
ERASED_AREA = (0.02, 1 / 3)  # of the clip, as in timm and PySlowFast
ERASED_ASPECT = (0.3, 1 / 0.3)  # of the paper, arXiv 1708.04896
TRIES = 10  # for a box that lies in the frame, as in every code base since Inception's


@dataclass(frozen=True)
class Change:
    """What is done to one clip: plain numbers, drawn by `Augment.draw`.

    Attributes:
        box: (top, left, height, width) to cut from the source, in its pixels.
        size: (height, width) to which the box is resized; the clip's own size from then on.
        flip: whether the clip is mirrored, left to right.
        steps: changes of place and colour in their order, see `transforms.change`.
        erase: (top, left, height, width) covered with noise, in pixels of the clip; None for nothing.
        seed: of that noise.
    """

    box: Box
    size: Size
    flip: bool = False
    steps: Steps = ()
    erase: Box | None = None
    seed: int = 0

    def apply(self, clip: Tensor) -> Tensor:
        """All that follows the box and the resize, alike in every frame.

        Flip, then places, then colours, then the erased box. It is the same as these steps one by one, to one grey
        level; `transforms.change` says where values are rounded. What two channels show is optical flow: mirrored, it
        also runs the other way.

        Args:
            clip: uint8 (C, T, H, W), with (H, W) the `size`; it is not changed.

        Returns:
            uint8 (C, T, H, W).

        Raises:
            ValueError: the clip has another size.
        """
        if tuple(clip.shape[-2:]) != self.size:
            raise ValueError(
                f"clip of {clip.shape[-2]}x{clip.shape[-1]} pixels; this change is for {self.size[0]}x{self.size[1]}"
            )
        clip = clip.contiguous()  # from a decoder's (T, H, W, C) once, since each later pass is faster so
        if self.flip:
            clip = transforms.flip(clip)
            if len(clip) == 2:
                clip = transforms.negated(clip, (0,))
        clip = transforms.change(clip, self.steps)
        if self.erase is not None:
            clip = transforms.erase(clip, self.erase, self.seed)
        return clip


@dataclass(frozen=True)
class Augment:
    """Random changes to a training clip, each alike for all its frames. By default the crop lies anywhere.

    The box: a crop as the clip's spec has it, anywhere in the frame, unless `max_shift`, `zoom` or `area` say more.

    Attributes:
        max_shift: pixels of the resized frame that the crop may lie off the centre, at least 0; None lets it lie
            anywhere in the frame.
        zoom: the frame is resized to 1 to `zoom` times the size that the spec asks for, then cropped; 1..4. 1.25 is
            the short side of 256..320 for a crop of 224 (Simonyan and Zisserman, arXiv 1409.1556; SlowFast).
        area: share of the frame that the box covers, (least, most) in 0..1, in place of a crop of fixed scale:
            Inception's random resized crop (arXiv 1409.4842), (0.08, 1) as published.
        aspect: width to height of that box, as a multiple of the crop's own, (least, most).
        flip: mirror half of the clips, with the mirrored class where the data set has one; wrong where left and right
            are classes and it does not say so.
        color: largest change of brightness and of contrast, as a share, 0..1 (arXiv 1312.5402).
        saturation: largest change of saturation, as a share, 0..1.
        hue: largest turn of the hue, as a share of the full circle, 0..0.5.
        randaugment: changes drawn from the 14 of RandAugment (arXiv 1909.13719), 0..14; 2 as published for ImageNet.
        magnitude: how strong those are, 0..10.
        erase: probability that a box of 2 to 33 % of the clip is covered with noise, 0..1 (arXiv 1708.04896).
        rate: largest change of the frame rate: frames lie 1 / (1 + rate) to 1 + rate times as far apart, 0..3.
        drop: probability, 0..1, that a frame is lost and the one before it shown again; the first frame stays.
        reverse: play half of the clips backwards, with the reversed class where the data set has one.

    Whoever reads takes `flip` or `reverse` back with `dataclasses.replace` for a sample whose class has no mirror
    image or no reversed class.

    Raises:
        ValueError: a value is out of its range, or `area` is given with `max_shift` or `zoom`.
    """

    max_shift: int | None = None
    zoom: float = 1.0
    area: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    color: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    erase: float = 0.0
    rate: float = 0.0
    drop: float = 0.0
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.max_shift is not None and self.max_shift < 0:
            raise ValueError(f"max_shift {self.max_shift} must be at least 0 pixels, or None for anywhere")
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)} must lie in {least}..{most}")
        for name, most in (("area", 1), ("aspect", math.inf)):
            if (pair := getattr(self, name)) is None:
                continue
            object.__setattr__(self, name, tuple(pair))
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
                limit = f"0 < least <= most{'' if most == math.inf else f' <= {most}'}"
                raise ValueError(f"{name} {tuple(pair)} must be (least, most) with {limit}")
        if self.area is not None and (self.max_shift is not None or self.zoom != 1):
            raise ValueError(
                f"area {self.area} places and scales the box by itself; leave out max_shift and zoom, or area"
            )

    def undefined(self, channels: int) -> tuple[str, ...]:
        """Names of the changes of colour asked for that clips of so many channels do not have.

        One channel has no saturation and no hue, and in `randaugment` its saturation stays as it is. What is neither
        gray nor RGB, such as the displacements of optical flow, has no colour at all, and turned flow would have to
        turn its vectors as well.
        """
        colors = {3: (), 1: ("saturation", "hue")}.get(channels, ("color", "saturation", "hue", "randaugment"))
        return tuple(name for name in colors if getattr(self, name))

    def choose(
        self, total: int, num_frames: int, step: float, short: Short, generator: torch.Generator
    ) -> tuple[list[int], bool]:
        """Frames of a random clip.

        Args:
            total: frames of the video, or of the part that the sample is.
            num_frames: T of the clip.
            step: source frames between two of its frames, see `sampling.step`.
            short: what a video with fewer frames than the clip reaches over does, see `sampling.fit`.
            generator: source of chance.

        Returns:
            T indices from 0 to total - 1, and whether they run backwards. A changed frame rate never makes a clip
            too long for a video in which the plain one has room.

        Raises:
            ValueError: as in `sampling.fit`.
        """
        if self.rate:
            longest = max(step, (total - 1) / max(1, num_frames - 1))
            step = min(step * _between_logs(1 / (1 + self.rate), 1 + self.rate, generator), longest)
        start = sampling.random_start(total, sampling.span(num_frames, step), generator)
        indices = sampling.fit(sampling.clip(start, num_frames, step), total, short)
        if self.drop:
            lost = (torch.rand(num_frames, generator=generator) < self.drop).tolist()
            for t in range(1, num_frames):
                if lost[t]:
                    indices[t] = indices[t - 1]
        is_reversed = self.reverse and _chance(0.5, generator)
        return indices[::-1] if is_reversed else indices, is_reversed

    def draw(self, size: Size, spec: ClipSpec, generator: torch.Generator) -> Change:
        """All chance of one clip but its frames.

        The box lies in whole pixels of the source, so it is cut before the resize: `spec.crop` at the scale of
        `spec.resize`, to the nearest pixel. Without a crop the box is the frame, at the size of the resize.

        Args:
            size: (height, width) of the source.
            spec: of the clip.
            generator: source of chance.

        Raises:
            ValueError: the crop does not fit in the resized frame.
        """
        resized = transforms.resize_shape(*size, spec.resize)
        crop = spec.crop or resized
        transforms.check_crop(*resized, crop)
        if self.area is not None:
            shape = crop[1] / crop[0]
            box = _random_box(size, self.area, (shape * self.aspect[0], shape * self.aspect[1]), generator)
        else:
            box = self._crop(size, resized, crop, generator)
        is_erased = self.erase > 0 and _chance(self.erase, generator)
        return Change(
            box,
            crop,
            flip=self.flip and _chance(0.5, generator),
            steps=self._steps(generator),
            erase=_random_box(crop, ERASED_AREA, ERASED_ASPECT, generator) if is_erased else None,
            seed=int(torch.randint(2**31, (), generator=generator)) if is_erased else 0,
        )

    def _crop(self, size: Size, resized: Size, crop: Size, generator: torch.Generator) -> Box:
        """Box of a crop at the scale of the resize, or up to `zoom` times that."""
        zoom = 1 + (self.zoom - 1) * _uniform(generator)
        places, sides = [], []
        for source, target, side in zip(size, resized, crop, strict=True):
            scale = source / (target * zoom)
            sides.append(min(source, max(1, round(side * scale))))
            room = source - sides[-1]
            slack = room if self.max_shift is None else min(room, 2 * round(self.max_shift * scale))
            places.append((room - slack) // 2 + int(torch.randint(slack + 1, (), generator=generator)))
        return places[0], places[1], sides[0], sides[1]

    def _steps(self, generator: torch.Generator) -> Steps:
        jitter = {"brightness": self.color, "contrast": self.color, "saturation": self.saturation}
        steps = [(name, 1 + share * _signed(generator)) for name, share in jitter.items() if share]
        if self.hue:
            steps.append(("hue", self.hue * _signed(generator)))
        rows = list(RANDAUGMENT.items())
        for index in torch.randint(len(rows), (self.randaugment,), generator=generator).tolist():
            name, (rest, reach, is_signed) = rows[index]
            sign = -1 if is_signed and _chance(0.5, generator) else 1
            steps.append((name, rest + sign * reach * self.magnitude / 10))
        return tuple(step for step in steps if step[0] != "identity")


RECIPES = {
    "plain": Augment(),
    # PySlowFast's for its residual networks, X3D and Something-Something (the last without the flip)
    "kinetics": Augment(zoom=1.25, flip=True),
    # PySlowFast's for long training (arXiv 2112.01526): timm's rand-m7-n4, where each of four happens in half the clips
    "strong": Augment(area=(0.08, 1), flip=True, randaugment=2, magnitude=7, erase=0.25),
}


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _signed(generator: torch.Generator) -> float:
    return 2 * _uniform(generator) - 1


def _chance(probability: float, generator: torch.Generator) -> bool:
    return _uniform(generator) < probability


def _between(least: float, most: float, generator: torch.Generator) -> float:
    return least + (most - least) * _uniform(generator)


def _between_logs(least: float, most: float, generator: torch.Generator) -> float:
    """A factor; as likely to be within two times of one value as of another."""
    return math.exp(_between(math.log(least), math.log(most), generator))


def _random_box(size: Size, area: tuple[float, float], aspect: tuple[float, float], generator: torch.Generator) -> Box:
    """Box of a random share of the frame and a random shape, anywhere in it.

    After TRIES that do not fit, the last one is cut to the frame.
    """
    height, width = size
    for _ in range(TRIES):
        pixels = height * width * _between(*area, generator)
        shape = _between_logs(*aspect, generator)
        sides = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 1 <= sides[0] <= height and 1 <= sides[1] <= width:
            break
    box_height, box_width = (min(max(1, side), most) for side, most in zip(sides, size, strict=True))
    top = int(torch.randint(height - box_height + 1, (), generator=generator))
    left = int(torch.randint(width - box_width + 1, (), generator=generator))
    return top, left, box_height, box_width
