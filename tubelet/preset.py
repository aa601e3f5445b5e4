"""Preset: a named network, as a row of data: a family's function with some of its arguments given."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .blocks import init_weights
from .spec import ClipSpec


@dataclass(frozen=True)
class Paper:
    """Where a network was published.

    Attributes:
        title: authors and title, short.
        year: of publication.
        url: its address.
    """

    title: str
    year: int
    url: str


@dataclass(frozen=True)
class Preset:
    """A named network.

    Attributes:
        name: of the network.
        build: its family's function: (spec, num_classes, **arguments) -> network.
        spec: the clip that it was published for.
        paper: where it was published.
        arguments: of `build`, those in which this network differs from the function's defaults.
    """

    name: str
    build: Callable[..., nn.Module]
    spec: ClipSpec
    paper: Paper
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the arguments that `build` takes beside spec and num_classes."""
        return tuple(inspect.signature(self.build).parameters)[2:]

    def whole(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of `build` for these ones, this network's own and the function's defaults."""
        defaults = {name: each.default for name, each in inspect.signature(self.build).parameters.items()}
        return {**{name: defaults[name] for name in self.options}, **self.arguments, **arguments}

    def differing(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some arguments that are not this network's own anyway."""
        own = self.whole({})
        return {
            name: value
            for name, value in arguments.items()
            if name not in own or json.dumps(value) != json.dumps(own[name])  # which writes tuples as lists
        }

    def __call__(self, *, num_classes: int = 400, in_channels: int | None = None, **arguments: Any) -> nn.Module:
        """The network with new weights; `arguments` go before the preset's own, and None is its own channels."""
        spec = self.spec if in_channels is None else self.spec.with_channels(in_channels)
        network = self.build(spec, num_classes, **{**self.arguments, **arguments})
        init_weights(network)
        return network
