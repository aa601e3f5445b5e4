"""Key tables of SlowFast: PyTorchVideo, PySlowFast, Caffe2, MMAction2."""

from __future__ import annotations

import re
from typing import Any

from .layout import Found, Layout, Rule, State, kernel
from .slow import BBOX_HEAD, CAFFE2, MMACTION, PYSLOWFAST, PYTORCHVIDEO, depth, temporal

PATHS = ("slow", "fast")


def _read(state: State) -> dict[str, Any] | None:
    """What the shapes of any SlowFast tell."""
    stems = [f"stem.{path}.conv.weight" for path in PATHS]
    if not {*stems, "stem.fuse.conv.weight", "head.fc.weight"} <= set(state):
        return None
    prefixes = [f"stages.{{}}.{path}." for path in PATHS]
    depths = [depth(state, prefix) for prefix in prefixes]
    if None in depths:
        return None
    non_local = tuple(
        tuple(j for j in range(100) if f"stages.{i}.slow.nonlocal{j}.g.weight" in state) for i in range(4)
    )
    return {
        "num_classes": len(state["head.fc.weight"]),
        "in_channels": state[stems[0]].shape[1],
        "depth": depths[0],
        "fast_depth": None if depths[1] == depths[0] else depths[1],
        "temporal": tuple(temporal(state, prefix) for prefix in prefixes),
        "fusion": kernel(state, "stem.fuse.conv.weight")[0],
        "non_local": non_local,
    }


def _facebook(state: State) -> Found | None:
    found = _read(state)
    if found is None:
        return None
    # one slow frame of 4, but of 8 in 4x16: kernels of 5 in 50 layers; with non-local blocks 8x8 has these as well, and
    # of those two it is the one that is taken
    is_4x16 = (found["depth"], found["fusion"]) == (50, 5) and not any(found["non_local"])
    return "slowfast_r50", found | {"alpha": 8 if is_4x16 else 4}


def _detection(state: State) -> Found | None:
    found = _read(state)
    if found is None:
        return None
    kept = ("num_classes", "in_channels", "depth", "fusion")
    return "slowfast_r50_detection", {key: found[key] for key in kept}


def _mmaction_detection(state: State) -> Found | None:
    found = _mmaction(state)
    if found is None or state["head.fc.weight"].shape[1] != 2304:  # more than the map: boxes with their context
        return None
    kept = ("num_classes", "in_channels", "depth", "alpha", "fusion", "is_plain")
    arguments = {key: found[1][key] for key in kept}
    return "slowfast_r50_detection", arguments | {"dilation": 1, "output_size": 8, "aligned": True}


def _mmaction(state: State) -> Found | None:
    found = _read(state)
    if found is None:
        return None
    # 8x8 is published with kernels of 7 and one slow frame of 4, 4x16 with 5 and one of 8
    return "slowfast_r50", found | {"alpha": 4 if found["fusion"] == 7 else 8, "is_plain": True}


def _path(match: re.Match[str]) -> str:
    """`blocks.2.multipathway_blocks.1.` -> `stages.1.fast.`; the first is the stem."""
    number = int(match[1])
    place = "stem" if number == 0 else f"stages.{number - 1}"
    return f"{place}.{PATHS[int(match[2])] if match[2] else 'fuse'}."


def _pyslowfast_path(match: re.Match[str]) -> str:
    number = int(match[1])
    place = "stem" if number == 1 else f"stages.{number - 2}"
    return f"{place}.{PATHS[int(match[2])] if match[2] else 'fuse'}."


_PYTORCHVIDEO: tuple[Rule, ...] = (
    (r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.(?:res_blocks\.)?", _path),
    (r"^blocks\.(\d)\.multipathway_fusion()\.", _path),
    (r"fuse\.conv_fast_to_slow\.", "fuse.conv."),
    *PYTORCHVIDEO,
)
_PYSLOWFAST: tuple[Rule, ...] = (
    (r"^s(\d)\.pathway(\d)_(?:res|stem\.)?", _pyslowfast_path),
    (r"^s(\d)_fuse()\.", _pyslowfast_path),
    (r"fuse\.conv_f2s\.", "fuse.conv."),
    (r"fuse\.bn\.", "fuse.norm."),
    (r"^stem\.(slow|fast)\.bn\.", r"stem.\1.norm."),
    *PYSLOWFAST,
)

LAYOUTS = (
    Layout(
        "PyTorchVideo",
        (r"blocks\.0\.multipathway_fusion\.conv_fast_to_slow\.weight", r"blocks\.6\.proj\.weight"),
        _PYTORCHVIDEO,
        _facebook,
    ),
    Layout(
        "PyTorchVideo, detection",
        (r"model\.blocks\.0\.multipathway_fusion\.conv_fast_to_slow\.weight", r"detection_head\.proj\.weight"),
        ((r"^model\.", ""), *_PYTORCHVIDEO, (r"^detection_head\.proj\.", "head.fc.")),
        _detection,
    ),
    Layout("PySlowFast", (r"s1_fuse\.conv_f2s\.weight", r"head\.projection\.weight"), _PYSLOWFAST, _facebook),
    Layout("Caffe2", (r"t_pool1_subsample_w", r"pred_w"), (*CAFFE2, *_PYSLOWFAST), _facebook),
    *(
        Layout(
            name,
            (r"backbone\.slow_path\.conv1_lateral\.conv\.weight", mark),
            (
                (r"^backbone\.slow_path\.conv1_lateral\.", "stem.fuse."),
                (r"^backbone\.slow_path\.layer(\d)_lateral\.", lambda match: f"stages.{int(match[1]) - 1}.fuse."),
                BBOX_HEAD,
                *MMACTION,
                (r"^backbone\.(slow|fast)_path\.conv1\.conv\.", r"stem.\1.conv."),
                (r"^backbone\.(slow|fast)_path\.conv1\.bn\.", r"stem.\1.norm."),
                (
                    r"^backbone\.(slow|fast)_path\.layer(\d)\.",
                    lambda match: f"stages.{int(match[2]) - 1}.{match[1]}.",
                ),
                (r"\.fuse\.conv\.conv\.", ".fuse.conv."),
            ),
            found,
        )
        for name, mark, found in (
            ("MMAction2", r"cls_head\.fc_cls\.weight", _mmaction),
            ("MMAction2, detection", r"roi_head\.bbox_head\.fc_cls\.weight", _mmaction_detection),
        )
    ),
)
