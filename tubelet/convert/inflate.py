"""Weights for another input: those of an image network for video, of one number of channels for another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..blocks import Residual

State = Mapping[str, Tensor]


def is_image_resnet(state: State) -> bool:
    """Whether a state_dict has the keys and the 2D kernels of torchvision's and timm's ResNets."""
    return all(key in state and state[key].ndim == 4 for key in ("conv1.weight", "layer1.0.conv1.weight"))


@dataclass(frozen=True)
class _Layer:
    """A layer of the video network and the one of the image network whose weights it takes, by their names."""

    name: str
    source: str


def inflate(state: State, model: nn.Module) -> dict[str, Tensor]:
    """A 2D ResNet's state_dict -> the state_dict of a 3D ResNet.

    A kernel is repeated over time and divided by how often, so that a video of one repeated frame gives the features of
    that frame, but where padding in time comes in (Carreira and Zisserman 2017, arXiv 1705.07750, section 2.1). Layers
    that an image network cannot have, such as non-local blocks, keep the weights they have.

    Args:
        state: with the keys of torchvision or timm.
        model: of residual steps, as many as the 2D network has, of the same widths.

    Raises:
        ValueError: the steps are not the 2D network's.
    """
    filled = dict(model.state_dict())
    used = set()
    for layer in _pairs(state, model):
        for key in [key for key in state if key.startswith(f"{layer.source}.")]:
            used.add(key)
            ours = layer.name + key.removeprefix(layer.source)
            filled[ours] = _over_time(state[key], filled[ours]) if ours in filled else state[key]
    if left_over := [key for key in state if key not in used]:
        raise ValueError(
            f"{len(left_over)} keys of the image network have no place in the network: {left_over[0]}, ..."
        )
    return filled


def _over_time(kernel: Tensor, wanted: Tensor) -> Tensor:
    if kernel.ndim != 4 or wanted.ndim != 5:
        return kernel
    t = wanted.shape[2]
    return (kernel / t).unsqueeze(2).repeat(1, 1, t, 1, 1)


def _pairs(state: State, model: nn.Module) -> list[_Layer]:
    """Which layer takes the weights of which: both networks have the same order within a residual step."""
    stem = (_named(model, "stem", kind)[0] for kind in (nn.Conv3d, nn.BatchNorm3d))
    pairs = [_Layer(name, source) for name, source in zip(stem, ("conv1", "bn1"), strict=True)]
    steps = [_named(model, f"stages.{place}", Residual) for place in range(4)]
    given = [_numbers(state, rf"layer{place + 1}\.(\d+)\.") for place in range(4)]
    if [len(stage) for stage in steps] != [len(stage) for stage in given]:
        raise ValueError(
            f"the image network has {[len(stage) for stage in given]} residual steps in its stages, this network "
            f"{[len(stage) for stage in steps]}: take an image network of its depth"
        )
    for place, names in enumerate(steps):
        for number, name in enumerate(names):
            source = f"layer{place + 1}.{number}"
            for ours, kind in (("conv", nn.Conv3d), ("bn", nn.BatchNorm3d)):
                found = _named(model, f"{name}.branch", kind)
                wanted = _numbers(state, rf"{re.escape(source)}\.{ours}(\d)\.")
                if len(found) != len(wanted):
                    raise ValueError(
                        f"{name} has {len(found)} layers {kind.__name__} where the image network has {len(wanted)}: "
                        "its weights cannot be inflated for this network"
                    )
                pairs += [_Layer(layer, f"{source}.{ours}{n}") for layer, n in zip(found, wanted, strict=True)]
            shortcut = [
                layer for kind in (nn.Conv3d, nn.BatchNorm3d) for layer in _named(model, f"{name}.shortcut", kind)
            ]
            pairs += [_Layer(layer, f"{source}.downsample.{i}") for i, layer in enumerate(shortcut)]
    return [*pairs, _Layer("head.fc", "fc")]


def _named(model: nn.Module, prefix: str, kind: type[nn.Module]) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kind) and (name == prefix or name.startswith(f"{prefix}."))
    ]


def _numbers(state: State, pattern: str) -> list[str]:
    return sorted({match[1] for match in (re.match(pattern, key) for key in state) if match}, key=int)


def spread_channels(state: State, own: State, in_channels: int) -> dict[str, Tensor]:
    """A state_dict with its first convolutions made for another number of input channels.

    Each new channel gets the sum of the old ones' weights divided by the new number: an image whose channels are all
    the same gives the response that it gave.

    Args:
        state: under the model's keys.
        own: the model's state_dict.
        in_channels: of the model.
    """
    first = _first_convolutions(own)
    return {
        key: _spread(value, in_channels) if key in first and _is_other_input(value, own[key], in_channels) else value
        for key, value in state.items()
    }


def _first_convolutions(own: State) -> set[str]:
    """Keys of the kernels that a network's input meets: one of each path of its stem, or of its first stage."""
    kernels = [key for key, value in own.items() if value.ndim == 5]
    for prefixes in (("stem.slow.", "stem.fast."), ("stem.",), ("stages.0.",)):
        if found := {key for prefix in prefixes for key in [k for k in kernels if k.startswith(prefix)][:1]}:
            return found
    return set()


def _is_other_input(value: Tensor, own: Tensor, in_channels: int) -> bool:
    """Whether these are kernels (O, I, ...) of one layer that differ in I alone, which is the network's input."""
    if value.ndim < 4 or own.ndim != 5 or own.shape[1] != in_channels or value.shape[1] == in_channels:
        return False
    return value.shape[0] == own.shape[0] and value[:, 0].numel() == own[:, 0].numel()


def _spread(kernel: Tensor, in_channels: int) -> Tensor:
    total = kernel.sum(1, keepdim=True) / in_channels
    return total.repeat(1, in_channels, *[1] * (kernel.ndim - 2))
