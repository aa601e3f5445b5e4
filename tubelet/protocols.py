"""How published figures were measured: named rows of views, crops and sizes, so that two figures can be compared.

A row is here where its source states it and views x crops can express it. Ten-crop testing with mirrored corners (TSN's
25 x 10) and whole videos as one clip (Inception I3D) cannot.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, Literal

from .spec import ClipSpec

Size = int | tuple[int, int] | Literal["none"]


@dataclass(frozen=True)
class Protocol:
    """A way of measuring.

    Attributes:
        name: of the row.
        dataset: on which it is in use.
        views: clips spread over the length of each video.
        crops: crops of each, spread over its longer side; 1 is the centre.
        resize: short side, or (height, width), before the crop; None is the network's own.
        crop: side of the square that is cut out; none cuts nothing, None is the network's own.
        combine: what is done with the views: mean of their softmax scores, or the highest of their sigmoid scores.
        source: who states it.
    """

    name: str
    dataset: str
    views: int
    crops: int
    resize: Size | None
    crop: int | Literal["none"] | None
    combine: Literal["mean", "max"]
    source: str

    def clip(self, spec: ClipSpec) -> ClipSpec:
        """A network's clip with the sizes of the protocol."""
        changes: dict[str, Any] = {}
        if self.resize is not None:
            changes["resize"] = None if self.resize == "none" else self.resize
        if self.crop is not None:
            changes["crop"] = None if self.crop == "none" else (self.crop, self.crop)
        return replace(spec, **changes)


_SLOWFAST = "SlowFast, arXiv 1812.03982"
PROTOCOLS = (
    Protocol("k400-10x3", "Kinetics", 10, 3, 256, 256, "mean", f"{_SLOWFAST}, section 4"),
    Protocol("k400-10x3-own-size", "Kinetics", 10, 3, None, None, "mean", "X3D, arXiv 2004.04730; PySlowFast, zoo"),
    Protocol("k400-5x1-torchvision", "Kinetics", 5, 1, (128, 171), 112, "mean", "torchvision, KINETICS400_V1 (r3d_18)"),
    Protocol("k600-1x1-own-size", "Kinetics", 1, 1, None, None, "mean", "MoViNets, arXiv 2103.11511"),
    Protocol("ssv2-1x3", "Something-Something", 1, 3, 256, 256, "mean", "PySlowFast and PyTorchVideo, model zoos"),
    Protocol("charades-10x3", "Charades", 10, 3, 256, 256, "max", f"{_SLOWFAST}; PySlowFast, configs/Charades"),
    Protocol("ava-1x1", "AVA", 1, 1, 256, "none", "mean", f"{_SLOWFAST}, section 5"),
    Protocol("ucf101-10x1", "UCF101", 10, 1, 128, 112, "mean", "MMAction2, configs/recognition/c3d"),
)


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none.
    """
    rows = {row.name: row for row in PROTOCOLS}
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1, cutoff=0.6)
        raise ValueError(f"protocol {name!r}; there is {', '.join(near or rows)}")
    return rows[name]
