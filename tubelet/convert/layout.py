"""Layout: how one code base names the weights of one family, and what their shapes tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
Found = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """Keys of one family of networks in one code base.

    Attributes:
        name: of the code base.
        marks: patterns (whole keys); a checkpoint of this layout has a key for each.
        rules: (pattern, replacement) pairs for `re.sub`; each key goes through all of them in order. A key that
            becomes empty is left out.
        recognise: checkpoint under OUR keys -> (network name, arguments of `create`), or None when the shapes are not
            those of a network of this layout.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    recognise: Callable[[State], Found | None]

    def fits(self, state: State) -> bool:
        """Whether the checkpoint has a key for each mark."""
        return all(any(re.fullmatch(mark, key) for key in state) for mark in self.marks)

    def is_near(self, state: State) -> bool:
        """Whether it has a key for one of the marks, as a checkpoint without its last layer still does."""
        return any(re.fullmatch(mark, key) for mark in self.marks for key in state)

    def rename(self, state: State) -> dict[str, Tensor]:
        """The checkpoint under our keys; keys that no rule knows stay as they are."""
        renamed = {}
        for key, value in state.items():
            for pattern, replacement in self.rules:
                key = re.sub(pattern, replacement, key)
            if key:
                renamed[key] = value
        return renamed


def count(state: State, pattern: str) -> int:
    """How many numbers stand at the group of a pattern: `count(state, r"stages\\.0\\.(\\d+)\\.")` blocks."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})


def kernel(state: State, key: str) -> tuple[int, int, int]:
    """(t, h, w) of a convolution's weight; a 2D one has t = 1."""
    sizes = tuple(state[key].shape[2:])
    t, h, w = (1,) * (3 - len(sizes)) + sizes
    return t, h, w


def sizes(state: State, stem: str, fc: str) -> dict[str, Any]:
    """num_classes and in_channels, from the weights of the last and of the first layer."""
    return {"num_classes": state[fc].shape[0], "in_channels": state[stem].shape[1]}


def cycle(values: Sequence[int]) -> tuple[int, ...]:
    """The shortest beginning that gives all the values when it is repeated: (3, 1, 3, 1, 3) -> (3, 1)."""
    lengths = range(1, len(values) + 1)
    return next(tuple(values[:n]) for n in lengths if all(v == values[i % n] for i, v in enumerate(values)))


def stage_numbers(match: re.Match[str]) -> str:
    """`layer3.` -> `stages.2.`, for a rule whose first group is the number of a stage from 1 on."""
    return f"stages.{int(match[1]) - 1}."
