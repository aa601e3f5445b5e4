"""Key tables of TSM and TSN: the authors' code and MMAction2."""

from __future__ import annotations

import re
from typing import Any

from .layout import Found, Layout, State, count, sizes, stage_numbers

_NON_LOCAL = ((), (0, 2), (0, 2, 4), ())
_MOBILE_CHANNELS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
# in the authors' one list of blocks of MobileNetV2: where each layer of the paper begins, and each stage of ours
_LAYERS = (0, 1, 2, 4, 7, 11, 14, 17)
_STAGES = (1, 2, 4, 7, 14)


def _resnet(state: State) -> Found | None:
    if state["stem.0.conv.weight"].ndim != 4:
        return None
    found: dict[str, Any] = sizes(state, "stem.0.conv.weight", "head.fc.weight")
    steps = sum(count(state, rf"stages\.{i}\.(\d+)\.") for i in range(4))
    depth = 2 + steps * (3 if any(".branch.conv3." in key for key in state) else 2)
    family, preset = "tsm", depth
    if any(re.match(r"stages\.\d\.\d+\.(block\.)?net\.", key) for key in state):
        found["shift_place"] = "block"
    elif not any(".branch.conv1.net." in key for key in state):
        family = "tsn"
    if depth not in (18, 34, 50, 101):
        preset, found["depth"] = 101, depth
    name = f"{family}_r{preset}"
    if family == "tsm" and "shift_place" not in found:
        every = 1 if any(re.match(r"stages\.0\.1\.(block\.)?branch\.conv1\.net\.", key) for key in state) else 2
        if every != (2 if depth > 50 else 1):
            found["shift_every"] = every

    places = [re.fullmatch(r"stages\.(\d)\.(\d+)\.non_local\.g\.weight", key) for key in state]
    pairs = [(int(match[1]), int(match[2])) for match in places if match]
    if not pairs:
        return name, found
    non_local = tuple(tuple(j for i, j in pairs if i == stage) for stage in range(4))
    if name == "tsm_r50" and non_local == _NON_LOCAL:
        name = "tsm_r50_nl"
    else:
        found["non_local"] = non_local
    if any(key.endswith(".affinity.project.weight") for key in state):
        found["non_local_mode"] = "concatenation"
    elif not any(key.endswith(".theta.weight") for key in state):
        found["non_local_mode"] = "gaussian"
    if not any(key.endswith(".non_local.out.conv.bias") for key in state):
        found["non_local_bias"] = False
    return name, found


def _mobilenetv2(state: State) -> Found | None:
    found: dict[str, Any] = sizes(state, "stem.conv.weight", "head.fc.weight")
    lasts = ("0.0", "1.0", "2.0", "3.0", "3.4", "4.0", "4.3")
    convs = ("stem", *(f"stages.{last}.branch.project" for last in lasts), "stages.4.4")
    channels = tuple(state[f"{conv}.conv.weight"].shape[0] for conv in convs)
    if channels != _MOBILE_CHANNELS:
        found["channels"] = channels
    return "tsm_mobilenetv2" if any(".net." in key for key in state) else "tsn_mobilenetv2", found


def _block(place: int) -> str:
    """Our name of the block at a place of the authors' list."""
    stage = sum(place >= first for first in _STAGES) - 1
    return f"stages.{stage}.{place - _STAGES[stage]}."


def _branch(match: re.Match[str]) -> str:
    """Our name of convolution or norm `match[2]` of a block `match[1]`; the first block does not expand."""
    names = ("depthwise", "project") if match[1] == "stages.0.0." else ("expand", "depthwise", "project")
    place, part = divmod(int(match[2]), 3)
    return f"{match[1]}branch.{names[place]}.{('conv', 'norm')[part]}."


LAYOUTS = (
    Layout(
        "temporal-shift-module",
        (
            r"base_model\.conv1\.weight",
            r"base_model\.layer1\.0\.(block\.)?(net\.)?conv1\.(net\.)?weight",
            r"(new_fc|base_model\.fc)\.weight",
        ),
        (
            (r"^base_model\.conv1\.", "stem.0.conv."),
            (r"^base_model\.bn1\.", "stem.0.norm."),
            (r"^base_model\.layer(\d)\.", stage_numbers),
            (r"\.conv(\d)\.", r".branch.conv\1."),
            (r"\.bn(\d)\.", r".branch.norm\1."),
            (r"\.downsample\.0\.", ".shortcut.conv."),
            (r"\.downsample\.1\.", ".shortcut.norm."),
            (r"\.nl\.(g|phi)\.0\.", r".non_local.\1."),
            (r"\.nl\.theta\.", ".non_local.theta."),
            (r"\.nl\.W\.0\.", ".non_local.out.conv."),
            (r"\.nl\.W\.1\.", ".non_local.out.norm."),
            (r"^(new_fc|base_model\.fc)\.", "head.fc."),
        ),
        _resnet,
    ),
    Layout(
        "temporal-shift-module, MobileNetV2",
        (r"base_model\.features\.18\.0\.weight", r"(new_fc|base_model\.classifier)\.weight"),
        (
            (r"^base_model\.features\.0\.0\.", "stem.conv."),
            (r"^base_model\.features\.0\.1\.", "stem.norm."),
            (r"^base_model\.features\.18\.0\.", "stages.4.4.conv."),
            (r"^base_model\.features\.18\.1\.", "stages.4.4.norm."),
            (r"^base_model\.features\.(\d+)\.", lambda match: _block(int(match[1]))),
            (r"^(stages\.\d\.\d\.)conv\.(\d)\.", _branch),
            (r"^(new_fc|base_model\.classifier)\.", "head.fc."),
        ),
        _mobilenetv2,
    ),
    # C2D, which has the keys and shapes of TSN, is tried before it: load that with create("tsn_r50", weights=...)
    Layout(
        "MMAction2, TSM and TSN",
        (
            r"backbone\.conv1\.conv\.weight",
            r"backbone\.layer1\.0\.(block\.)?(net\.)?conv1\.conv\.(net\.)?weight",
            r"cls_head\.fc_cls\.weight",
        ),
        (
            (r"^backbone\.conv1\.conv\.", "stem.0.conv."),
            (r"^backbone\.conv1\.bn\.", "stem.0.norm."),
            (r"^backbone\.layer(\d)\.", stage_numbers),
            (r"\.conv(\d)\.conv\.", r".branch.conv\1."),
            (r"\.conv(\d)\.bn\.", r".branch.norm\1."),
            (r"\.downsample\.conv\.", ".shortcut.conv."),
            (r"\.downsample\.bn\.", ".shortcut.norm."),
            (r"\.non_local_block\.(g|phi)\.0\.conv\.", r".non_local.\1."),
            (r"\.non_local_block\.theta\.conv\.", ".non_local.theta."),
            (r"\.non_local_block\.concat_project\.conv\.", ".non_local.affinity.project."),
            (r"\.non_local_block\.conv_out\.conv\.", ".non_local.out.conv."),
            (r"\.non_local_block\.conv_out\.bn\.", ".non_local.out.norm."),
            (r"^cls_head\.fc_cls\.", "head.fc."),
        ),
        _resnet,
    ),
    Layout(
        "MMAction2, TSM on MobileNetV2",
        (r"backbone\.layer7\.0\.conv\.0\.conv\.weight", r"backbone\.conv2\.conv\.weight", r"cls_head\.fc_cls\.weight"),
        (
            (r"^backbone\.conv1\.conv\.", "stem.conv."),
            (r"^backbone\.conv1\.bn\.", "stem.norm."),
            (r"^backbone\.conv2\.conv\.", "stages.4.4.conv."),
            (r"^backbone\.conv2\.bn\.", "stages.4.4.norm."),
            (r"^backbone\.layer(\d)\.(\d)\.", lambda match: _block(_LAYERS[int(match[1])] + int(match[2]))),
            (r"\.conv\.(\d)\.net\.conv\.", r".conv.\1.conv.net."),
            (r"\.conv\.(\d)\.net\.bn\.", r".conv.\1.bn."),
            (r"\.conv\.(\d)\.conv\.", lambda match: f".conv.{3 * int(match[1])}."),
            (r"\.conv\.(\d)\.bn\.", lambda match: f".conv.{3 * int(match[1]) + 1}."),
            (r"^(stages\.\d\.\d\.)conv\.(\d)\.", _branch),
            (r"^cls_head\.fc_cls\.", "head.fc."),
        ),
        _mobilenetv2,
    ),
)
