"""Key tables of I3D, S3D and S3D-G: pytorch-i3d, kinetics_i3d_pytorch, torchvision, kylemin/S3D, S3D_HowTo100M."""

from __future__ import annotations

import re

from .layout import Found, Layout, Rule, State, sizes


def _i3d(state: State, **arguments: bool) -> Found:
    found = sizes(state, "stem.conv.weight", "head.fc.weight")
    return ("i3d_flow" if found["in_channels"] == 2 else "i3d"), {**found, **arguments}


def _s3d(state: State, **arguments: object) -> Found:
    return "s3d", {**sizes(state, "stem.spatial.conv.weight", "head.fc.weight"), **arguments}


def _milnce(state: State) -> Found:
    found = sizes(state, "stem.conv.weight", "head.fc.weight")
    return "s3d_g_milnce", {**found, "in_channels": found["in_channels"] // 8}


def _mixed(match: re.Match[str]) -> str:
    """Mixed_4c -> the second module of the stage whose pooling is the fourth."""
    return f"stages.{int(match[1]) - 2}.{'abcdef'.index(match[2])}."


def _layer(match: re.Match[str]) -> str:
    """Number of a layer in the one sequence of a S3D -> its stage and its number there."""
    place = int(match[1])
    if place < 5:
        return {0: "stem.", 2: "stages.0.conv1.", 3: "stages.0.conv2."}[place]
    stage, first = next((stage, first) for stage, first in ((3, 13), (2, 7), (1, 4)) if place > first)
    return f"stages.{stage}.{place - first}."


_NORM: Rule = (r"\.(?:bn|batch3d)\.", ".norm.")

LAYOUTS = (
    Layout(
        "pytorch-i3d",
        (r"Conv3d_1a_7x7\.conv3d\.weight", r"Mixed_5c\.b3b\.bn\.weight", r"logits\.conv3d\.weight"),
        (
            (r"^logits\.conv3d\.", "head.fc."),
            (r"^Conv3d_1a_7x7\.", "stem."),
            (r"^Conv3d_2b_1x1\.", "stages.0.conv1."),
            (r"^Conv3d_2c_3x3\.", "stages.0.conv2."),
            (r"^Mixed_(\d)([b-f])\.", _mixed),
            (r"\.b0\.", ".branches.0.0."),
            (r"\.b3b\.", ".branches.3.1."),
            (r"\.b([12])a\.", r".branches.\1.0."),
            (r"\.b([12])b\.", r".branches.\1.1."),
            (r"\.conv3d\.", ".conv."),
            _NORM,
        ),
        lambda state: _i3d(state, per_frame=True),
    ),
    Layout(
        "kinetics_i3d_pytorch",
        (r"conv3d_1a_7x7\.conv3d\.weight", r"mixed_5c\.branch_3\.1\.batch3d\.weight", r"conv3d_0c_1x1\.conv3d\.weight"),
        (
            (r"^conv3d_0c_1x1\.conv3d\.", "head.fc."),
            (r"^conv3d_1a_7x7\.", "stem."),
            (r"^conv3d_2b_1x1\.", "stages.0.conv1."),
            (r"^conv3d_2c_3x3\.", "stages.0.conv2."),
            (r"^mixed_(\d)([b-f])\.", _mixed),
            (r"\.branch_0\.", ".branches.0.0."),
            (r"\.branch_(\d)\.", r".branches.\1."),
            (r"\.conv3d\.", ".conv."),
            _NORM,
        ),
        lambda state: _i3d(state, even_padding=True),
    ),
    Layout(
        "torchvision",
        (r"features\.0\.0\.0\.weight", r"features\.15\.branch3\.1\.0\.weight", r"classifier\.1\.weight"),
        (
            (r"^classifier\.1\.", "head.fc."),
            (r"\.0\.(weight)$", r".conv.\1"),
            (r"\.1\.(\w+)$", r".norm.\1"),
            (r"^features\.(\d+)\.", _layer),
            (r"\.branch0\.", ".branches.0.0."),
            (r"\.branch(\d)\.", r".branches.\1."),
            (r"(^stem|conv2|branches\.[12]\.1)\.0\.", r"\1.spatial."),
            (r"(^stem|conv2|branches\.[12]\.1)\.1\.", r"\1.temporal."),
        ),
        _s3d,
    ),
    Layout(
        "kylemin/S3D",
        (r"base\.0\.conv_s\.weight", r"base\.15\.branch3\.1\.conv\.weight", r"fc\.0\.weight"),
        (
            (r"^fc\.0\.", "head.fc."),
            (r"\.conv_s\.", ".spatial.conv."),
            (r"\.conv_t\.", ".temporal.conv."),
            (r"\.bn_s\.", ".spatial.norm."),
            (r"\.bn_t\.", ".temporal.norm."),
            (r"^base\.(\d+)\.", _layer),
            (r"\.branch(\d)\.", r".branches.\1."),
            _NORM,
        ),
        lambda state: _s3d(state, window=[2, 1, 1]),
    ),
    Layout(
        "S3D_HowTo100M",
        (r"conv1\.conv1\.weight", r"mixed_5c\.gating_b3\.fc\.weight", r"fc\.weight"),
        (
            (r"^text_module\..*", ""),
            (r"^fc\.", "head.fc."),
            (r"^conv1\.", "stem."),
            (r"^conv_2b\.", "stages.0.conv1."),
            (r"^conv_2c\.", "stages.0.conv2."),
            (r"^gating\.", "stages.0.gate."),
            (r"^mixed_(\d)([b-f])\.", _mixed),
            (r"\.conv_b0\.", ".branches.0.0."),
            (r"\.conv_b3_b\.", ".branches.3.1."),
            (r"\.conv_b([12])_a\.", r".branches.\1.0."),
            (r"\.conv_b([12])_b\.", r".branches.\1.1."),
            (r"\.gating_b0\.", ".branches.0.1."),
            (r"\.gating_b(\d)\.", r".branches.\1.2."),
            (r"(conv2|branches\.[12]\.1)\.conv1\.", r"\1.spatial.conv."),
            (r"(conv2|branches\.[12]\.1)\.bn1\.", r"\1.spatial.norm."),
            (r"\.conv2\.(?=weight)", ".temporal.conv."),
            (r"\.bn2\.", ".temporal.norm."),
            (r"\.conv1\.(?=weight)", ".conv."),
            (r"\.bn1\.", ".norm."),
        ),
        _milnce,
    ),
)
