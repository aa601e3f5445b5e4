"""Key tables of the 18-layer video ResNets: torchvision."""

from __future__ import annotations

from .layout import Found, Layout, Rule, State, sizes


def _torchvision(state: State) -> Found | None:
    is_factored = "stem.1.conv.weight" in state
    last = "stages.3.1.branch.conv2.weight"
    if is_factored:
        return "r2plus1d_18", sizes(state, "stem.0.conv.weight", "head.fc.weight")
    if last not in state:
        return None
    found = sizes(state, "stem.conv.weight", "head.fc.weight")
    return ("mc3_18" if state[last].shape[2] == 1 else "r3d_18"), found


_RULES: tuple[Rule, ...] = (
    (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
    (r"\.conv([12])\.1\.", r".branch.norm\1."),
    (r"\.conv([12])\.0\.0\.", r".branch.conv\1.spatial."),
    (r"\.conv([12])\.0\.1\.", r".branch.conv\1.norm."),
    (r"\.conv([12])\.0\.3\.", r".branch.conv\1.temporal."),
    (r"\.conv([12])\.0\.", r".branch.conv\1."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "head.fc."),
)

LAYOUTS = (
    Layout(
        "torchvision (2+1)D",
        (r"stem\.3\.weight", r"layer4\.1\.conv2\.0\.3\.weight", r"fc\.weight"),
        (
            (r"^stem\.0\.", "stem.0.conv."),
            (r"^stem\.1\.", "stem.0.norm."),
            (r"^stem\.3\.", "stem.1.conv."),
            (r"^stem\.4\.", "stem.1.norm."),
            *_RULES,
        ),
        _torchvision,
    ),
    Layout(
        "torchvision",
        (r"stem\.0\.weight", r"layer4\.1\.conv2\.0\.weight", r"fc\.weight"),
        ((r"^stem\.0\.", "stem.conv."), (r"^stem\.1\.", "stem.norm."), *_RULES),
        _torchvision,
    ),
)
