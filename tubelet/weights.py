"""Files of weights: the catalogue of published checkpoints, download, reading any file, saving ours.

A file that `save` writes describes itself: safetensors, with the network's call, its head, the ClipSpec, class
names, metrics and versions in the header. It holds no code, so opening one runs none; neither does reading a
checkpoint of others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor, nn

from . import heads, pickles
from .convert import PREFIXES, without
from .copies import plain
from .download import check, download
from .machine import aside, cache_dir
from .spec import ClipSpec

FORMAT = "tubelet-1"
PLAIN = "float32"  # the precision of networks, and of notes that tell none
# Where others put the weights in a file. An average over training comes before the last weights, as those who keep one
# publish it; MMEngine alone swaps the two, so that its `ema_state_dict` is the worse one.
WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema", "ema_state"),
    *("state_dict", "model_state", "model_state_dict", "model", "net", "network", "module"),
    *("ema_state_dict", "blobs"),
)


@dataclass(frozen=True)
class Published:
    """A published checkpoint: where it is, what it eats, what it was measured to do.

    Attributes:
        tag: name in the catalogue, `network.dataset_publisher`, with more at its end where that names several.
        model: name of the network.
        arguments: of the network, those that the file's keys do not tell.
        url: where the file is, or a page where it is found by hand.
        file: name of the file.
        sha256: the hash, or the part of it that its publisher gives; "" where none is public.
        dataset: what it was trained and measured on.
        num_classes: K of its logits; None for an encoder.
        classes: where the names of the classes are.
        spec: the clip it takes. Where a publisher samples segments over the whole video, `frame_stride` is what they
            are apart in a video of usual length (10 s of Kinetics, 4 s of Something-Something).
        metrics: as published, in percent: top1, top5, mAP.
        protocol: how they were measured.
        paper: its address.
        licence: of the code and of the weights.
    """

    tag: str
    model: str
    arguments: Mapping[str, Any]
    url: str
    file: str
    sha256: str
    dataset: str
    num_classes: int | None
    classes: str
    spec: ClipSpec
    metrics: Mapping[str, float]
    protocol: str
    paper: str
    licence: str

    @property
    def is_by_hand(self) -> bool:
        """Whether `url` is a page, on which a person has to fetch the file."""
        return Path(urlsplit(self.url).path).name != self.file

    @property
    def quality(self) -> float:
        """top1, else mAP, in percent; 0 when neither was published."""
        return self.metrics.get("top1", self.metrics.get("mAP", 0.0))


def _catalogue() -> tuple[Published, ...]:
    rows = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    return tuple(Published(**{**row, "spec": ClipSpec.from_dict(row["spec"])}) for row in rows)


CATALOGUE = _catalogue()


def find(tag: str, model: str | None = None) -> Published | None:
    """A row of the catalogue, or None.

    Args:
        tag: of a row; or `network.dataset` for the row of that network with the best published accuracy.
        model: name of a network, for which the name of a dataset will do as tag.
    """
    names = {tag, f"{model}.{tag}"}
    rows = [row for row in CATALOGUE if not names.isdisjoint((row.tag, f"{row.model}.{row.dataset}"))]
    return max(rows, key=lambda row: row.quality, default=None)


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        state: its tensors by key.
        header: its header when it is one of ours, else None.
        tag: of the row of the catalogue that it was downloaded for, if so.
    """

    path: Path
    state: dict[str, Tensor]
    header: dict[str, Any] | None = None
    tag: str | None = None


def published(checkpoint: Checkpoint, num_classes: int | None) -> Published | None:
    """The row of the catalogue that a file is from, known by its tag, or by its name and number of classes."""
    if checkpoint.tag is not None:
        return find(checkpoint.tag)
    rows = (row for row in CATALOGUE if row.file == checkpoint.path.name and row.num_classes in (None, num_classes))
    return next(rows, None)


def fetch(row: Published) -> Path:
    """A published checkpoint as safetensors in the cache folder, under its publisher's keys.

    It is downloaded, checked against its hash and converted the first time. A file that was put into the cache folder
    by hand is taken instead of a download, and stays there.

    Raises:
        ValueError: it cannot be had; the message says which file to put where.
    """
    place = cache_dir() / "weights" / row.tag / row.file
    kept = place.with_name(f"{place.stem}.safetensors")
    if kept.exists():
        return kept
    from filelock import FileLock

    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / ".lock"):  # other processes wait, and find it made
        return kept if kept.exists() else _fetched(row, place, kept)


def _fetched(row: Published, place: Path, kept: Path) -> Path:
    """What `fetch` gives, made anew."""
    advice = f"fetch it elsewhere and put it at {place}"
    is_by_hand = place.exists()
    if not is_by_hand and row.is_by_hand:
        raise ValueError(f"{row.tag}: no program can download it: get {row.file} from {row.url} and put it at {place}")
    try:
        if is_by_hand:
            check(place, row.sha256)
        else:
            download(row.url, place, row.sha256)
    except ValueError as error:
        raise ValueError(f"{row.tag}: {error}; {advice}") from error
    try:
        state = read(place).state
    except ValueError:
        if not is_by_hand:
            place.unlink()
        raise
    _write(state, kept, {"format": "pt", "tag": row.tag})
    if not is_by_hand:  # a download that could not be written is there for the next call
        place.unlink()
    return kept


def read(path: str | os.PathLike) -> Checkpoint:
    """Any file of weights, or the folder of a run -> its tensors, wrappers and `module.` prefixes taken off.

    No code of a file is run: what is not a tensor, an array or a plain container is left out (see `tubelet.pickles`).

    Raises:
        ValueError: it cannot be read; the message names the file and what is wrong with it.
    """
    path = Path(path)
    is_begun = (path / "run.json").is_file()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        why = "; the run has not come to the end of its first epoch: go on with it (--resume)" if is_begun else ""
        raise ValueError(f"{path}: no such file of weights{why}")
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return _read_safetensors(path)
    try:
        content = _content(path)
    except Exception as error:  # what the bytes of some other file run into has any type
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a file of weights, or a damaged one ({reason})") from error
    try:
        return Checkpoint(path, _unwrap(content, path))
    except RecursionError:
        raise ValueError(f"{path}: not a file of weights (what it holds, holds itself)") from None


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name: a length of eight bytes, then JSON."""
    with path.open("rb") as file:
        return file.read(10)[8:] == b'{"'


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError("it is empty")
    if start.lstrip().startswith((b"<", b"version https://git-lfs")):
        raise ValueError("it is a page of text where the file should be; download the file itself")
    is_zip = zipfile.is_zipfile(path)
    if start.startswith(b"\x93NUMPY") or (is_zip and _is_numpys(path)):
        raise ValueError("it is numpy's; torch.save(dict(numpy.load(path)), ...) makes one of weights of it")
    if start.startswith(b"PK") and not is_zip:
        raise ValueError("its end is missing; download it again")
    if is_zip and _is_program(path):
        raise ValueError("it is a TorchScript program; save its state_dict() instead")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch knows fewer kinds of harmless objects; what is really wrong, the next reader says
        return pickles.read_zip(path) if is_zip else pickles.read_pickle(path)


def _is_program(path: Path) -> bool:
    """Whether a zip is TorchScript, which `torch.load` would hand on to its own loader of programs."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _is_numpys(path: Path) -> bool:
    """Whether a zip is an `.npz`."""
    with zipfile.ZipFile(path) as archive:
        return {Path(name).suffix for name in archive.namelist()} == {".npy"}


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
        return Checkpoint(path, state, tag=header.get("tag"))
    values = json.loads(header["tubelet"])
    if values["format"] != FORMAT:
        raise ValueError(f"{path}: format {values['format']!r}; this tubelet reads {FORMAT!r}: upgrade it")
    return Checkpoint(path, state, values)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    seen: set[int] = set()
    while isinstance(content, Mapping):
        if id(content) in seen:
            raise RecursionError
        seen.add(id(content))
        inner = next((content[key] for key in WRAPPERS if key in content and _holds_tensors(content[key])), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path}: holds a {type(content).__name__}, not a mapping of names to tensors; save its state_dict() alone"
        )
    state = {key: _tensor(value) for key, value in content.items() if isinstance(key, str) and _is_numbers(value)}
    state.pop("n_averaged", None)  # how many weights torch's AveragedModel has averaged
    # Caffe2 keeps its optimizer among the weights
    state = {key: value for key, value in state.items() if not re.fullmatch(r".*_momentum|lr|model_iter", key)}
    if not state:
        keys = ", ".join(map(str, list(content)[:5]))
        places = ", ".join(f"content{place}" for place in _places(content))
        advice = f"; tensors are in {places}: save the network's alone" if places else ""
        raise ValueError(f"{path}: holds no tensors under names; it has {keys or 'nothing'}{advice}")
    if any(value.is_meta for value in state.values()):
        raise ValueError(f"{path}: its tensors are meta ones, without numbers; save a network that has weights")
    return without(PREFIXES, state)


def _places(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Where in mappings tensors are under names."""
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            if any(isinstance(name, str) and _is_numbers(each) for name, each in value.items()):
                yield f"{above}[{key!r}]"
            yield from _places(value, f"{above}[{key!r}]")


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(_is_numbers(each) or _holds_tensors(each) for each in value.values())


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def _write(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors, so that the file is whole or absent."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    try:
        with aside(path) as made:
            save_file(tensors, made, metadata=metadata)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be written ({error})") from None


def save(model: Any, path: str | os.PathLike, *, metrics: Mapping[str, float] | None = None) -> Path:
    """Write one self-describing safetensors file; `tubelet.load(path)` gives the model back, alone.

    A model that `create` did not make is saved without its call: such a file holds the weights, and `load` asks
    for the network.

    Args:
        model: the network, also one that `optimize` or `torch.compile` made, which is saved as it was before.
        path: the file.
        metrics: what the model was measured to do, kept in the header.

    Raises:
        ValueError: as in `header`.
    """
    path, model = Path(path), plain(model)
    _write(model.state_dict(), path, {"tubelet": json.dumps(header(model, metrics))})
    return path


def header(model: Any, metrics: Mapping[str, float] | None = None) -> dict[str, Any]:
    """What `save` writes beside the weights, as plain values.

    Args:
        model: the network.
        metrics: what it was measured to do.

    Raises:
        ValueError: the model is no longer what its call makes, its head is none of `tubelet.heads`, or its spec names
            more or fewer classes than the head has.
    """
    architecture = getattr(model, "architecture", None)
    spec = getattr(model, "spec", None)
    if architecture:
        _check_layers(model, architecture)
    if isinstance(spec, ClipSpec):
        heads.check_classes(getattr(model, "head", None), spec.classes)
    call = {key: value for key, value in architecture.items() if key != "layers"} if architecture else None
    return {
        "format": FORMAT,
        "architecture": call,
        "head": heads.describe(model.head) if architecture else None,
        "spec": spec.to_dict() if isinstance(spec, ClipSpec) else None,
        "metrics": dict(metrics or {}),
        "versions": {"tubelet": version("tubelet"), "torch": torch.__version__},
    }


def digest(model: nn.Module) -> str:
    """What tells networks of equal classes apart: a hash of their weights and buffers."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:32]


def identity(model: nn.Module) -> dict[str, str]:
    """What a note beside answers tells of the network: a hash of its weights, and the precision in which it runs."""
    return {"network": digest(plain(model)), "precision": getattr(model, "_precision", PLAIN)}


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
