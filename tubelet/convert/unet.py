"""Key tables of 3D U-Nets: wolny/pytorch-3dunet, all releases."""

from __future__ import annotations

from typing import Any

from .layout import Found, Layout, State, count

_UNET = (64, 128, 256, 512)
_RESIDUAL = (64, 128, 256, 512, 1024)


def _unet3d(state: State) -> Found | None:
    first = "stages.{}.block.first.conv.weight"
    shapes = _shapes(state, first, "stages.{}.block.second.conv.weight")
    if shapes is None:
        return None
    widths, mids, channels = shapes
    arguments = {**_sizes(state, widths[0]), **_order(state, "decoders.0.block.first")}
    if channels != list(_UNET):
        arguments["channels"] = channels
    if any(mid != max(width, out // 2) for width, mid, out in zip(widths, mids, channels, strict=True)):
        arguments["widens"] = 1
    if "decoders.0.upsample.conv.weight" in state:
        arguments["upsample"] = "deconv"
    return "unet3d", arguments


def _residual_unet3d(state: State) -> Found | None:
    second = "stages.{}.block.residual.branch.second.conv.weight"
    shapes = _shapes(state, second, second)
    if shapes is None:
        return None
    channels = shapes[2]
    is_gated = "stages.0.block.gate.place.conv.weight" in state
    projects_fully = "stages.0.block.project.conv.weight" in state
    # where the first step changes no width there is no projection
    stem = f"stages.0.block.project.{'conv.' if projects_fully else ''}weight"
    in_channels = state[stem].shape[1] if stem in state else channels[0]
    arguments = {**_sizes(state, in_channels), **_order(state, "decoders.0.block.residual.branch.first")}
    if channels != list(_RESIDUAL):
        arguments["channels"] = channels
    if projects_fully:
        arguments["projects_fully"] = True
    elif "decoders.0.block.project.weight" in state:
        arguments["is_concatenated"] = True
    if "decoders.0.upsample.conv.bias" in state:
        arguments["is_padded"] = True
    return ("residual_unet_se3d" if is_gated else "residual_unet3d"), arguments


def _shapes(state: State, first: str, last: str) -> tuple[list[int], list[int], list[int]] | None:
    """Channels into and out of each stage's first convolution, and out of its last; None for 2D networks."""
    num_stages = count(state, r"stages\.(\d+)\.")
    keys = [(first.format(i), last.format(i)) for i in range(num_stages)]
    if any(key not in state or state[key].ndim != 5 for pair in keys for key in pair):
        return None
    firsts, lasts = [state[key].shape for key, _ in keys], [state[key].shape for _, key in keys]
    return [shape[1] for shape in firsts], [shape[0] for shape in firsts], [shape[0] for shape in lasts]


def _sizes(state: State, in_channels: int) -> dict[str, Any]:
    return {"num_classes": state["head.fc.weight"].shape[0], "in_channels": in_channels}


def _order(state: State, conv: str) -> dict[str, str]:
    """Letters of a convolution's layers. Activations have no weights: ReLU is taken."""
    if f"{conv}.norm.weight" not in state:
        return {"order": "cr"}
    norm = "b" if f"{conv}.norm.running_mean" in state else "g"
    out, width = state[f"{conv}.conv.weight"].shape[:2]
    if out != width:
        is_before = state[f"{conv}.norm.weight"].shape[0] == width
    else:  # the order of the file is then all that tells, unless it is the alphabet's, as in safetensors
        keys = list(state)
        weight, bias, kernel = (keys.index(f"{conv}.{key}") for key in ("norm.weight", "norm.bias", "conv.weight"))
        is_sorted = bias < weight  # a module has its weight first
        is_before = is_sorted or weight < kernel  # sorted keys tell nothing: the published order is taken
    if is_before:
        return {} if norm == "g" else {"order": "bcr"}
    return {"order": "crg" if norm == "g" else "cbr"}


_MARK = r"final_conv\.weight"
_RULES = (
    (r"^encoders\.", "stages."),
    (r"\.basic_module\.", ".block."),
    (r"\.upsampling\.upsample\.(conv_transposed\.)?", ".upsample.conv."),
    (r"\.(groupnorm|batchnorm)\.", ".norm."),
    (r"^final_conv\.", "head.fc."),
)

LAYOUTS = (
    Layout(
        "pytorch-3dunet",
        (r"encoders\.1\.basic_module\.SingleConv2\.conv\.weight", _MARK),
        (*_RULES, (r"\.SingleConv1\.", ".first."), (r"\.SingleConv2\.", ".second.")),
        _unet3d,
    ),
    Layout(
        "pytorch-3dunet residual",
        (r"encoders\.1\.basic_module\.conv3\.conv\.weight", _MARK),
        (
            *_RULES,
            (r"\.conv1\.", ".project."),
            (r"\.conv2\.", ".residual.branch.first."),
            (r"\.conv3\.", ".residual.branch.second."),
            (r"\.se_module\.cSE\.", ".gate.channel."),
            (r"\.se_module\.sSE\.", ".gate.place."),
        ),
        _residual_unet3d,
    ),
)
