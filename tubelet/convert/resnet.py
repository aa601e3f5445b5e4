"""Key tables of the 3x3x3 ResNets and of R(2+1)D: torchvision, 3D-ResNets, MedicalNet, MMAction2."""

from __future__ import annotations

from typing import Any

from .layout import Found, Layout, Rule, State, count, kernel, sizes, stage_numbers

DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (1, 1, 1, 1)): 10,
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
    (True, (3, 24, 36, 3)): 200,
}
TORCHVISION: dict[tuple[str, ...], str] = {
    ("full", "full", "full", "full", "full"): "r3d_18",
    ("full", "full", "spatial", "spatial", "spatial"): "mc3_18",
    ("spatial", "spatial", "full", "full", "full"): "rmc3_18",
    ("factored", "factored", "factored", "factored", "factored"): "r2plus1d_18",
}


def _depths(state: State) -> list[int]:
    """Residual steps in each stage."""
    return [count(state, rf"stages\.{i}\.(\d+)\.branch") for i in range(4)]


def _is_bottleneck(state: State) -> bool:
    return "stages.0.0.branch.conv3.weight" in state


def _size(state: State, depths: tuple[int, ...]) -> tuple[int, dict[str, Any]]:
    """Layers of the nearest named network, of those with these depths, and the arguments in which it differs."""
    found, is_bottleneck = tuple(_depths(state)), _is_bottleneck(state)
    depth = DEPTHS.get((is_bottleneck, found))
    if depth in depths:
        return depth, {}
    return (50 if is_bottleneck else 18), {"depths": list(found), "is_bottleneck": is_bottleneck}


def _kind(state: State, conv: str) -> str | None:
    """Which of the three kinds a stage's convolution is, or None."""
    if f"{conv}.spatial.weight" in state:
        return "factored"
    if f"{conv}.weight" not in state:
        return None
    return {(3, 3, 3): "full", (1, 3, 3): "spatial"}.get(kernel(state, f"{conv}.weight"))


def _torchvision(state: State) -> Found | None:
    is_factored = "stem.1.conv.weight" in state
    stem = "stem.0.conv.weight" if is_factored else "stem.conv.weight"
    kinds = [_kind(state, f"stages.{i}.0.branch.conv2") for i in range(4)]
    # a second convolution of the stem stays under its foreign name where the layout is the other one
    if state[stem].ndim != 5 or None in kinds or "stem.3.weight" in state:
        return None
    first = "factored" if is_factored else "full" if kernel(state, stem)[0] == 3 else "spatial"
    convs = tuple(map(str, (first, *kinds)))
    arguments = sizes(state, stem, "head.fc.weight")
    depths = _depths(state)

    inside = [f"stages.1.0.branch.conv{i}.spatial.weight" for i in (1, 2)]
    if inside[0] in state and len(state[inside[0]]) != len(state[inside[1]]):
        if depths != [3, 4, 6, 3]:
            arguments["depths"] = depths
        return "r2plus1d_34_ig65m", arguments
    name = TORCHVISION.get(convs, "r3d_18")
    if convs not in TORCHVISION:
        arguments["convs"] = list(convs)
    if depths != [2, 2, 2, 2]:
        arguments["depths"] = depths
    if _is_bottleneck(state):
        arguments["is_bottleneck"] = True
    return name, arguments


def _mmaction(state: State) -> Found | None:
    arguments = sizes(state, "stem.0.conv.weight", "head.fc.weight")
    depths = _depths(state)
    if _is_bottleneck(state):
        return None
    return "r2plus1d_34", arguments if depths == [3, 4, 6, 3] else {**arguments, "depths": depths}


def _3d_resnets(state: State) -> Found | None:
    is_factored = "stem.0.conv.weight" in state
    is_bottleneck = _is_bottleneck(state)
    first = state["stem.0.conv.weight" if is_factored else "stem.conv.weight"]
    last = state["head.fc.weight"]
    if first.ndim != 5 or _kind(state, "stages.1.0.branch.conv2") != ("factored" if is_factored else "full"):
        return None
    arguments: dict[str, Any] = {"num_classes": len(last), "in_channels": first.shape[1]}
    if not any(".shortcut." in key for key in state):
        arguments["shortcut"] = "A"
    if (frames := kernel(state, "stem.1.conv.weight" if is_factored else "stem.conv.weight")[0]) != 7:
        arguments["conv1_t_size"] = frames

    if is_bottleneck and not is_factored:
        mid, per_group = state["stages.3.0.branch.conv2.weight"].shape[:2]
        groups, out = mid // per_group, last.shape[1]
        if groups > 1 or out == 2 * mid:
            return _resnext(state, arguments, groups, out // 2)
    widen_factor = last.shape[1] / (2048 if is_bottleneck else 512)
    if widen_factor != 1:
        arguments["widen_factor"] = widen_factor
    # in a step that changes the width, the first norm has that of the input or that of the convolution
    conv = state["stages.1.0.branch.conv1" + (".temporal.weight" if is_factored and not is_bottleneck else ".weight")]
    is_preact = len(state["stages.1.0.branch.norm1.weight"]) != len(conv)
    family = "resnet2p1d" if is_factored else "preresnet3d" if is_preact else "resnet3d"
    depth, differing = _size(state, tuple(DEPTHS.values()))
    return f"{family}_{depth}", {**arguments, **differing}


def _resnext(state: State, arguments: dict[str, Any], groups: int, width: int) -> Found:
    """ResNeXt or, with one group, Wide ResNet."""
    stem_channels = len(state["stem.conv.weight"])
    if width != 1024:
        arguments["widen_factor"] = width / 1024
    if stem_channels != width // 8:
        arguments["stem_channels"] = stem_channels
    if groups not in (1, 32):
        arguments["cardinality"] = groups
    depth, differing = _size(state, (50,) if groups == 1 else (50, 101, 152, 200))
    differing.pop("is_bottleneck", None)
    return f"{'wideresnet3d' if groups == 1 else 'resnext3d'}_{depth}", {**arguments, **differing}


def _medicalnet(state: State) -> Found | None:
    stem, classify = state["stem.conv.weight"], state.get("head.classify.weight")
    is_known = stem.ndim == 5 and "head.fc.weight" not in state
    if not is_known or _kind(state, "stages.1.0.branch.conv2") != "full":
        return None
    # without a head the keys are also those of a 3D-ResNets trunk; the scans of MedicalNet have one channel
    if classify is None and stem.shape[1] != 1:
        return None
    arguments: dict[str, Any] = {"in_channels": stem.shape[1]}
    arguments |= {"has_head": False} if classify is None else {"num_classes": len(classify)}
    depth, differing = _size(state, tuple(DEPTHS.values()))
    shortcut = "B" if any(".shortcut." in key for key in state) else "A"
    if shortcut != ("A" if depth in (18, 34) else "B"):
        arguments["shortcut"] = shortcut
    return f"medicalnet_{depth}", {**arguments, **differing}


_STEP = r"^(stages\.\d+\.\d+)\."
_SHORTCUT: tuple[Rule, ...] = (
    (_STEP + r"downsample\.0\.", r"\1.shortcut.conv."),
    (_STEP + r"downsample\.1\.", r"\1.shortcut.norm."),
)
_TORCHVISION: tuple[Rule, ...] = (
    (r"^layer(\d)\.", stage_numbers),
    *_SHORTCUT,
    (_STEP + r"conv(\d)\.1\.", r"\1.branch.norm\2."),
    (_STEP + r"conv(\d)\.0\.0\.", r"\1.branch.conv\2.spatial."),
    (_STEP + r"conv(\d)\.0\.1\.", r"\1.branch.conv\2.norm."),
    (_STEP + r"conv(\d)\.0\.3\.", r"\1.branch.conv\2.temporal."),
    (_STEP + r"conv(\d)\.0\.", r"\1.branch.conv\2."),
    (r"^fc\.", "head.fc."),
)
_3D_RESNETS: tuple[Rule, ...] = (
    (r"^conv1_s\.", "stem.0.conv."),
    (r"^bn1_s\.", "stem.0.norm."),
    (r"^conv1_t\.", "stem.1.conv."),
    (r"^bn1_t\.", "stem.1.norm."),
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.", stage_numbers),
    *_SHORTCUT,
    (_STEP + r"conv(\d)_s\.", r"\1.branch.conv\2.spatial."),
    (_STEP + r"bn(\d)_s\.", r"\1.branch.conv\2.norm."),
    (_STEP + r"conv(\d)_t\.", r"\1.branch.conv\2.temporal."),
    (_STEP + r"conv(\d)\.", r"\1.branch.conv\2."),
    (_STEP + r"bn(\d)(_t)?\.", r"\1.branch.norm\2."),
    (r"^fc\.", "head.fc."),
)
_MEDICALNET: tuple[Rule, ...] = (
    *_3D_RESNETS,
    (r"^conv_seg\.0\.", "head.up."),
    (r"^conv_seg\.1\.", "head.norm1."),
    (r"^conv_seg\.3\.", "head.conv."),
    (r"^conv_seg\.4\.", "head.norm2."),
    (r"^conv_seg\.6\.", "head.classify."),
)
_MMACTION: tuple[Rule, ...] = (
    (r"^backbone\.conv1\.conv\.conv_s\.", "stem.0.conv."),
    (r"^backbone\.conv1\.conv\.bn_s\.", "stem.0.norm."),
    (r"^backbone\.conv1\.conv\.conv_t\.", "stem.1.conv."),
    (r"^backbone\.conv1\.bn\.", "stem.1.norm."),
    (r"^backbone\.layer(\d)\.", stage_numbers),
    (_STEP + r"downsample\.conv\.", r"\1.shortcut.conv."),
    (_STEP + r"downsample\.bn\.", r"\1.shortcut.norm."),
    (_STEP + r"conv(\d)\.conv\.", r"\1.branch.conv\2."),
    (_STEP + r"conv(\d)\.bn\.", r"\1.branch.norm\2."),
    (r"^(stages\..*)\.conv_s\.", r"\1.spatial."),
    (r"^(stages\..*)\.bn_s\.", r"\1.norm."),
    (r"^(stages\..*)\.conv_t\.", r"\1.temporal."),
    (r"^cls_head\.fc_cls\.", "head.fc."),
)

LAYOUTS = (
    Layout(
        "torchvision (2+1)D",
        (r"stem\.0\.weight", r"stem\.3\.weight", r"layer4\.0\.conv2\.0(\.3)?\.weight", r"fc\.weight"),
        (
            (r"^stem\.0\.", "stem.0.conv."),
            (r"^stem\.1\.", "stem.0.norm."),
            (r"^stem\.3\.", "stem.1.conv."),
            (r"^stem\.4\.", "stem.1.norm."),
            *_TORCHVISION,
        ),
        _torchvision,
    ),
    Layout(
        "torchvision",
        (r"stem\.0\.weight", r"layer4\.0\.conv2\.0(\.3)?\.weight", r"fc\.weight"),
        ((r"^stem\.0\.", "stem.conv."), (r"^stem\.1\.", "stem.norm."), *_TORCHVISION),
        _torchvision,
    ),
    Layout(
        "3D-ResNets",
        (r"conv1(_s)?\.weight", r"layer2\.0\.conv1(_s)?\.weight", r"layer2\.0\.bn1(_s)?\.weight", r"fc\.weight"),
        _3D_RESNETS,
        _3d_resnets,
    ),
    # behind 3D-ResNets, whose every file without factored convolutions fits these marks too, for want of a last layer
    Layout(
        "MedicalNet",
        (r"conv1\.weight", r"layer1\.0\.conv1\.weight", r"layer1\.0\.bn1\.weight"),
        _MEDICALNET,
        _medicalnet,
    ),
    Layout(
        "MMAction2 R(2+1)D",
        (
            r"backbone\.conv1\.conv\.conv_s\.weight",
            r"backbone\.layer4\.0\.conv1\.conv\.conv_s\.weight",
            r"cls_head\..*",
        ),
        _MMACTION,
        _mmaction,
    ),
)
