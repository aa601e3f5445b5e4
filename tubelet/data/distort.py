"""Random changes to windows of scans: `Distort` says which, `Distortion` is one draw.

Chance and change are apart, as in `augment`: `Distort.draw` draws the numbers, the reader cuts as much of the scan as
`Distortion.reach` asks for, `Distortion.apply` carries it out. What moves voxels is one linear resampling, in which a
voxel of the mask gets the class with the largest share of it; what changes their values is MONAI's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..machine import needs

Range = tuple[float, float, float]  # probability, least, most
Size = tuple[int, int, int]  # depth, height, width

THICK = 3  # times the finest spacing, from which slices are too far apart to turn across them (as in nnU-Net)
KNOTS = 5  # of the elastic field, along each axis
UNCHANGED = {"scale": 1, "brightness": 1, "contrast": 1, "low_resolution": 1, "gamma": 1}  # of the others 0
LIMITS = {"rotate": (-180, 180), "scale": (0.25, 4), "low_resolution": (0.1, 1), "gamma": (0.1, 10)}
NEGATIVE = 0.25  # share of the gamma changes that are made to the negative, as in nnU-Net


@dataclass(frozen=True)
class Distortion:
    """What is done to one window: plain numbers, drawn by `Distort.draw`.

    Attributes:
        window: (depth, height, width) of the result.
        matrix: rows of the (3, 3) that takes a place in the result to the place it is read from, both in voxels from
            the middle, in the order depth, height, width; None leaves them where they are.
        elastic: largest displacement along each axis, in voxels.
        flip: axes, 0 to 2, that are mirrored after that.
        noise: deviation of Gaussian noise, as a share of that of the window; 0 for none.
        blur: sigma of a Gaussian, in voxels; 0 for none.
        brightness: factor of all values.
        contrast: factor of what lies off the mean; the range of the values is kept.
        bias: largest coefficient of a bias field; 0 for none.
        low_resolution: share of the voxels along each axis that is kept before it is enlarged again; 1 for all.
        gamma: exponent of the values between their least and most; mean and deviation are kept.
        is_negative: whether that is done to the negative.
        seed: of the displacements, of the noise and of the bias field.
    """

    window: Size
    matrix: tuple[float, ...] | None = None
    elastic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flip: tuple[int, ...] = ()
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    bias: float = 0.0
    low_resolution: float = 1.0
    gamma: float = 1.0
    is_negative: bool = False
    seed: int = 0

    @property
    def reach(self) -> Size:
        """(depth, height, width) of the part of the scan, around the same middle, that the result is read from."""
        if not self._moves:
            return self.window
        rows = _rows(self.matrix)
        halves = [(size - 1) / 2 for size in self.window]
        sides = []
        for row, size, half, shift in zip(rows, self.window, halves, self.elastic, strict=True):
            needed = sum(abs(a) * b for a, b in zip(row, halves, strict=True)) + shift
            sides.append(max(size + 2 * math.ceil(needed - half - 1e-6), 2 - size % 2))
        return sides[0], sides[1], sides[2]

    @property
    def _moves(self) -> bool:
        return self.matrix is not None or any(self.elastic)

    def apply(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The changed window and its mask.

        Args:
            image: float (C, D, H, W), of the size `reach`; it is not changed.
            mask: class indices (D, H, W), or None.

        Returns:
            Image float (C, D, H, W) and mask (D, H, W) of the size `window`; the mask keeps its dtype.

        Raises:
            ValueError: the image has another size.
        """
        if tuple(image.shape[1:]) != self.reach:
            raise ValueError(f"{tuple(image.shape[1:])} voxels; this change is for {self.reach}")
        if self._moves:
            grid = self._grid()
            image = _sampled(image, grid)
            mask = None if mask is None else _most(mask, grid)
        if self.flip:
            image = image.flip([axis + 1 for axis in self.flip])
            mask = None if mask is None else mask.flip(self.flip)
        return self._values(image), mask

    def _grid(self) -> Tensor:
        """Where each voxel is read, (1, D, H, W, 3), as `grid_sample` takes it: x, y, z from -1 to 1."""
        to_share = 2 / (torch.tensor(self.reach) - 1).clamp(min=1)
        depth, height, width = (to_share[:, None] * torch.tensor(_rows(self.matrix))).flip(0).T
        d, h, w = (torch.arange(size) - (size - 1) / 2 for size in self.window)
        grid = (d[:, None, None, None] * depth + h[:, None, None] * height + w[:, None] * width)[None]
        if any(self.elastic):
            generator = torch.Generator().manual_seed(self.seed)
            knots = 2 * torch.rand(1, 3, KNOTS, KNOTS, KNOTS, generator=generator) - 1
            knots *= (torch.tensor(self.elastic) * to_share).flip(0)[None, :, None, None, None]
            grid += F.interpolate(knots, self.window, mode="trilinear", align_corners=True).movedim(1, -1)
        return grid

    def _values(self, image: Tensor) -> Tensor:
        changes: list[Any] = []
        if self.noise:
            changes.append(transforms().RandGaussianNoise(1.0, std=self.noise * float(image.std()), sample_std=False))
        if self.blur:
            changes.append(transforms().GaussianSmooth(self.blur))
        if self.brightness != 1:
            changes.append(transforms().ScaleIntensity(None, None, factor=self.brightness - 1))
        if self.contrast != 1:
            changes.append(functools.partial(_contrasted, factor=self.contrast))
        if self.bias:
            changes.append(transforms().RandBiasField(coeff_range=(-self.bias, self.bias), prob=1.0))
        if self.low_resolution != 1:
            zoom = (self.low_resolution, self.low_resolution)
            # means of what lies in a voxel; the nearest one, MONAI's default, may lie half a voxel off: off the mask
            changes.append(transforms().RandSimulateLowResolution(1.0, "area", zoom_range=zoom))
        if self.gamma != 1:
            changes.append(transforms().AdjustContrast(self.gamma, invert_image=self.is_negative, retain_stats=True))
        for change in changes:
            if hasattr(change, "set_random_state"):
                change.set_random_state(self.seed)
            image = torch.as_tensor(change(image)).as_subclass(Tensor)  # MONAI's own kind of tensor is slow to handle
        return image


@dataclass(frozen=True)
class Distort:
    """Random changes to a training window; by default none. Each is (probability, least, most), None leaves it out.

    Attributes:
        rotate: degrees about each axis, in millimetres of the scan. Where slices lie more than 3 times as far apart as
            voxels within them, or the window is one slice, it turns within slices alone.
        scale: how large what is seen becomes, along all axes alike.
        elastic: largest displacement in mm of a field of 5 x 5 x 5 knots; voxels where the spacing is not known.
        flip: axes, 0 (depth) to 2 (width), each mirrored in half of the windows.
        noise: deviation of Gaussian noise, as a share of the window's.
        blur: sigma of a Gaussian, in voxels.
        brightness: factor of all values.
        contrast: factor of what lies off the mean.
        bias: largest coefficient of a smooth field, a polynomial of degree 3, whose exponential scales the values: the
            uneven sensitivity of MR coils.
        low_resolution: share of the voxels along each axis that is kept.
        gamma: exponent; a quarter is done to the negative.

    Raises:
        ValueError: a value is out of its range.
    """

    rotate: Range | None = None
    scale: Range | None = None
    elastic: Range | None = None
    flip: tuple[int, ...] = ()
    noise: Range | None = None
    blur: Range | None = None
    brightness: Range | None = None
    contrast: Range | None = None
    bias: Range | None = None
    low_resolution: Range | None = None
    gamma: Range | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "flip", tuple(self.flip))
        if len({*self.flip} & {0, 1, 2}) != len(self.flip):
            raise ValueError(f"flip {self.flip}: axes are 0 (depth), 1 (height) and 2 (width), each once")
        for field in fields(self):
            if field.name != "flip" and (value := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, tuple(value))
                lowest, highest = LIMITS.get(field.name, (0, math.inf))
                if len(value) != 3 or not (0 <= value[0] <= 1 and lowest <= value[1] <= value[2] <= highest):
                    raise ValueError(
                        f"{field.name} {tuple(value)} must be (probability, least, most): 0..1, and "
                        f"{lowest} <= least <= most <= {highest}"
                    )

    def weakened(self, share: float) -> Distort:
        """The same changes as often, each by a share, 0..1, of what it does; mirrored as before."""
        weaker = {}
        for field in fields(self):
            if field.name != "flip" and (value := getattr(self, field.name)) is not None:
                same = UNCHANGED.get(field.name, 0)
                weaker[field.name] = (value[0], *(same + share * (end - same) for end in value[1:]))
        return replace(self, **weaker)

    def draw(self, window: Size, spacing_mm: Sequence[float] | None, generator: torch.Generator) -> Distortion:
        """All chance of one window.

        Args:
            window: (depth, height, width) of the result, in voxels.
            spacing_mm: (depth, height, width) of a voxel; None where it is not known.
            generator: source of chance.
        """
        spacing = tuple(spacing_mm or (1.0, 1.0, 1.0))
        flat = {axis for axis in range(3) if window[axis] == 1 or spacing[axis] > THICK * min(spacing)}
        about = [axis for axis in range(3) if flat <= {axis}] if self.rotate else []
        turned = _happens(self.rotate, generator)
        angles = [_drawn(self.rotate, generator) if axis in about else 0.0 for axis in range(3)] if turned else None
        zoom = _or(self.scale, 1.0, generator)
        shift = _or(self.elastic, 0.0, generator)
        return Distortion(
            window,
            matrix=None if angles is None and zoom == 1 else _matrix(angles or (0.0, 0.0, 0.0), zoom, spacing),
            elastic=_triple(0.0 if axis in flat else shift / spacing[axis] for axis in range(3)),
            flip=tuple(axis for axis in self.flip if _chance(0.5, generator)),
            noise=_or(self.noise, 0.0, generator),
            blur=_or(self.blur, 0.0, generator),
            brightness=_or(self.brightness, 1.0, generator),
            contrast=_or(self.contrast, 1.0, generator),
            bias=_or(self.bias, 0.0, generator),
            low_resolution=_or(self.low_resolution, 1.0, generator),
            gamma=_or(self.gamma, 1.0, generator),
            is_negative=_chance(NEGATIVE, generator),
            seed=int(torch.randint(2**31, (), generator=generator)),
        )


RECIPES = {
    "none": Distort(),
    "light": Distort(rotate=(0.5, -15, 15), scale=(0.5, 0.85, 1.2), noise=(0.1, 0, 0.1), brightness=(0.2, 0.85, 1.15),
                     gamma=(0.2, 0.8, 1.25)),
    # nnU-Net's (Isensee et al. 2021), with its probabilities and ranges; elastic and bias field, which it leaves out in
    # its second version, are seldom here
    "nnunet": Distort(rotate=(0.2, -30, 30), scale=(0.2, 0.7, 1.4), elastic=(0.1, 0, 4), flip=(0, 1, 2),
                      noise=(0.1, 0, 0.3), blur=(0.1, 0.5, 1), brightness=(0.15, 0.75, 1.25),
                      contrast=(0.15, 0.75, 1.25), bias=(0.1, 0, 0.3), low_resolution=(0.25, 0.5, 1),
                      gamma=(0.4, 0.7, 1.5)),
}  # fmt: skip
# More of what moves voxels, for runs of an hour rather than nnU-Net's days; ours
RECIPES["varied"] = replace(RECIPES["nnunet"], rotate=(0.5, -30, 30), scale=(0.5, 0.7, 1.4))


@functools.cache
def transforms() -> ModuleType:
    """MONAI's, whose import takes seconds: whoever forks processes that distort calls this before.

    Raises:
        ImportError: MONAI is missing; the message says how to install it.
    """
    with needs("volume"):
        import monai.transforms
    return monai.transforms


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _happens(change: Range | None, generator: torch.Generator) -> bool:
    return change is not None and _chance(change[0], generator)


def _drawn(change: Range | None, generator: torch.Generator) -> float:
    assert change is not None
    return change[1] + (change[2] - change[1]) * float(torch.rand((), generator=generator))


def _or(change: Range | None, otherwise: float, generator: torch.Generator) -> float:
    """A value of the range, or another where the change does not happen."""
    return _drawn(change, generator) if _happens(change, generator) else otherwise


def _triple(values: Any) -> tuple[float, float, float]:
    one, two, three = values
    return one, two, three


def _matrix(angles: Sequence[float], zoom: float, spacing: Sequence[float]) -> tuple[float, ...]:
    """Turned about each axis by degrees, in millimetres, and what is seen `zoom` times as large: rows of (3, 3)."""
    turn = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles):
        one, other = [each for each in range(3) if each != axis]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        about = torch.eye(3, dtype=torch.float64)
        about[one, one] = about[other, other] = cos
        about[one, other], about[other, one] = -sin, sin
        turn = turn @ about
    mm = torch.tensor(spacing, dtype=torch.float64)
    return tuple((turn / zoom * mm / mm[:, None]).flatten().tolist())


def _rows(matrix: tuple[float, ...] | None) -> list[tuple[float, ...]]:
    numbers = matrix or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return [numbers[i : i + 3] for i in (0, 3, 6)]


def _sampled(image: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _most(mask: Tensor, grid: Tensor) -> Tensor:
    """The class with the largest share of each voxel: smooth borders, where the nearest voxel's would be steps."""
    first, *others = mask.unique()
    most = _sampled((mask == first)[None].float(), grid)[0]
    result = first.expand(most.shape).clone()
    for label in others:  # one after the other, since a scan may have a hundred
        share = _sampled((mask == label)[None].float(), grid)[0]
        result[share > most] = label
        most = torch.maximum(most, share)
    return result


def _contrasted(image: Tensor, factor: float) -> Tensor:
    mean = image.mean()
    return ((image - mean) * factor + mean).clamp(image.min(), image.max())
