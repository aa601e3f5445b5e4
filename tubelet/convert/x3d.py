"""Key tables of X3D: PyTorchVideo, PySlowFast, MMAction2."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import Found, Layout, Rule, State, count, stage_numbers
from .slow import MMACTION, PYSLOWFAST, PYTORCHVIDEO

# XS, S and M have the same weights: which of them a clip is for shows in its number of frames, and so their heads'
# windows serve all three
SMALL = ((4, 5, 5), (13, 5, 5), (16, 7, 7))
LARGE = ((16, 10, 10),)


def _found(state: State, windows: Sequence[Sequence[int]] | None = None) -> Found | None:
    ends = [f"stages.{i}.0.branch.conv3.weight" for i in range(4)]
    if not {"stem.space.weight", "head.hidden.weight", *ends} <= set(state):
        return None
    depths = tuple(count(state, rf"stages\.{i}\.(\d+)\.branch") for i in range(4))
    is_small = depths == (3, 5, 11, 7)
    widths = tuple(state[key].shape[0] for key in ("stem.space.weight", *ends))
    wide = state["stages.3.conv5.conv.weight"].shape[0]
    return ("x3d_m" if is_small else "x3d_l"), {
        "num_classes": len(state["head.fc.weight"]),
        "in_channels": state["stem.space.weight"].shape[1],
        "depths": depths,
        "widths": widths,
        "factor": 2.25 if int(2.25 * widths[-1]) == wide else wide / widths[-1],
        "hidden_channels": len(state["head.hidden.weight"]),
        "norms_all": "stages.0.0.shortcut.norm.weight" in state,
        "windows": windows if windows is not None else SMALL if is_small else LARGE,
    }


_PYTORCHVIDEO: tuple[Rule, ...] = (
    (r"^blocks\.0\.conv\.conv_t\.", "stem.space."),
    (r"^blocks\.0\.conv\.conv_xy\.", "stem.time."),
    (r"^blocks\.0\.norm\.", "stem.norm."),
    (r"^blocks\.([1-4])\.res_blocks\.", stage_numbers),
    (r"branch2\.norm_b\.0\.", "branch2.norm_b."),
    (r"branch2\.norm_b\.1\.block\.0\.", "branch.gate.fc1."),
    (r"branch2\.norm_b\.1\.block\.2\.", "branch.gate.fc2."),
    (r"^blocks\.5\.pool\.pre_(conv|norm)\.", r"stages.3.conv5.\1."),
    (r"^blocks\.5\.pool\.post_conv\.", "head.hidden."),
    *PYTORCHVIDEO,
)

LAYOUTS = (
    Layout(
        "PyTorchVideo",
        (r"blocks\.0\.conv\.conv_t\.weight", r"blocks\.5\.pool\.pre_conv\.weight"),
        _PYTORCHVIDEO,
        _found,
    ),
    Layout(
        "PySlowFast",
        (r"s1\.pathway0_stem\.conv_xy\.weight", r"head\.conv_5\.weight", r"head\.projection\.weight"),
        (
            (r"^s1\.pathway0_stem\.conv_xy\.", "stem.space."),
            (r"^s1\.pathway0_stem\.conv\.", "stem.time."),
            (r"^s1\.pathway0_stem\.bn\.", "stem.norm."),
            (r"^s(\d)\.pathway0_res", lambda match: f"stages.{int(match[1]) - 2}."),
            (r"\.branch2\.se\.", ".branch.gate."),
            (r"^head\.conv_5\.", "stages.3.conv5.conv."),
            (r"^head\.conv_5_bn\.", "stages.3.conv5.norm."),
            (r"^head\.lin_5\.", "head.hidden."),
            *PYSLOWFAST,
        ),
        _found,
    ),
    Layout(
        "MMAction2",
        (r"backbone\.conv1_s\.conv\.weight", r"backbone\.conv5\.conv\.weight", r"cls_head\.fc1\.weight"),
        (
            (r"^backbone\.conv1_s\.conv\.", "stem.space."),
            (r"^backbone\.conv1_t\.conv\.", "stem.time."),
            (r"^backbone\.conv1_t\.bn\.", "stem.norm."),
            (r"\.se_module\.", ".branch.gate."),
            (r"^backbone\.conv5\.conv\.", "stages.3.conv5.conv."),
            (r"^backbone\.conv5\.bn\.", "stages.3.conv5.norm."),
            (r"^cls_head\.fc1\.", "head.hidden."),
            (r"^cls_head\.fc2\.", "head.fc."),
            *MMACTION,
            (r"^backbone\.layer(\d)\.", stage_numbers),
        ),
        lambda state: _found(state, windows=()),
    ),
)
