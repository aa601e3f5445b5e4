"""Key tables of MoViNet: Atze00/MoViNet-pytorch."""

from __future__ import annotations

from .layout import Found, Layout, Rule, State, count, kernel, sizes

# blocks of each stage, by which a size is told
_DEPTHS = {
    "movinet_a0": (1, 3, 3, 4, 4),
    "movinet_a1": (2, 4, 5, 6, 7),
    "movinet_a2": (3, 5, 5, 6, 7),
    "movinet_a3": (4, 6, 5, 8, 10),
    "movinet_a4": (6, 9, 9, 10, 13),
    "movinet_a5": (6, 11, 13, 11, 18),
}


def _recognise(state: State) -> Found | None:
    depths = tuple(count(state, rf"stages\.{i}\.(\d+)\.branch") for i in range(5))
    steps = [[f"stages.{i}.{j}.branch" for j in range(depth)] for i, depth in enumerate(depths)]
    if not all(depths) or f"{steps[0][0]}.gate.fc1.weight" not in state:
        return None
    is_factored = f"{steps[0][0]}.depthwise.space.conv.weight" in state
    is_causal = state[f"{steps[0][0]}.gate.fc1.weight"].shape[1] > len(state[f"{steps[0][0]}.expand.conv.weight"])

    def row(step: str) -> tuple[int, int, int]:
        mid = len(state[f"{step}.expand.conv.weight"])
        if not is_factored:
            t, h, _ = kernel(state, f"{step}.depthwise.conv.weight")
            return mid, t, h
        time = state.get(f"{step}.depthwise.time.conv.weight")
        return mid, 1 if time is None else time.shape[2], kernel(state, f"{step}.depthwise.space.conv.weight")[1]

    nearest = min(_DEPTHS, key=lambda name: sum(abs(a - b) for a, b in zip(depths, _DEPTHS[name], strict=True)))
    hidden_channels, last_channels = state["head.hidden.weight"].shape[:2]
    return f"{nearest}_stream" if is_causal else nearest, {
        **sizes(state, "stem.conv.weight", "head.fc.weight"),
        "stem_channels": len(state["stem.conv.weight"]),
        "channels": tuple(len(state[f"{stage[0]}.project.conv.weight"]) for stage in steps),
        "rows": tuple(tuple(map(row, stage)) for stage in steps),
        "last_channels": last_channels,
        **({"hidden_channels": hidden_channels} if hidden_channels != 2048 else {}),
        **({"is_factored": is_factored} if is_factored != is_causal else {}),
    }


_RULES: tuple[Rule, ...] = (
    (r"^blocks\.b(\d+)_l(\d+)\.", r"stages.\1.\2."),
    (r"\.(expand|project)\.conv_1\.", r".branch.\1."),
    (r"\.deep\.conv_2\.", ".branch.depthwise.time."),
    (r"\.se\.(fc[12])\.conv_1\.conv[23]d\.", r".branch.gate.\1."),
    (r"\.alpha$", ".branch.scale.weight"),
    (r"\.res\.\d\.conv_1\.", ".shortcut.project."),
    (r"^conv1\.conv_1\.", "stem."),
    (r"^conv7\.conv_1\.", "stages.4.last."),
    (r"^classifier\.0\.conv_1\.conv[23]d\.", "head.hidden."),
    (r"^classifier\.3\.conv_1\.conv[23]d\.", "head.fc."),
    (r"\.conv[23]d\.", ".conv."),
)

LAYOUTS = (
    Layout(
        "MoViNet-pytorch",
        (r"conv1\.conv_1\.conv3d\.weight", r"blocks\.b0_l0\.alpha"),
        ((r"\.deep\.conv_1\.", ".branch.depthwise."), *_RULES),
        _recognise,
    ),
    Layout(
        "MoViNet-pytorch (2+1)D",
        (r"conv1\.conv_1\.conv2d\.weight", r"blocks\.b0_l0\.alpha"),
        ((r"\.deep\.conv_1\.", ".branch.depthwise.space."), *_RULES),
        _recognise,
    ),
)
