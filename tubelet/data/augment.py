"""Random changes to training clips, alike for all frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augment:
    """Random changes to a training clip, each alike for all frames.

    Attributes:
        max_shift: pixels that the crop may lie off the centre; None lets it lie anywhere in the frame.
        flip: mirror half of the clips; wrong where left and right are classes.
        color: largest change of contrast and brightness, 0..1.
    """

    max_shift: int | None = None
    flip: bool = False
    color: float = 0.0

    def __post_init__(self) -> None:
        if self.max_shift is not None and self.max_shift < 0:
            raise ValueError(f"max_shift {self.max_shift} must be at least 0 pixels, or None for anywhere")
        if not 0 <= self.color <= 1:
            raise ValueError(f"color {self.color} must lie in 0..1")
