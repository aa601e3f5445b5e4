"""Features: what a stage of a network makes of long videos, written to a file for each, aligned with time."""

from __future__ import annotations

import json
import logging
import os
import reprlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import speed, terminal, weights
from .copies import shared_copy
from .data import flow, sampling, transforms
from .data.datasets import check_clip
from .data.indexes import footprint
from .data.video import Video, VideoError
from .heads import Features
from .machine import aside
from .models import ready
from .predict import BATCH, videos_of
from .spec import ClipSpec, at_least_one, whole_numbers
from .stream import Stream
from .terminal import Table

log = logging.getLogger("tubelet")


def features(
    model: str | os.PathLike | nn.Module,
    source: str | os.PathLike,
    *,
    layer: int = -1,
    window: int | None = None,
    stride: int | None = None,
    out: str | os.PathLike = "features",
) -> Table:
    """Vectors of videos, the mean over the picture of a stage's map, and the time of each; a .npz for each video.

    Memory does not grow with the length of a video. A call that was interrupted goes on where it was.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec` and `stages`.
        source: a video, a folder of frames, or a folder of either, searched deeply.
        layer: number of the stage, from 0; -1 is the last.
        window: frames of a clip, at the network's own rate: one vector for each clip, the mean over its time. None
            takes the whole video in one pass, in which each frame is seen once: one vector for each step of the stage's
            map. This needs a network that can be streamed exactly (see `Stream`).
        stride: frames of the network's rate from the start of a clip to that of the next; None is half a window.
        out: folder for the files, of which each is named after its video and holds `features` (N, C) float32 and
            `times` (N, 2), the seconds from the start to the end of what each vector is of.

    Returns:
        A row for each video; what could not be read is told by the log and left out.

    Raises:
        ValueError: the network was trained on scans, cannot be streamed, or has no such stage; the source holds no
            video that can be read; or `out` holds files of other settings.
        TypeError: the source is no path.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source {reprlib.repr(source)}; give the path of a video, of a folder of frames or of videos")
    whole_numbers(layer=layer)
    at_least_one(**{name: n for name, n in {"window": window, "stride": stride}.items() if n is not None})
    if window is None and stride is not None:
        raise ValueError(f"stride {stride} is between windows: give window, such as window={2 * stride}, as well")
    network, spec = ready(model)
    if spec.intensity is not None:
        raise ValueError("features are of videos, and this network was trained on scans: give one of videos")
    cut = _cut(network, layer)
    if window is None:
        try:
            Stream(cut)
        except ValueError as error:
            raise ValueError(f"{error}; for clips of their own give window, such as window={spec.num_frames}") from None
    source, folder = Path(source), Path(out)
    settings = {"layer": layer, "window": window, "stride": stride, **weights.identity(network), "spec": spec.to_dict()}
    videos = videos_of(source)
    rows, failed = [], 0
    for path in terminal.progress(videos, "features") if len(videos) > 1 else videos:
        name = path.absolute().name if path == source else str(path.relative_to(source))
        target = folder / f"{name}.npz"
        try:
            note = {**settings, "video": _footprint(path)}
            if not _is_done(target, note):
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, json.dumps(note), cut, spec, path, window, stride)
        except VideoError as error:
            if len(videos) == 1:
                raise
            log.warning("left out: %s", error)
            failed += 1
            continue
        with np.load(target) as file:
            times, shape = file["times"], _shape(file, "features")
        rows.append({"video": name, "vectors": shape[0], "channels": shape[1], "to s": float(times[-1, 1])})
    if not rows:
        raise VideoError(f"{source}: none of its {len(videos)} videos can be read, see above")
    return Table(rows, {"written to": folder, **({"left out": failed} if failed else {})})


def _cut(network: nn.Module, layer: int) -> nn.Module:
    """The network up to a stage, with the same weights."""
    stages = getattr(network, "stages", None)
    if stages is None:
        raise ValueError(f"{type(network).__name__} has no `stages`, so that features have no place to come from")
    if not -len(stages) <= layer < len(stages):
        raise ValueError(f"layer {layer}: the network has stages 0 to {len(stages) - 1}, or -{len(stages)} to -1")
    cut = shared_copy(network)
    number = layer % len(stages) + 1
    cut.stages, cut.head = nn.ModuleList(list(stages)[:number]), Features()
    cut.strides, cut.channels = network.strides[:number], network.channels[:number]  # type: ignore
    return cut


def _footprint(path: Path) -> tuple[int, int]:
    try:
        return footprint(path)
    except OSError as error:  # a link to nothing, say
        raise VideoError(f"{path}: {error.strerror}") from None


def _is_done(target: Path, note: Mapping[str, Any]) -> bool:
    """Whether a file is of this video as it is now, and of these settings; of others it is an error."""
    if not target.exists():
        return False
    try:
        with np.load(target) as file:
            before = {"precision": weights.PLAIN, **json.loads(str(file["settings"]))}
        now = json.loads(json.dumps(note))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(
            f"{target}: damaged, or not written by features; remove it, or give another folder as out"
        ) from None
    if differing := [name for name in now if before.get(name) != now[name] and name != "video"]:
        told = {"network": "other weights", "spec": "another spec"}
        was = ", ".join(told.get(name, f"{name} {before.get(name)}, not {now[name]}") for name in differing)
        raise ValueError(f"{target}: was made with {was}; give another folder as out")
    return before["video"] == now["video"]


def _shape(file: Any, name: str) -> tuple[int, ...]:
    """Of an array in a .npz, none of which is read."""
    with file.zip.open(f"{name}.npy") as array:
        np.lib.format.read_magic(array)  # version 1, which is that of short headers
        return np.lib.format.read_array_header_1_0(array)[0]


def _write(
    target: Path, settings: str, cut: nn.Module, spec: ClipSpec, path: Path, window: int | None, stride: int | None
) -> None:
    """The file of a video, whole or not at all; its rows are on disk while they become more."""
    with flow.open_video(path, None, spec.in_channels, is_shown=True) as video, tempfile.TemporaryFile() as rows:
        check_clip(video, spec)
        step = sampling.step(spec, video.fps)
        count = sampling.count(video.num_frames, step)
        places = torch.tensor(sampling.clip(0, count, step))
        ends = torch.cat([video.times[places[1:]], video.times.new_tensor([video.duration_s])])
        times = []
        found = (
            _streamed(cut, spec, video, places)
            if window is None
            else _windowed(cut, spec, video, places, window, stride or max(1, window // 2))
        )
        for vectors, spans in found:
            rows.write(vectors.float().cpu().numpy().tobytes())
            starts, lasts = spans.clamp(max=count - 1).unbind(1)
            times.append(torch.stack([video.times[places[starts]], ends[lasts]], 1))
        rows.flush()
        if not rows.tell():
            frames = terminal.counted(count, "frame")
            raise VideoError(f"{path}: {frames} at the network's rate are too few for one vector of this stage")
        spent = torch.cat(times).numpy()
        made = np.memmap(rows, np.float32, "r").reshape(len(spent), -1)
        with aside(target) as new, new.open("wb") as file:
            np.savez(file, features=made, times=spent, settings=np.array(settings))


def _streamed(cut: nn.Module, spec: ClipSpec, video: Video, places: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors (n, C) of the steps, and the first and last frame (n, 2) of each."""
    stream, stride = Stream(cut), cut.strides[-1][0]  # type: ignore
    size = -(-spec.num_frames // stride) * stride
    chunks = [chunk.tolist() for chunk in places.split(size)]
    clips = video.clips(chunks, resize=spec.resize, crop=spec.crop)
    done = 0

    def told(maps: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal done
        firsts = (torch.arange(maps.shape[2]) + done) * stride
        done += maps.shape[2]
        return maps.mean((3, 4))[0].T, torch.stack([firsts, firsts + stride - 1], 1)

    for clip in terminal.progress(clips, video.path.name, len(chunks)):
        yield told(stream(transforms.prepare(clip[None], spec, cut)))
    yield told(stream.flush())


def _windowed(
    cut: nn.Module, spec: ClipSpec, video: Video, places: Tensor, window: int, stride: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of windows, some at a time."""
    starts = sampling.window_starts(len(places), window, stride)
    if len(places) < window:
        raise VideoError(
            f"{video.path}: {terminal.counted(len(places), 'frame')}, and a window has {window}: take a shorter window"
        )
    clips = video.clips([places[i : i + window] for i in starts], resize=spec.resize, crop=spec.crop)
    clips, waiting = terminal.progress(clips, video.path.name, len(starts)), iter(starts)
    while batch := list(islice(clips, BATCH)):
        with speed.inference():
            maps = cut(transforms.prepare(torch.stack(batch), spec, cut))
        firsts = torch.tensor(list(islice(waiting, len(batch))))
        yield maps.mean((2, 3, 4)), torch.stack([firsts, firsts + window - 1], 1)
