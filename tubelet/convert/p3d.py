"""Key tables of Pseudo-3D ResNets: qijiezhao/pseudo-3d-pytorch."""

from __future__ import annotations

from typing import Any

from .layout import Found, Layout, State, count, sizes, stage_numbers

_NAMES = {(3, 4, 6, 3): "p3d63", (3, 4, 23, 3): "p3d131", (3, 8, 36, 3): "p3d199"}


def _recognise(state: State) -> Found | None:
    depths = tuple(count(state, rf"stages\.{i}\.(\d+)\.") for i in range(4))
    found: dict[str, Any] = sizes(state, "stem.0.conv.weight", "head.fc.weight")
    if depths not in _NAMES:
        return "p3d63", found | {"depths": depths}
    return _NAMES[depths], found


LAYOUTS = (
    Layout(
        "pseudo-3d-pytorch",
        (r"conv1_custom\.weight", r"layer4\.0\.conv_normal\.weight", r"fc\.weight"),
        (
            (r"^conv1_custom\.", "stem.0.conv."),
            (r"^bn1\.", "stem.0.norm."),
            (r"^layer(\d)\.", stage_numbers),
            (r"\.conv1\.", ".branch.reduce.conv."),
            (r"\.bn1\.", ".branch.reduce.norm."),
            (r"\.conv2\.", ".branch.middle.spatial.conv."),
            (r"\.bn2\.", ".branch.middle.spatial.norm."),
            (r"\.conv3\.", ".branch.middle.temporal.conv."),
            (r"\.bn3\.", ".branch.middle.temporal.norm."),
            (r"\.conv_normal\.", ".branch.middle.conv."),
            (r"\.bn_normal\.", ".branch.middle.norm."),
            (r"\.conv4\.", ".branch.expand.conv."),
            (r"\.bn4\.", ".branch.expand.norm."),
            (r"\.downsample\.0\.", ".shortcut.conv."),
            (r"\.downsample\.1\.", ".shortcut.norm."),
            (r"^fc\.", "head.fc."),
        ),
        _recognise,
    ),
)
