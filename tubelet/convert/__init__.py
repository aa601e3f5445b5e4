"""Checkpoints of other code bases: their keys -> ours, and which network a file is for.

One file a family of networks; in each, one `Layout` a code base: rules that rename its keys, and what tells the
network from the shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor, nn

from .layout import Found, Layout, State

# arguments of a network's function that no key or shape tells; `tubelet.load` takes the published ones and says so
UNTOLD = {
    "c3d": ("pool5_padding",),
    "densenet3d": ("conv1_t_stride", "no_max_pool"),
    "mobilenetv2": ("shift_div",),
    "residual_unet3d": ("order", "num_groups"),
    "resnet": ("shift_div", "non_local_mode"),
    "resnet3d": ("conv1_t_stride", "no_max_pool"),
    "resnext3d": ("conv1_t_stride", "no_max_pool"),
    "slow": ("non_local_mode", "has_pool2"),
    "slow_detection": ("non_local_mode",),
    "slowfast": ("alpha", "non_local_mode"),
    "unet3d": ("order", "num_groups", "upsample"),
}


_TORCHS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
PREFIXES = (*_TORCHS, "model.", "net.", "network.", "encoder.")  # the others as Lightning modules name their network
_NEARLY_ALL = 0.9  # share of the keys


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """The layouts of all families, which are imported when the first checkpoint is read."""
    from . import c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, tsm, unet, x3d

    families = (c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, tsm, unet, x3d)
    return tuple(layout for family in families for layout in family.LAYOUTS)


def recognise(state: State) -> Found | None:
    """Checkpoint of any known code base -> (network name, arguments of `create`), or None."""
    for variant in _variants(state):
        for layout in layouts():
            if layout.fits(variant) and (found := read_shapes(layout, variant)):
                return found
    return None


def _variants(state: State) -> list[State]:
    """The checkpoint, that without what torch's wrappers put before each key, and of a trunk without `backbone.`."""
    variants = [state]
    for prefixes in (_TORCHS, ("backbone.",)):
        shorter = without(prefixes, variants[-1])
        if shorter.keys() != variants[-1].keys():
            variants.append(shorter)
    return variants


def without(prefixes: Sequence[str], state: State) -> dict[str, Tensor]:
    """The checkpoint without those of the prefixes that all of its keys have."""
    while prefix := next((prefix for prefix in prefixes if state and all(key.startswith(prefix) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def alone(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """The network of a checkpoint, and the keys of what a training module keeps beside it, as the weights of a loss.

    It is what has one of `PREFIXES`, where nearly all keys and all kernels of convolutions do.
    """
    kernels = {key for key, value in state.items() if value.ndim in (4, 5)}
    for prefix in PREFIXES if kernels else ():
        inside = {key: value for key, value in state.items() if key.startswith(prefix)}
        if kernels <= inside.keys() and len(inside) >= _NEARLY_ALL * len(state):
            return without(PREFIXES, inside), [key for key in state if key not in inside]
    return dict(state), []


def read_shapes(layout: Layout, state: State) -> Found | None:
    """What a layout recognises in a checkpoint; None also where layers are missing."""
    try:
        return layout.recognise(layout.rename(state))
    except (LookupError, TypeError, ValueError):
        return None


def rename(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The checkpoint under the keys that fit the model best; shapes are not looked at."""
    own = model.state_dict().keys()
    variants = _variants(state)
    near = (layout.rename(each) for each in variants for layout in layouts() if layout.is_near(each))
    return min([*map(dict, variants), *near], key=lambda renamed: len(own ^ renamed.keys()))


def convert(state_dict: State, model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of any known code base -> the model's own keys, ready for `model.load_state_dict`.

    Weights that are the same numbers in another shape are reshaped: a 2D kernel for one of a single frame, a matrix for
    a convolution over as many values. Counters of batches that a file does not have are zero. `module.` of DataParallel
    and `_orig_mod.` of torch.compile before each key are taken off.

    Raises:
        ValueError: the checkpoint does not fit; the message lists what the model misses, what is left over, and what
            has another shape.
    """
    return fitted(state_dict, model, len(state_dict))


def fitted(state_dict: State, model: nn.Module, entries: int) -> dict[str, Tensor]:
    """As `convert`, of a checkpoint that had so many entries before weights of the model's own were added.

    Raises:
        ValueError: as in `convert`.
    """
    own = model.state_dict()
    renamed = rename(state_dict, model)
    counters = {key: value.new_zeros(()) for key, value in own.items() if key.endswith("num_batches_tracked")}
    renamed = {**counters, **renamed}
    missing = [key for key in own if key not in renamed]
    left_over = [key for key in renamed if key not in own]
    reshaped = [
        f"{key} {tuple(renamed[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in renamed and not _is_same_layer(renamed[key], own[key])
    ]
    if missing or left_over or reshaped:
        parts = [
            f"{len(keys)} {what}: {_some(keys)}"
            for what, keys in (("missing", missing), ("left over", left_over), ("of another shape", reshaped))
            if keys
        ]
        raise ValueError(
            f"the checkpoint ({entries} entries) does not fit {_name(model)} ({len(own)} entries): {'; '.join(parts)}"
        )
    return {
        key: renamed[key] if renamed[key].shape == value.shape else renamed[key].reshape(value.shape)
        for key, value in own.items()
    }


def _is_same_layer(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor holds the weights of `own` in the same order, in this shape or another."""
    if given.shape == own.shape:
        return True
    flat = [n for n in given.shape if n != 1] == [n for n in own.shape if n != 1]
    is_matrix = given.ndim == 2 and own.ndim == 5 and given.shape[0] == own.shape[0] and given.numel() == own.numel()
    return flat or is_matrix


def _some(keys: list[str], most: int = 5) -> str:
    more = f", and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _name(model: nn.Module) -> str:
    architecture = getattr(model, "architecture", None)
    return architecture["name"] if architecture else type(model).__name__
