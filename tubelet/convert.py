"""Checkpoints of other code bases: their keys -> ours, and which network a file is for.

One `Layout` a code base and naming: rules that rename, and a fingerprint that recognises the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

State = Mapping[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Layout:
    """Keys of one code base.

    Attributes:
        name: of the code base.
        rules: (pattern, replacement) pairs for `re.sub`; each key goes through all of them in order.
        recognise: checkpoint -> (network name, arguments of `create`), or None when it is not this layout.
    """

    name: str
    rules: tuple[Rule, ...]
    recognise: Callable[[State], tuple[str, dict[str, Any]] | None]

    def rename(self, state: State) -> dict[str, Tensor]:
        """The checkpoint under our keys; keys that no rule knows stay as they are."""
        renamed = {}
        for key, value in state.items():
            for pattern, replacement in self.rules:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
        return renamed


def _torchvision(state: State) -> tuple[str, dict[str, Any]] | None:
    is_factored = "stem.3.weight" in state
    last = "layer4.1.conv2.0.3.weight" if is_factored else "layer4.1.conv2.0.weight"
    if not {"stem.0.weight", last, "fc.weight"} <= set(state):
        return None
    sizes = {"num_classes": state["fc.weight"].shape[0], "in_channels": state["stem.0.weight"].shape[1]}
    if is_factored:
        return "r2plus1d_18", sizes
    return ("mc3_18" if state[last].shape[2] == 1 else "r3d_18"), sizes


_TORCHVISION_RULES: tuple[Rule, ...] = (
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
        "torchvision",
        ((r"^stem\.0\.", "stem.conv."), (r"^stem\.1\.", "stem.norm."), *_TORCHVISION_RULES),
        _torchvision,
    ),
    Layout(
        "torchvision (2+1)D",
        (
            (r"^stem\.0\.", "stem.0.conv."),
            (r"^stem\.1\.", "stem.0.norm."),
            (r"^stem\.3\.", "stem.1.conv."),
            (r"^stem\.4\.", "stem.1.norm."),
            *_TORCHVISION_RULES,
        ),
        _torchvision,
    ),
)


def recognise(state: State) -> tuple[str, dict[str, Any]] | None:
    """Checkpoint of any known code base -> (network name, arguments of `create`), or None."""
    found = (layout.recognise(state) for layout in LAYOUTS)
    return next((network for network in found if network), None)


def rename(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The checkpoint under the keys that fit the model best; shapes are not looked at."""
    own = model.state_dict().keys()
    candidates = [dict(state), *(layout.rename(state) for layout in LAYOUTS)]
    return min(candidates, key=lambda renamed: len(own ^ renamed.keys()))


def convert(state_dict: State, model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of any known code base -> the model's own keys, ready for `model.load_state_dict`.

    Raises:
        ValueError: the checkpoint does not fit; the message lists what the model misses, what is left over, and what
            has another shape.
    """
    own = model.state_dict()
    renamed = rename(state_dict, model)
    missing = [key for key in own if key not in renamed]
    left_over = [key for key in renamed if key not in own]
    reshaped = [
        f"{key} {tuple(renamed[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in renamed and renamed[key].shape != own[key].shape
    ]
    if missing or left_over or reshaped:
        parts = [
            f"{len(keys)} {what}: {_some(keys)}"
            for what, keys in (("missing", missing), ("left over", left_over), ("of another shape", reshaped))
            if keys
        ]
        raise ValueError(
            f"the checkpoint ({len(state_dict)} entries) does not fit {_name(model)} "
            f"({len(own)} entries): {'; '.join(parts)}"
        )
    return {key: renamed[key] for key in own}


def _some(keys: list[str], most: int = 5) -> str:
    more = f", and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _name(model: nn.Module) -> str:
    architecture = getattr(model, "architecture", None)
    return architecture["name"] if architecture else type(model).__name__
