"""Every network by name: `models()` lists them, `create` makes one, `load` reads one from a file."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import heads
from .. import weights as files
from ..convert import convert, recognise, rename
from ..spec import ClipSpec
from . import c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, textbook, tiny, tsm, unet, x3d

_FAMILIES = (c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, textbook, tiny, tsm, unet, x3d)
MODELS = tuple(preset for family in _FAMILIES for preset in family.PRESETS)

log = logging.getLogger("tubelet")


def models(pattern: str = "*") -> tuple[str, ...]:
    """Names of the networks, all or those that match a shell pattern: `models("tiny*")`."""
    return tuple(fnmatch.filter((preset.name for preset in MODELS), pattern))


def create(
    name: str,
    *,
    num_classes: int = 400,
    in_channels: int = 3,
    weights: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network by name, (B, C, T, H, W) -> logits (B, num_classes).

    Args:
        name: one of `models()`.
        num_classes: K of the logits.
        in_channels: C of the input.
        weights: None for new ones, a tag of the catalogue (`tubelet.weights.CATALOGUE`) or the path of a checkpoint
            of any known code base. When it answers another number of classes, the head is new and the log says so.
        **kwargs: further arguments of the network's own function.

    Raises:
        ValueError: the name (the message gives the nearest ones), an argument or the checkpoint does not fit.
    """
    preset = next((preset for preset in MODELS if preset.name == name), None)
    if preset is None:
        raise ValueError(_unknown(f"unknown model {name!r}", name, models()))
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes {num_classes} and in_channels {in_channels} must be at least 1")
    if unknown := sorted(set(kwargs) - set(preset.options)):
        accepted = ("num_classes", "in_channels", *preset.options)
        raise ValueError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    model: Any = preset(num_classes=num_classes, in_channels=in_channels, **kwargs)
    model.architecture = {
        "name": name,
        "arguments": {"num_classes": num_classes, "in_channels": in_channels, **kwargs},
        "layers": files.layers(model),
    }
    if weights is not None:
        _load_into(model, weights)
    return model


def load(path: str | os.PathLike, **hints: Any) -> nn.Module:
    """The network of a file, built and ready (in evaluation mode).

    Args:
        path: a file that `tubelet.save` wrote, the folder of a run, or a checkpoint of a known code base, whose network
            is recognised from its keys and shapes.
        **hints: what keys cannot tell, by the names of the network's own arguments.

    Raises:
        ValueError: the file cannot be read, or no known network has its keys; the message says what to do.
    """
    checkpoint = files.read(path)
    if checkpoint.header is not None:
        architecture = checkpoint.header["architecture"]
        if architecture is None:
            raise ValueError(
                f"{path}: holds the weights of a network that tubelet did not make; build it and use "
                "`model.load_state_dict(tubelet.weights.read(path).state)`"
            )
        model = create(architecture["name"], **{**architecture["arguments"], **hints})
    else:
        found = recognise(checkpoint.state) or _recognise_own(checkpoint.state)
        if found is None:
            keys = ", ".join(list(checkpoint.state)[:3])
            raise ValueError(
                f"{path}: no known network has these {len(checkpoint.state)} keys ({keys}, ...); "
                "if you know which it is, use tubelet.create(NAME, weights=...)"
            )
        name, arguments = found
        model = create(name, **{**arguments, **hints})
    _fill(model, checkpoint)
    return model.eval()


def _recognise_own(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]] | None:
    """Network and arguments of a plain state_dict of ours, as `torch.save(model.state_dict(), ...)` leaves it."""
    kernels = [value for value in state.values() if value.ndim == 5]
    if not kernels or "head.fc.weight" not in state:
        return None
    sizes = {"num_classes": len(state["head.fc.weight"]), "in_channels": kernels[0].shape[1]}
    shapes = {key: value.shape for key, value in state.items()}
    for preset in MODELS:
        with torch.device("meta"):
            own = preset(**sizes).state_dict()
        if shapes == {key: value.shape for key, value in own.items()}:
            return preset.name, sizes
    return None


def ready(model: str | os.PathLike | nn.Module) -> tuple[nn.Module, ClipSpec]:
    """A network in evaluation mode and the clip it takes, from what `evaluate` and `predict` accept as a model.

    What is loaded here goes to the GPU, if there is one; a network in memory stays where it is.

    Args:
        model: a file or a run's folder for `load`, a tag of the catalogue, or a network with a `spec`.

    Raises:
        ValueError: the network has no `spec`, or its weights cannot be loaded.
    """
    if not isinstance(model, nn.Module):
        row = files.find(str(model))
        if row is None and not Path(model).exists():
            runs = (str(file.parent) for file in Path("runs").rglob("model.safetensors"))
            known = (*sorted(runs), *(row.tag for row in files.CATALOGUE))
            raise ValueError(_unknown(f"{model}: no such file of weights, run or tag", str(model), known))
        model = create(row.model, weights=row.tag) if row else load(model)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ClipSpec):
        raise ValueError(
            f"{type(model).__name__} has no spec: set `model.spec = tubelet.ClipSpec(...)` to say what clip it takes"
        )
    return model.eval(), spec


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"{what}; did you mean {', '.join(near)}?" if near else f"{what}; known are {', '.join(known)}"


def _load_into(model: Any, weights: str | os.PathLike) -> None:
    """Fill a new model from a tag or a file, with a new head where the number of classes differs."""
    name = model.architecture["name"]
    row = files.find(str(weights))
    if row is None and not Path(weights).exists():
        tags = tuple(row.tag for row in files.CATALOGUE)
        raise ValueError(_unknown(f"weights {str(weights)!r} is neither a file nor a tag", str(weights), tags))
    if row is not None and row.model != name:
        raise ValueError(f"weights {row.tag!r} are for {row.model}, not for {name}")
    checkpoint = files.read(files.fetch(row) if row else weights)
    made_for = (checkpoint.header or {}).get("architecture")
    if made_for is not None and made_for["name"] != name:
        raise ValueError(f"{checkpoint.path}: holds {made_for['name']}, not {name}")

    wanted = model.head.fc.out_features
    fc = rename(checkpoint.state, model).get("head.fc.weight")
    has_other_head = (checkpoint.header or {}).get("head") is not None
    given = len(fc) if fc is not None else 0 if has_other_head else wanted
    new_head = model.head
    if fc is not None and given != wanted:
        model.head = heads.Classify(model.channels[-1], given)
    _fill(model, checkpoint)
    if row is not None:
        model.spec = row.spec
    if given != wanted:
        model.head = new_head
        model.spec = dataclasses.replace(model.spec, classes=())
        log.warning(
            "%s answers %d classes, %d are wanted: the head is new and must be trained", checkpoint.path, given, wanted
        )


def _fill(model: Any, checkpoint: files.Checkpoint) -> None:
    """Load a checkpoint's tensors; a file of ours brings its head and its spec along."""
    if checkpoint.header is not None:
        if checkpoint.header["head"] is not None:
            model.head = heads.build(checkpoint.header["head"])
        if checkpoint.header["spec"] is not None:
            model.spec = ClipSpec.from_dict(checkpoint.header["spec"])
    try:
        model.load_state_dict(convert(checkpoint.state, model))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
