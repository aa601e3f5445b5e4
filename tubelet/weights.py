"""Files of weights: the catalogue of published checkpoints, download, reading any file, saving ours.

A file that `save` writes describes itself: safetensors, with the network's call, its head, the ClipSpec, class
names, metrics and versions in the header. It holds no code, so opening one runs none.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import heads
from .machine import cache_dir
from .spec import TORCHVISION, ClipSpec

FORMAT = "tubelet-1"
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")


@dataclass(frozen=True)
class Published:
    """A published checkpoint: where it is, what it eats, what it was measured to do.

    Attributes:
        tag: name in the catalogue.
        model: name of the network.
        url: where the file is.
        sha256: the hash, or the part of it that its publisher gives.
        spec: the clip it takes.
        metrics: as published, in percent.
        protocol: how they were measured.
        paper: its address.
        licence: of the code and of the weights.
    """

    tag: str
    model: str
    url: str
    sha256: str
    spec: ClipSpec
    metrics: dict[str, float]
    protocol: str
    paper: str
    licence: str


CATALOGUE = tuple(
    Published(
        tag=f"{model}.k400",
        model=model,
        url=f"https://download.pytorch.org/models/{model}-{sha256}.pth",
        sha256=sha256,
        spec=TORCHVISION,
        metrics={"top1": top1, "top5": top5},
        protocol="Kinetics-400, 5 clips x 1 crop, softmax summed",
        paper="https://arxiv.org/abs/1711.11248",
        licence="code BSD-3-Clause; the weights' own is not stated",
    )
    for model, sha256, top1, top5 in (
        ("r3d_18", "b3b3357e", 63.2, 83.479),
        ("mc3_18", "a90a0ba3", 63.96, 84.13),
        ("r2plus1d_18", "91a641e6", 67.463, 86.175),
    )
)


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        state: its tensors by key.
        header: its header when it is one of ours, else None.
    """

    path: Path
    state: dict[str, Tensor]
    header: dict[str, Any] | None = None


def fetch(row: Published) -> Path:
    """Path of a published checkpoint, downloaded once into the cache folder and checked against its hash.

    Raises:
        ValueError: the download failed.
    """
    path = cache_dir() / "weights" / Path(row.url).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(row.url, str(path), hash_prefix=row.sha256)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{row.tag}: could not download {row.url} ({error}); fetch it elsewhere and pass its path as weights"
        ) from error
    return path


def read(path: str | os.PathLike) -> Checkpoint:
    """Any file of weights, or the folder of a run -> its tensors, wrappers and `module.` prefixes taken off.

    Raises:
        ValueError: it cannot be read; the message names the file and what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file of weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the bytes of some other file run into has any type
        # torch's own text advises to load it unsafely
        holds_code = isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error)
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        reason = "it holds more than tensors, and no code of a file is run" if holds_code else first
        raise ValueError(f"{path}: not a file of weights that can be read safely ({reason})") from error
    return Checkpoint(path, _unwrap(content, path))


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            # not a safetensors tensor mapping but a handle that has keys() alone
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    if "tubelet" not in header:
        return Checkpoint(path, state)
    values = json.loads(header["tubelet"])
    if values["format"] != FORMAT:
        raise ValueError(f"{path}: format {values['format']!r}; this tubelet reads {FORMAT!r}: upgrade it")
    return Checkpoint(path, state, values)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a mapping of names to tensors")
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path}: holds no tensors")
    for prefix in ("module.", "model."):  # of DataParallel, and of a Lightning module that holds the network
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def save(model: Any, path: str | os.PathLike, *, metrics: Mapping[str, float] | None = None) -> Path:
    """Write one self-describing safetensors file; `tubelet.load(path)` gives the model back, alone.

    A model that `create` did not make is saved without its call: such a file holds the weights, and `load` asks
    for the network.

    Args:
        model: the network.
        path: the file.
        metrics: what the model was measured to do, kept in the header.

    Raises:
        ValueError: as in `header`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    described = json.dumps(header(model, metrics))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().contiguous().clone() for key, value in model.state_dict().items()}
    aside = path.with_name(f"{path.name}.part")
    try:
        save_file(state, aside, metadata={"tubelet": described})
    except SafetensorError as error:
        aside.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written ({error})") from None
    aside.replace(path)
    return path


def header(model: Any, metrics: Mapping[str, float] | None = None) -> dict[str, Any]:
    """What `save` writes beside the weights, as plain values.

    Args:
        model: the network.
        metrics: what it was measured to do.

    Raises:
        ValueError: the model is no longer what its call makes, or its head is none of `tubelet.heads`.
    """
    architecture = getattr(model, "architecture", None)
    spec = getattr(model, "spec", None)
    if architecture:
        _check_layers(model, architecture)
    return {
        "format": FORMAT,
        "architecture": {key: architecture[key] for key in ("name", "arguments")} if architecture else None,
        "head": heads.describe(model.head) if architecture else None,
        "spec": spec.to_dict() if isinstance(spec, ClipSpec) else None,
        "metrics": dict(metrics or {}),
        "versions": {"tubelet": version("tubelet"), "torch": torch.__version__},
    }


def layers(model: nn.Module) -> dict[str, str]:
    """Each innermost layer but the head's in words, by name: what `create` notes and `save` compares."""
    return {
        name: f"{module} {[tuple(value.shape) for value in module.state_dict().values()]}"
        for name, module in model.named_modules()
        if name.partition(".")[0] != "head" and not list(module.children())
    }


def _check_layers(model: nn.Module, architecture: Mapping[str, Any]) -> None:
    made, now = architecture["layers"], layers(model)
    changed = [name for name in {**made, **now} if made.get(name) != now.get(name)]
    if changed:
        was, got = (found.get(changed[0], "no layer") for found in (made, now))
        raise ValueError(
            f"{len(changed)} layers are not those that {architecture['name']} is made with, first {changed[0]}: {got} "
            f"for {was}; no file could rebuild it. `model.architecture = None` saves the weights alone"
        )


def find(tag: str) -> Published | None:
    """The row of the catalogue with this tag, or None."""
    return next((row for row in CATALOGUE if row.tag == tag), None)
