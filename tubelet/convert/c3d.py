"""Key tables of C3D: c3d-pytorch, pytorch-video-recognition, MMAction2, and the port from Caffe."""

from __future__ import annotations

import math
import re
from typing import Any

from .layout import Found, Layout, Rule, State, sizes


def _c3d(state: State) -> Found | None:
    fc6, fc7 = state["stages.4.fc6.weight"], state["stages.4.fc7.weight"]
    positions = fc6[0].numel() // state["stages.3.conv2.weight"].shape[0]
    # one step of time unless only several give a square: other windows are for who knows them
    steps = next((t for t in range(1, positions + 1) if positions % t == 0 and _is_square(positions // t)), 1)
    side = math.isqrt(positions // steps)
    found: dict[str, Any] = sizes(state, "stem.conv.weight", "head.fc.weight")
    if (steps, side) != (1, 4):
        found["window"] = [steps, side, side]
    if side % 2:  # the side of the map before it, 7 at 112 pixels, was halved without a padding
        found["pool5_padding"] = "none"
    if (len(fc6), len(fc7)) != (4096, 4096):
        found["widths"] = [len(fc6), len(fc7)]
    return "c3d", found


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n


def _conv(match: re.Match[str]) -> str:
    """conv1, conv2, conv3a, conv3b: their number and letter -> their stage and number there."""
    stage, letter = int(match[1]) - 2, match[2]
    return "stem.conv." if stage < 0 else f"stages.{stage}.conv{2 if letter == 'b' else 1}."


_RULES: tuple[Rule, ...] = (
    (r"^backbone\.", ""),
    (r"^conv(\d)([ab]?)\.(?:conv\.)?", _conv),
    (r"^fc([67])\.", r"stages.4.fc\1."),
    (r"^(?:fc8|cls_head\.fc_cls)\.", "head.fc."),
)
_PLACES = {"0": "1", "3": "2", "6": "3a", "8": "3b", "11": "4a", "13": "4b", "16": "5a", "18": "5b"}
LAYOUTS = (
    Layout("c3d-pytorch", (r"conv1\.weight", r"conv5b\.weight", r"fc6\.weight", r"fc8\.weight"), _RULES, _c3d),
    Layout(
        "MMAction2",
        (r"backbone\.conv1a\.conv\.weight", r"backbone\.fc6\.weight", r"cls_head\.fc_cls\.weight"),
        _RULES,
        _c3d,
    ),
    Layout(
        "Caffe, in one sequence",
        (r"features\.0\.weight", r"features\.18\.weight", r"classifier\.0\.weight", r"classifier\.6\.weight"),
        (
            (r"^features\.(\d+)\.", lambda match: f"conv{_PLACES[match[1]]}."),
            (r"^classifier\.0\.", "fc6."),
            (r"^classifier\.3\.", "fc7."),
            (r"^classifier\.6\.", "fc8."),
            *_RULES,
        ),
        _c3d,
    ),
)
