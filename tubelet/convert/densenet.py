"""Key tables of 3D DenseNet: 3D-ResNets, now and in 2018."""

from __future__ import annotations

import re

from .layout import Found, Layout, State, count, kernel, sizes

DEPTHS: dict[tuple[int, ...], int] = {
    (6, 12, 24, 16): 121,
    (6, 12, 32, 32): 169,
    (6, 12, 48, 32): 201,
    (6, 12, 64, 48): 264,
}


def _recognise(state: State) -> Found | None:
    first, conv = state["stem.conv.weight"], state["stages.3.layer0.branch.conv2.weight"]
    if first.ndim != 5 or kernel(state, "stages.3.layer0.branch.conv2.weight") != (3, 3, 3):
        return None
    arguments = sizes(state, "stem.conv.weight", "head.fc.weight")
    if (frames := kernel(state, "stem.conv.weight")[0]) != 7:
        arguments["conv1_t_size"] = frames
    growth_rate, mid = conv.shape[:2]
    if growth_rate != 32:
        arguments["growth_rate"] = growth_rate
    if len(first) != 2 * growth_rate:
        arguments["num_init_features"] = len(first)
    if mid != 4 * growth_rate:
        arguments["bn_size"] = mid // growth_rate
    depths = tuple(count(state, rf"stages\.{i}\.(layer\d+)\.") for i in range(4))
    if depths not in DEPTHS:
        arguments["depths"] = list(depths)
    return f"densenet3d_{DEPTHS.get(depths, 121)}", arguments


def _layer(match: re.Match[str]) -> str:
    return f"stages.{int(match[1]) - 1}.layer{int(match[2]) - 1}.branch."


LAYOUTS = (
    Layout(
        "3D-ResNets",
        (r"features\.conv[01]\.weight", r"features\.denseblock4\.denselayer1\.conv\.?2\.weight", r"classifier\.weight"),
        (
            (r"^features\.conv[01]\.", "stem.conv."),
            (r"^features\.norm[01]\.", "stem.norm."),
            (r"^features\.denseblock(\d)\.denselayer(\d+)\.", _layer),
            (r"\.branch\.(conv|norm)\.?([12])\.", r".branch.\1\2."),
            (r"^features\.transition(\d)\.", r"stages.\1.transition."),
            (r"^features\.norm5\.", "stages.3.norm."),
            (r"^classifier\.", "head.fc."),
        ),
        _recognise,
    ),
)
