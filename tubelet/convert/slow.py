"""Key tables of the bottleneck video ResNets (Slow, I3D, C2D, CSN, R(2+1)D): PyTorchVideo, PySlowFast, MMAction2."""

from __future__ import annotations

import logging
import re
from typing import Any

from .layout import Found, Layout, Rule, State, count, cycle, kernel, sizes, stage_numbers

log = logging.getLogger("tubelet")

DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 26,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
    (3, 24, 36, 3): 200,
}

SINGLE_FRAMES = ((1,), (1,), (1,), (1,))
ALL_FRAMES = ((3,), (3,), (3,), (3,))


def depth(state: State, stages: str = "stages.{}.") -> int | None:
    """Number of layers of a bottleneck ResNet, from the steps of its four stages."""
    steps = tuple(count(state, stages.format(i).replace(".", r"\.") + r"(\d+)\.") for i in range(4))
    return DEPTHS.get(steps)


def temporal(state: State, stages: str = "stages.{}.") -> tuple[tuple[int, ...], ...]:
    """For each stage, t of the first convolutions of its steps, as the shortest cycle."""
    keys = [[f"{stages.format(i)}{j}.branch.conv1.weight" for j in range(100)] for i in range(4)]
    return tuple(cycle([kernel(state, key)[0] for key in stage if key in state]) for stage in keys)


def _non_local(state: State) -> dict[str, Any]:
    places = [tuple(j for j in range(100) if f"stages.{i}.nonlocal{j}.g.weight" in state) for i in range(4)]
    if not any(places):
        return {}
    first = next(f"stages.{i}.nonlocal{stage[0]}." for i, stage in enumerate(places) if stage)
    modes = {f"{first}affinity.project.weight": "concatenation", f"{first}theta.weight": "embedded_gaussian"}
    mode = next((mode for key, mode in modes.items() if key in state), "gaussian")
    return {"non_local": tuple(places), "non_local_mode": mode}


def _found(state: State, **of_source: Any) -> Found | None:
    """Slow, I3D, C2D, CSN or R(2+1)D; `of_source` are what shapes do not tell, for the first three."""
    layers = depth(state)
    stem = "stem.conv.weight"
    is_whole = all(re.match(r"stem\.|head\.|stages\.\d\.(nonlocal\d+|\d+\.(branch|shortcut))\.", key) for key in state)
    if layers is None or not is_whole or not {stem, "stages.0.0.branch.conv1.weight"} <= set(state):
        return None
    arguments: dict[str, Any] = sizes(state, stem, "head.fc.weight")
    conv2 = "stages.0.0.branch.conv2."
    of_csn = {key: of_source[key] for key in ("eps", "window") if key in of_source}
    if f"{conv2}mix.weight" in state:
        return f"ip_csn_{layers}", arguments | of_csn
    if f"{conv2}temporal.weight" in state:
        return "r2plus1d_r50", arguments | {"depth": layers}
    if state[f"{conv2}weight"].shape[1] == 1:
        return f"ir_csn_{layers}", arguments | of_csn
    found = {"depth": layers, "temporal": temporal(state), **_non_local(state)}
    stem_kernel = kernel(state, stem)[0]
    name = _kind(found["temporal"], stem_kernel)
    strides = of_source.pop("stem_strides", (1, 1))
    is_thinning = name == "i3d_r50" and found["temporal"] != ALL_FRAMES  # MMAction2's heavy I3D keeps its frames
    padding = 0 if state[stem].ndim == 4 else 1  # MMAction2's C2D
    of_source.pop("eps", None)
    if "non_local" not in found:
        of_source.pop("pool_first", None)
    return name, {
        **arguments,
        **found,
        "stem": (stem_kernel, *(strides if is_thinning else (1, 1)), padding),
        **of_source,
    }


def _kind(looks: tuple[tuple[int, ...], ...], stem: int) -> str:
    if looks == SINGLE_FRAMES:
        return "c2d_r50"
    return "i3d_r50" if stem > 1 else "slow_r50"


def _pytorchvideo(state: State) -> Found | None:
    # the head of CSN-101 is the one whose window is not its constructor's default
    return _found(state, window=(8, 7, 7) if _is_slow(state) else (4, 7, 7))


def _is_slow(state: State) -> bool:
    return _kind(temporal(state), kernel(state, "stem.conv.weight")[0]) == "slow_r50"


def _pytorchvideo_detection(state: State) -> Found | None:
    layers = depth(state)
    if layers is None:
        return None
    return "slow_r50_detection", sizes(state, "stem.conv.weight", "head.fc.weight") | {"depth": layers}


def _mmaction_detection(state: State) -> Found | None:
    layers = depth(state)
    if layers is None or state["head.fc.weight"].shape[1] != 2048:  # more than the map: boxes with their context
        return None
    found = sizes(state, "stem.conv.weight", "head.fc.weight") | _non_local(state)
    found.pop("non_local_mode", None)  # scaled, as published
    return "slow_r50_detection", found | {"depth": layers, "dilation": 1, "output_size": 8, "aligned": True}


def _pyslowfast(state: State) -> Found | None:
    # its window has as many frames as the clips of the file's training, whichever number that was
    found = _found(state, window=(0, 7, 7), pool_first=True)
    if found and "non_local" in found[1]:  # published with these two; another one is a hint
        found[1]["non_local_mode"] = "dot_product" if _is_slow(state) else "scaled_gaussian"
    return found


def _mmaction(state: State) -> Found | None:
    found = _found(state, window=None, eps=1e-3, stem_strides=(2, 2))
    if found and state["stem.conv.weight"].ndim == 4:
        log.warning("MMAction2's C2D and TSN have the same keys: taken for C2D; tubelet.create makes a tsn_* of them")
    if found and found[0] == "slow_r50" and found[1].get("non_local_mode") == "embedded_gaussian":
        found[1]["non_local_mode"] = "scaled_gaussian"  # as its SlowOnly is published, unlike its I3D
    return found


PYTORCHVIDEO: tuple[Rule, ...] = (
    (r"branch1_conv\.", "shortcut.conv."),
    (r"branch1_norm\.", "shortcut.norm."),
    (r"branch2\.conv_b\.conv_t\.", "branch.conv2.temporal."),
    (r"branch2\.conv_b\.conv_xy\.", "branch.conv2.spatial."),
    (r"branch2\.conv_b\.norm\.", "branch.conv2.norm."),
    (r"branch2\.(conv|norm)_a\.", r"branch.\g<1>1."),
    (r"branch2\.(conv|norm)_b\.", r"branch.\g<1>2."),
    (r"branch2\.(conv|norm)_c\.", r"branch.\g<1>3."),
    (r"^blocks\.\d\.proj\.", "head.fc."),
)

PYSLOWFAST: tuple[Rule, ...] = (
    (r"\.branch1\.", ".shortcut.conv."),
    (r"\.branch1_bn\.", ".shortcut.norm."),
    (r"\.branch2\.a\.", ".branch.conv1."),
    (r"\.branch2\.b\.", ".branch.conv2."),
    (r"\.branch2\.c\.", ".branch.conv3."),
    (r"\.branch2\.a_bn\.", ".branch.norm1."),
    (r"\.branch2\.b_bn\.", ".branch.norm2."),
    (r"\.branch2\.c_bn\.", ".branch.norm3."),
    (r"(nonlocal\d+)\.conv_(theta|phi|g)\.", r"\1.\2."),
    (r"(nonlocal\d+)\.conv_out\.", r"\1.out.conv."),
    (r"(nonlocal\d+)\.bn\.", r"\1.out.norm."),
    (r"^head\.projection\.", "head.fc."),
)

# what Caffe2 calls the same weights, in PySlowFast's own names
CAFFE2: tuple[Rule, ...] = (
    (r"_bn_s$", "_bn.weight"),
    (r"_bn_b$", "_bn.bias"),
    (r"_bn_rm$", "_bn.running_mean"),
    (r"_bn_riv$", "_bn.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
    (r"^pred\.", "head.projection."),
    (r"^t_pool1_subsample_bn\.", "s1_fuse.bn."),
    (r"^t_pool1_subsample\.", "s1_fuse.conv_f2s."),
    (r"^t_res(\d)_\d+_branch2c_bn_subsample_bn\.", r"s\1_fuse.bn."),
    (r"^t_res(\d)_\d+_branch2c_bn_subsample\.", r"s\1_fuse.conv_f2s."),
    (r"^nonlocal_conv(\d)_(\d+)_bn\.", r"s\1.pathway0_nonlocal\2.bn."),
    (r"^nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)\.", r"s\1.pathway0_nonlocal\2.conv_\3."),
    (r"^(t_)?res_conv1_bn\.", r"\g<1>s1.stem.bn."),
    (r"^(t_)?conv1\.", r"\g<1>s1.stem.conv."),
    (r"^(t_)?res(\d)_(\d+)_branch1(_bn)?\.", r"\g<1>s\2.res\3.branch1\4."),
    (r"^(t_)?res(\d)_(\d+)_branch2([abc])(_bn)?\.", r"\g<1>s\2.res\3.branch2.\4\5."),
    (r"^t_s(\d)\.", r"s\1.pathway1_"),
    (r"^s(\d)\.(stem|res)", r"s\1.pathway0_\2"),
)

MMACTION: tuple[Rule, ...] = (
    (r"layer(\d)\.(\d+)\.non_local_block\.", r"layer\1.nonlocal\2."),
    (r"(nonlocal\d+)\.(g|phi)\.0\.conv\.", r"\1.\2."),
    (r"(nonlocal\d+)\.(g|theta|phi)\.conv\.", r"\1.\2."),
    (r"(nonlocal\d+)\.concat_project\.conv\.", r"\1.affinity.project."),
    (r"(nonlocal\d+)\.conv_out\.conv\.", r"\1.out.conv."),
    (r"(nonlocal\d+)\.conv_out\.bn\.", r"\1.out.norm."),
    (r"(layer\d\.\d+)\.conv(\d)\.conv\.", r"\1.branch.conv\2."),
    (r"(layer\d\.\d+)\.conv(\d)\.bn\.", r"\1.branch.norm\2."),
    (r"downsample\.conv\.", "shortcut.conv."),
    (r"downsample\.bn\.", "shortcut.norm."),
    (r"^cls_head\.fc_cls\.", "head.fc."),
)

BBOX_HEAD: Rule = (r"^roi_head\.bbox_head\.fc_cls\.", "head.fc.")

_STEM: tuple[Rule, ...] = ((r"^blocks\.0\.(conv|norm)\.", r"stem.\1."),)
_PYSLOWFAST: tuple[Rule, ...] = (
    (r"^s1\.pathway0_stem\.conv\.", "stem.conv."),
    (r"^s1\.pathway0_stem\.bn\.", "stem.norm."),
    (r"^s(\d)\.pathway0_(?:res)?", lambda match: f"stages.{int(match[1]) - 2}."),
    *PYSLOWFAST,
)

LAYOUTS = (
    Layout(
        "PyTorchVideo",
        (r"blocks\.0\.conv\.weight", r"blocks\.2\.res_blocks\.0\.branch1_conv\.weight", r"blocks\.5\.proj\.weight"),
        (*_STEM, (r"^blocks\.([1-4])\.res_blocks\.", stage_numbers), *PYTORCHVIDEO),
        _pytorchvideo,
    ),
    Layout(
        "PyTorchVideo with a pooling layer among its stages",
        (r"blocks\.0\.conv\.weight", r"blocks\.3\.res_blocks\.0\.branch1_conv\.weight", r"blocks\.6\.proj\.weight"),
        (
            *_STEM,
            (r"^blocks\.1\.res_blocks\.", "stages.0."),
            (r"^blocks\.([3-5])\.res_blocks\.", lambda match: f"stages.{int(match[1]) - 2}."),
            *PYTORCHVIDEO,
        ),
        lambda state: _found(state, window=(4, 7, 7), has_pool2=True),
    ),
    Layout(
        "PyTorchVideo, detection",
        (r"model\.blocks\.0\.conv\.weight", r"detection_head\.proj\.weight"),
        (
            (r"^model\.", ""),
            *_STEM,
            (r"^blocks\.([1-4])\.res_blocks\.", stage_numbers),
            (r"^detection_head\.proj\.", "head.fc."),
            *PYTORCHVIDEO,
        ),
        _pytorchvideo_detection,
    ),
    Layout(
        "PySlowFast",
        (r"s1\.pathway0_stem\.conv\.weight", r"s5\.pathway0_res0\.branch2\.c\.weight", r"head\.projection\.weight"),
        _PYSLOWFAST,
        _pyslowfast,
    ),
    Layout("Caffe2", (r"conv1_w", r"res5_0_branch2c_w", r"pred_w"), (*CAFFE2, *_PYSLOWFAST), _pyslowfast),
    *(
        Layout(
            name,
            (r"backbone\.conv1\.conv\.weight", *marks),
            (
                (r"^backbone\.conv1\.conv\.", "stem.conv."),
                (r"^backbone\.conv1\.bn\.", "stem.norm."),
                *rules,
                *MMACTION,
                (r"^backbone\.layer(\d)\.", stage_numbers),
            ),
            found,
        )
        for name, marks, rules, found in (
            ("MMAction2", (r"backbone\.layer4\.0\.conv3\.conv\.weight", r"cls_head\.fc_cls\.weight"), (), _mmaction),
            (
                "MMAction2, detection",
                (r"backbone\.layer4\.0\.conv3\.conv\.weight", r"roi_head\.bbox_head\.fc_cls\.weight"),
                (BBOX_HEAD,),
                _mmaction_detection,
            ),
            (
                "MMAction2, ip-CSN",
                (r"backbone\.layer4\.0\.conv2\.1\.conv\.weight",),
                (
                    (r"\.conv2\.0\.conv\.", ".branch.conv2.mix."),
                    (r"\.conv2\.0\.bn\.", ".branch.conv2.norm."),
                    (r"\.conv2\.1\.conv\.", ".branch.conv2.depthwise."),
                    (r"\.conv2\.1\.bn\.", ".branch.norm2."),
                ),
                _mmaction,
            ),
            (
                "MMAction2, ir-CSN",
                (r"backbone\.layer4\.0\.conv2\.0\.conv\.weight",),
                ((r"\.conv2\.0\.conv\.", ".conv2.conv."), (r"\.conv2\.0\.bn\.", ".conv2.bn.")),
                _mmaction,
            ),
        )
    ),
)
