"""Prediction: what happens in a video, and when, window by window in bounded memory."""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
import os
import reprlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import heads, plot, terminal, timeline
from .data import flow, sampling, transforms
from .data.camera import Camera, is_live
from .data.datasets import check_clip
from .data.layouts import SUFFIXES
from .data.layouts.places import videos_among
from .data.pictures import FPS, is_frames
from .data.sampling import SHORTS, Short
from .data.scans import cut, middle, window_of
from .data.video import Video, VideoError, write_video
from .data.volume import Grid, Volume, VolumeError, oriented, prepared, read_volume
from .machine import folder_for
from .models import classifier, read_classes, ready, unnamed
from .segment import Mask, Masks, Way, dense_classes, masks_of, numbered, scans_of, segment
from .spec import ClipSpec, at_least_one
from .stream import Stream
from .terminal import Table
from .timeline import Segment

log = logging.getLogger("tubelet")

BATCH = 8  # windows of a video
_BLOCK = 4096  # frames drawn in one pass over the file
_SEEN = 100_000  # windows of a live source that are kept, the newest: a day at one a second


@dataclass(frozen=True)
class Prediction:
    """Scores of each window of a video, or of several.

    Attributes:
        sources: (N) the video of each window.
        times: (N, 2) seconds of each window, from its first frame to its last one's end; 0 of scans.
        scores: (N, K) softmax, or sigmoids where several classes may be true.
        classes: K names.
        failed: what could not be read, or broke off, and why.
        fps: the rate that `predict` was told, None without.
    """

    sources: tuple[str, ...]
    times: Tensor
    scores: Tensor
    classes: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None

    def videos(self) -> list[Prediction]:
        """One prediction for each video, in order."""
        parts, start = [], 0
        for _, windows in groupby(self.sources):
            sources = tuple(windows)
            mine = slice(start, start := start + len(sources))
            parts.append(Prediction(sources, self.times[mine], self.scores[mine], self.classes, fps=self.fps))
        return parts

    def top(self, k: int = 5) -> Table:
        """The k best classes of each video, by the mean score of its windows, and when each scored highest.

        Raises:
            ValueError: k is below 1.
        """
        at_least_one(k=k)
        rows: list[dict[str, object]] = []
        paths = {Path(source) for source in self.sources}
        is_of_scans = not self.times.any()
        names_tell = len({path.name for path in paths}) == len(paths)
        for part in self.videos():
            video = Path(part.sources[0])
            mean = part.scores.mean(0)
            for place in mean.topk(min(k, len(mean))).indices.tolist():
                start, end = part.times[int(part.scores[:, place].argmax())].tolist()
                name = video.absolute().name if names_tell else str(video)
                row: dict[str, object] = {"class": self.classes[place], "score": f"{mean[place]:.3f}"}
                if is_of_scans:
                    rows.append({"scan": name, **row})
                    continue
                row["highest"] = f"{part.scores[:, place].max():.3f}"
                rows.append({"video": name, **row, "from s": f"{start:.2f}", "to s": f"{end:.2f}"})
        return Table(rows)

    def segments(
        self, *, smooth_s: float = 0.0, enter: float = 0.5, leave: float | None = None, shortest_s: float = 0.0
    ) -> list[Segment]:
        """Stretches of the videos in which a class is seen, see `tubelet.timeline.segments`.

        Args:
            smooth_s: seconds over which scores are averaged before.
            enter: score at which a stretch begins.
            leave: score below which it ends; None is `enter`.
            shortest_s: shorter ones are left out.

        Raises:
            ValueError: a number is out of its range, or a score is nan or infinity.
        """
        return [
            segment
            for part in self.videos()
            for segment in timeline.segments(
                timeline.smooth(part.scores, part.times, smooth_s),
                part.times,
                part.classes,
                enter=enter,
                leave=leave,
                shortest_s=shortest_s,
                source=part.sources[0],
            )
        ]

    def to_srt(self, path: str | os.PathLike) -> Path:
        """Write the `segments` of one video as subtitles; that there are none is told by the log."""
        segments = self.segments()
        if not segments:
            log.warning("%s: no class scores the 0.5 of a subtitle, so that it is empty", path)
        return timeline.write(segments, path)

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write a row for each window: source, start_s, end_s and a score for each class."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "start_s", "end_s", *self.classes])
            for source, times, scores in zip(self.sources, self.times.tolist(), self.scores.tolist(), strict=True):
                writer.writerow([source, *(f"{t:.3f}" for t in times), *(f"{score:.6g}" for score in scores)])
        return path

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write `{"classes": [...], "windows": [{"source", "start_s", "end_s", "top", "scores"}, ...]}`.

        Raises:
            ValueError: a score is nan or infinity, which json has no word for.
        """
        timeline.check(self.scores, self.times)
        windows = [
            {
                "source": source,
                "start_s": start,
                "end_s": end,
                "top": self.classes[max(range(len(row)), key=row.__getitem__)],
                "scores": row,
            }
            for source, (start, end), row in zip(self.sources, self.times.tolist(), self.scores.tolist(), strict=True)
        ]
        path = Path(path)
        path.write_text(json.dumps({"classes": self.classes, "windows": windows}, indent=1) + "\n")
        return path

    def to_video(self, path: str | os.PathLike) -> Path:
        """Write the video as mp4 with the time and the best classes of the window around each frame on it.

        A video of less than 240 pixels is drawn larger, so that it can be read. One of varying rate is written at
        its average rate.

        Raises:
            ValueError: the prediction is of several videos, an array or a live source, or `path` is the video itself.
        """
        source, path = Path(self.sources[0]), Path(path)
        if len(set(self.sources)) > 1 or not source.exists():
            raise ValueError(
                f"{path}: drawn for one video on disk; this prediction is of {len(set(self.sources))}, "
                f"first {self.sources[0]}"
            )
        if path.exists() and path.samefile(source):
            raise ValueError(f"{path}: is the video itself; give another name")
        with Video(source, self.fps) as video:
            write_video(path, terminal.progress(self._drawn(video), "drawing", video.num_frames), video.fps)
        return path

    def _drawn(self, video: Video) -> Iterator[Tensor]:
        """Frames (3, H, W) with what their window says on them."""
        short_side = max(240, min(video.height, video.width))
        height, width = transforms.resize_shape(video.height, video.width, short_side)
        even = (height - height % 2, width - width % 2)
        middles = self.times.mean(1)
        nearest = torch.searchsorted((middles[1:] + middles[:-1]) / 2, video.times).tolist()
        for start in range(0, video.num_frames, _BLOCK):
            block = range(start, min(start + _BLOCK, video.num_frames))
            clips = video.clips([[i] for i in block], resize=short_side, crop=even)
            for i, clip in zip(block, clips, strict=True):
                best = self.scores[nearest[i]].topk(min(2, len(self.classes)))
                lines = [
                    f"{self.classes[place]} {100 * score:.0f} %"
                    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ]
                yield plot.annotate(clip[:, 0], [*lines, f"{video.times[i]:.1f} s"])


def predict(
    model: str | os.PathLike | nn.Module,
    source: int | str | bytes | os.PathLike | np.ndarray | Tensor,
    *,
    stride_s: float | None = None,
    fps: float | None = None,
    classes: str | os.PathLike | None = None,
    batch_size: int | None = None,
    short: Short = "error",
    out: str | os.PathLike | None = None,
    overlap: float = 0.5,
    mirrored: bool = False,
    largest: bool = False,
    holes: bool = False,
    series: str | None = None,
    stream: bool = False,
) -> Prediction | Masks:
    """Scores of overlapping windows over the whole of a video, however long, or of what a camera sees; masks of scans.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`.
        source: a video file, a folder of frames, a folder of either, an array or a tensor (C, T, H, W) of uint8 (see
            `tubelet.data.video.Video`; for a network of two channels their optical flow is computed and kept, see
            `tubelet.data.flow`), or a live source: the number of a camera or an address (see
            `tubelet.data.camera.Camera`). A live source is seen until it ends or Ctrl-C, a line for each window.
        stride_s: seconds between the starts of two windows; by default half a window.
        fps: rate of what has no times: a folder of frames (None takes 30), or an array (None takes it to be at the
            model's own rate, and counts times and stride in frames).
        classes: file of the model's class names, as in `evaluate`; without any they are called "class 0" and so on.
        batch_size: windows in one pass of the network; by default 8, of scans what suits the device.
        short: videos with fewer frames than a window: error, loop or hold.
        out: file or folder for masks, which are then not kept in memory where they are several. A folder that an
            interrupted call has begun is gone on with. For classes of scans a file ending in .csv or .json, or a folder
            for both. Like all that follows, for a network trained on scans.
        overlap: of neighbouring windows of a scan, as a share of their sides.
        mirrored: see each window also mirrored along the axes (`ClipSpec.mirror_axes`) along which it was in training,
            and average the answers: two, four or eight times the work.
        largest: keep of each class only the largest connected component.
        holes: fill the holes of each class.
        series: id of the DICOM series that is meant, where a folder holds several.
        stream: see a live source frame by frame through a `tubelet.Stream`, each frame once, and say how long a frame
            takes; a video file is played as if it were live, at its own rate. What cannot be streamed exactly is
            streamed approximately, which the log tells. An answer is the mean of the last steps, as many as a clip has,
            and comes each `stride_s`, by default each second.

    A network that was trained on scans takes a scan (NIfTI, NRRD, MHA, a DICOM series, ...), a folder of them, or an
    array (C, D, H, W) whose voxels have the size that the network sees.

    Raises:
        ValueError: the model, the classes or the source does not fit, or no video can be read. Of a folder, a video
            that cannot be read or gives no clip is left out, which the log and `Prediction.failed` tell; so is a live
            source's end by an error.
        TypeError: the source is none of these; of several files, a folder or a call for each.
    """
    at_least_one(batch_size=1 if batch_size is None else batch_size)
    if isinstance(source, bytes):
        source = os.fsdecode(source)
    if not isinstance(source, int | str | os.PathLike | np.ndarray | Tensor):
        raise TypeError(f"source {reprlib.repr(source)}; give one path, array or number of a camera")
    if isinstance(source, str) and not source:
        raise ValueError("source '' is no path; give '.' for the current folder")
    if short not in SHORTS:
        raise ValueError(f"short {short!r}; there is {', '.join(SHORTS)}")
    network, spec = ready(model)
    if spec.intensity is not None:
        _check_unused("videos", stride_s=stride_s, fps=fps, short=None if short == "error" else short)
        spec = spec if classes is None else replace(spec, classes=read_classes(classes))
        number = dense_classes(network, spec)
        if number is None:
            if out is None:
                return _classify_scans(network, spec, source, series)
            place = Path(out)
            check_out(place, source, is_drawn=False)
            with folder_for(place.parent if place.suffix else place):
                found = _classify_scans(network, spec, source, series)
                write(found, place, is_drawn=False)
            return found
        if len(spec.classes or range(number)) != number:
            raise ValueError(f"{len(spec.classes)} names of classes for a network of {number}: give as many")
        spec = replace(spec, classes=spec.classes or numbered(number))
        return _segment_scans(network, spec, source, Way(overlap, batch_size, mirrored, largest, holes), out, series)
    _check_unused("scans", mirrored=mirrored or None, largest=largest or None, holes=holes or None, series=series)
    batch_size = batch_size or BATCH
    if out is not None:
        raise ValueError(f"out {out} is for masks of scans; a Prediction is written by its to_csv, to_json or to_video")
    if stride_s is not None and not 0 < stride_s < math.inf:
        raise ValueError(f"stride_s {stride_s} must be above 0 seconds and finite")
    is_file = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() in SUFFIXES
    network, spec = classifier(model, classes, is_video=is_file or is_live(source), may_label_frames=True)
    if heads.labels_frames(network):
        if is_live(source) or stream:
            raise ValueError(f"{source}: live, and the network answers for each frame: record it, and give the file")
        if stride_s is not None:
            raise ValueError(f"stride_s {stride_s}: the network answers for each frame: leave it out")
    if not spec.classes:
        log.info("%s", unnamed(model, network))
    if stream and not (is_live(source) or (is_file and Path(str(source)).is_file())):
        raise ValueError(f"{source}: stream plays a video file, a camera or an address, and this is none")
    if is_live(source) or stream:
        if spec.in_channels == flow.CHANNELS:
            raise ValueError(f"{source}: live, and the network takes optical flow: record it, and give the file")
        if fps is not None:
            raise ValueError(f"fps {fps}: {source} is live and has times of its own")
        return _watch(network, spec, source if is_live(source) else Path(str(source)), stride_s, stream)
    assert not isinstance(source, int)
    videos = videos_of(Path(source)) if isinstance(source, str | os.PathLike) else [source]
    parts, failed = [], {}
    for video in videos:
        try:
            parts.append(_predict_video(network, spec, video, stride_s, fps, batch_size, short))
        except VideoError as error:
            if len(videos) == 1:
                raise
            log.warning("left out: %s", error)
            failed[str(video)] = str(error)
    if not parts:
        raise VideoError(f"{source}: none of its {len(videos)} videos can be read, first {next(iter(failed.values()))}")
    return Prediction(
        tuple(source for part in parts for source in part.sources),
        torch.cat([part.times for part in parts]),
        torch.cat([part.scores for part in parts]),
        parts[0].classes,
        failed,
        fps,
    )


def _check_unused(what: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is for {what}, which the network was not trained on: leave it out")


def _segment_scans(
    network: nn.Module,
    spec: ClipSpec,
    source: int | str | os.PathLike | np.ndarray | Tensor,
    way: Way,
    out: str | os.PathLike | None,
    series: str | None,
) -> Masks:
    """Masks of scans; that of an array is not written."""
    if isinstance(source, str | os.PathLike):
        return masks_of(network, spec, Path(source), way, None if out is None else Path(out), series=series)
    if out is not None:
        raise ValueError(f"out {out} is for masks of files; write that of an array with `tubelet.data.volume`")
    labels, scan = segment(network, spec, _volume(source, spec), way)
    counts = np.bincount(labels.reshape(-1), minlength=len(spec.classes))
    return Masks((Mask(scan.path, labels, scan.grid, tuple(counts.tolist())),), spec.classes)


def _classify_scans(
    network: nn.Module,
    spec: ClipSpec,
    source: int | str | os.PathLike | np.ndarray | Tensor,
    series: str | None,
) -> Prediction:
    """One row of scores for each scan, of the window in its middle; there are no seconds."""
    heads.check_classifier(network)
    heads.check_classes(getattr(network, "head", None), spec.classes)
    names, rows, failed = [], [], dict[str, str]()
    scans = scans_of(Path(source), spec.in_channels) if isinstance(source, str | os.PathLike) else [source]
    for scan in terminal.progress(scans, "reading scans"):
        try:
            volume = read_volume(scan, series=series) if isinstance(scan, list) else _volume(scan, spec)
            seen = prepared(volume, spec).array
        except VolumeError as error:
            if len(scans) == 1:
                raise
            log.warning("left out: %s", error)
            failed[str(cast(Any, scan)[0])] = str(error)
            continue
        window = window_of(spec)
        clip = torch.from_numpy(cut(seen, middle(seen.shape[1:], window), window))
        names.append(str(volume.path))
        rows.append(_run(network, spec, [clip], 1))
    if not rows:
        raise VolumeError(f"{source}: none of its {len(scans)} scans can be read, first {next(iter(failed.values()))}")
    scores = torch.cat(rows)
    return Prediction(tuple(names), torch.zeros(len(rows), 2), scores, _classes(spec, scores), failed)


def _volume(source: int | np.ndarray | Tensor, spec: ClipSpec) -> Volume:
    """An array of a scan as one whose voxels have the size that the network sees, and lie as it sees them.

    Raises:
        VolumeError: it is none, or holds values that are not finite.
    """
    if isinstance(source, int):
        raise VolumeError(f"source {source} is a camera, and the network was trained on scans: give a scan or a folder")
    array = source.cpu().numpy() if isinstance(source, Tensor) else source
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise VolumeError(f"array {array.shape}; a scan is (C, D, H, W) or (D, H, W)")
    if not array.size or not np.isfinite(array).all():
        raise VolumeError(f"array {array.shape}: empty, or with values that are not finite; put numbers in their place")
    depth, height, width = array.shape[1:]
    volume = Volume(array, Grid((depth, height, width), spec.spacing_mm or (1.0, 1.0, 1.0)), Path("array"))
    if spec.orientation is None:
        return volume
    direction = oriented(volume, spec.orientation).grid.direction
    return replace(volume, grid=replace(volume.grid, direction=direction))


def videos_of(source: Path) -> list[Path]:
    """The videos of a path: itself, or the files and folders of frames below it."""
    if not source.is_dir() or is_frames(source):
        return [source]
    videos: list[Path] = []
    for name, folders, files in os.walk(source):
        frames = [Path(name, folder) for folder in folders if is_frames(Path(name, folder))]
        folders[:] = sorted(folder for folder in folders if Path(name, folder) not in frames)
        videos += frames
        videos += [Path(name, file) for file in videos_among(Path(name), files)]
    if not videos:
        raise ValueError(f"{source}: no videos ({' '.join(sorted(SUFFIXES))}) and no folders of frames")
    return sorted(videos)


def _windows(
    name: str, spec: ClipSpec, total: int, step: float, stride: int | None, short: Short
) -> tuple[list[list[int]], list[int]]:
    """Frame indices of each window, and the last frame of each, before short videos were filled up."""
    span = sampling.span(spec.num_frames, step)
    starts = sampling.window_starts(total, span, max(1, span // 2 if stride is None else stride))
    try:
        windows = [sampling.fit(sampling.clip(start, spec.num_frames, step), total, short) for start in starts]
    except ValueError as error:
        raise VideoError(f"{name}: {error}") from None
    return windows, [min(start + span, total) - 1 for start in starts]


def _predict_video(
    network: nn.Module,
    spec: ClipSpec,
    source: Path | np.ndarray | Tensor,
    stride_s: float | None,
    fps: float | None,
    batch_size: int,
    short: Short,
) -> Prediction:
    counts_frames = fps is None and not isinstance(source, Path)
    with flow.open_video(source, 1.0 if counts_frames else fps, spec.in_channels, is_shown=True) as video:
        name = str(video.path)
        check_clip(video, spec)
        step = spec.frame_stride if counts_frames else sampling.step(spec, video.fps)
        if heads.labels_frames(network):
            times, scores = _labelled(network, spec, video, step, batch_size, short)
            return Prediction((name,) * len(times), times, scores, _classes(spec, scores))
        stride = None if stride_s is None else round(stride_s * video.fps)
        windows, lasts = _windows(name, spec, video.num_frames, step, stride, short)
        clips = video.clips(windows, resize=spec.resize, crop=spec.crop)
        scores = _run(network, spec, terminal.progress(clips, video.path.name, len(windows)), batch_size)
        ends = torch.cat([video.times[1:], video.times.new_tensor([video.duration_s])])
        times = torch.stack([video.times[[window[0] for window in windows]], ends[lasts]], 1)
    return Prediction((name,) * len(windows), times, scores, _classes(spec, scores))


@torch.no_grad()
def _labelled(
    network: nn.Module, spec: ClipSpec, video: Video, step: float, batch_size: int, short: Short
) -> tuple[Tensor, Tensor]:
    """From and to (N, 2) of each frame that the network sees, and its scores (N, K), as `evaluate` measures them."""
    try:
        parts = sampling.consecutive(video.num_frames, spec.num_frames, step, short)
    except ValueError as error:
        raise VideoError(f"{video.path}: {error}") from None
    clips = video.clips([indices for indices, _ in parts], resize=spec.resize, crop=spec.crop)
    each = zip(terminal.progress(clips, video.path.name, len(parts)), parts, strict=True)
    found = []
    while batch := list(islice(each, batch_size)):
        x = transforms.prepare(torch.stack([clip for clip, _ in batch]), spec, network)
        logits = F.interpolate(network(x), spec.num_frames, mode="linear").cpu()
        found += [_scores(one[:, fresh].T, spec) for one, (_, (_, fresh)) in zip(logits, batch, strict=True)]
    scores = torch.cat(found)
    starts = video.times[sampling.clip(0, len(scores), step)]
    ends = torch.cat([starts[1:], starts.new_tensor([video.duration_s])])
    return torch.stack([starts, ends], 1), scores


def _watch(
    network: nn.Module, spec: ClipSpec, source: int | str | Path, stride_s: float | None, stream: bool
) -> Prediction:
    """What a live source shows, a line each time that something is seen."""
    rate = None if spec.fps is None else spec.fps / spec.frame_stride
    step = spec.frame_stride if rate is None else 1
    span = sampling.span(spec.num_frames, step)
    # made ready before the source is opened
    buffer, looks = (_steps if stream else _newest)(network, spec, step, stride_s)
    seen: deque[tuple[float, float, Tensor]] = deque(maxlen=_SEEN)
    failed = {}
    with Camera(source, fps=rate, resize=spec.resize, buffer=buffer) as camera:
        start_s = None
        try:
            for first_s, end_s, scores, cost in looks(camera):
                start_s = first_s if start_s is None else start_s
                seen.append((first_s - start_s, end_s - start_s, scores))
                terminal.say(
                    f"{end_s - start_s:8.1f} s  {_classes(spec, scores)[int(scores.argmax())]} "
                    f"{100 * scores.max():.0f} %  ({cost}lag {camera.lag_s:.2f} s, {camera.dropped} frames dropped)"
                )
        except KeyboardInterrupt:
            if not seen:
                raise
        except VideoError as error:
            if not seen:
                raise
            log.warning("%s", error)
            failed[camera.name] = str(error)
    if not seen:
        raise VideoError(f"{camera.name}: ended within the {span} frames of the first clip")
    times = torch.tensor([(start, end) for start, end, _ in seen], dtype=torch.float64)
    scores = torch.cat([scores for *_, scores in seen])
    return Prediction((camera.name,) * len(seen), times, scores, _classes(spec, scores), failed)


# From and to on the camera's clock, scores (1, K), and what to say about the cost.
_Look = tuple[float, float, Tensor, str]
_Looks = Callable[[Camera], Iterator[_Look]]


def _newest(network: nn.Module, spec: ClipSpec, step: int, stride_s: float | None) -> tuple[int, _Looks]:
    """How many frames the camera is to keep, and windows of the newest frames."""
    span = sampling.span(spec.num_frames, step)
    buffer = max(2, span)  # how long a single frame lasts is known from the one before it
    new = max(1, span // 2) if stride_s is None else 1

    def looks(camera: Camera) -> Iterator[_Look]:
        after_s = -math.inf
        while (window := camera.read(buffer, new, after_s)) is not None:
            clip, times = window[0][:, -span:], window[1]
            scores = _run(network, spec, [transforms.center_crop(clip[:, ::step], spec.crop)], 1)
            last_s = times[-1].item()
            after_s = last_s + (stride_s or 0)
            yield times[-span].item(), last_s + (last_s - times[0].item()) / (buffer - 1), scores, ""

    return buffer, looks


def _steps(network: nn.Module, spec: ClipSpec, step: int, stride_s: float | None) -> tuple[int, _Looks]:
    """The same through a stream, which sees each frame once: the mean of its last steps, as many as a clip has."""
    size = getattr(network, "strides", [(1, 1, 1)])[-1][0]
    stream = _stream(network, max(1, spec.num_frames // size))
    if spec.crop is not None:  # what a stream does once it does now
        stream(transforms.prepare(torch.zeros(1, spec.in_channels, size, *spec.crop, dtype=torch.uint8), spec, network))
        stream.reset()

    def advance(pictures: list[Tensor]) -> Tensor:
        clip = transforms.center_crop(torch.stack(pictures, 1), spec.crop)
        return stream(transforms.prepare(clip[None], spec, network))

    def looks(camera: Camera) -> Iterator[_Look]:
        pictures: list[Tensor] = []
        times: deque[float] = deque(maxlen=_SEEN)
        told_s, until_s, spent_s = -math.inf, math.inf, 0.0
        seen = given = done = 0  # frames, steps, and frames since something was told

        def clip_s() -> tuple[float, float]:
            """From and to of the clip that ends with the last step given, which is late by the stream's delay."""
            end, first = min(seen, given * size), seen - len(times)
            frame_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / (spec.fps or FPS)
            after_s = times[-1] + frame_s if end == seen else times[end - first]
            return min(until_s, times[max(0, end - spec.num_frames - first)]), after_s

        for picture, time_s in islice(camera, 0, None, step):
            pictures.append(picture)
            times.append(time_s)
            seen += 1
            if len(pictures) < size:
                continue
            before_s = time.monotonic()
            answers = advance(pictures)
            spent_s, done, pictures = spent_s + time.monotonic() - before_s, done + size, []
            given += answers.shape[2]
            if answers.shape[2] and time_s >= told_s + (1.0 if stride_s is None else stride_s):
                from_s, until_s = clip_s()
                yield from_s, until_s, _scores(answers[:, :, -1], spec), _cost(spent_s, done)
                told_s, spent_s, done = time_s, 0.0, 0
                answers = answers[:, :, :0]
        if seen:  # the source has ended, and what waits in the stream is answered
            before_s = time.monotonic()
            late = [*([advance(pictures)] if pictures else []), stream.flush()]
            spent_s, done = spent_s + time.monotonic() - before_s, done + len(pictures)
            given += sum(each.shape[2] for each in late)
            answers = torch.cat([*([answers] if done > len(pictures) else []), *late], 2)
            if answers.shape[2]:
                from_s, until_s = clip_s()
                yield from_s, until_s, _scores(answers[:, :, -1], spec), _cost(spent_s, max(1, done))

    # what waits longer than it takes to see as many is stale
    return 2 * size * step, looks


def _cost(spent_s: float, frames: int) -> str:
    return f"{1000 * spent_s / frames:.1f} ms a frame, "


def _stream(network: nn.Module, window: int) -> Stream:
    """Exact, or told to be approximate."""
    try:
        return Stream(network, window=window)
    except ValueError as error:
        try:
            stream = Stream(network, window=window, approximate=True)
        except ValueError:
            raise error from None
        for line in stream.approximations:
            log.warning("approximate: %s", line)
        return stream


@torch.no_grad()
def _run(network: nn.Module, spec: ClipSpec, clips: Iterable[Tensor], batch_size: int) -> Tensor:
    waiting, parts = iter(clips), []
    while batch := list(islice(waiting, batch_size)):
        parts.append(_scores(network(transforms.prepare(torch.stack(batch), spec, network)), spec))
    return torch.cat(parts)


def _scores(logits: Tensor, spec: ClipSpec) -> Tensor:
    return heads.scores(logits, spec.classes, is_multilabel=spec.is_multilabel)


def _classes(spec: ClipSpec, scores: Tensor) -> tuple[str, ...]:
    return spec.classes or tuple(f"class {i}" for i in range(scores.shape[1]))


# What is written

WRITERS = {
    ".json": Prediction.to_json,
    ".csv": Prediction.to_csv,
    ".srt": Prediction.to_srt,
    ".mp4": Prediction.to_video,
}


def check_out(out: Path, source: Any, *, is_drawn: bool = True) -> None:
    """Raise ValueError or OSError where the prediction of `source` could not be written."""
    ending = out.suffix.lower()
    if ending in (".mp4", ".srt") and not is_drawn:
        raise ValueError(f"{out}: scans are not drawn; give a folder, or a file ending in .json or .csv")
    if ending and ending not in WRITERS:
        raise ValueError(f"{out}: ends in {out.suffix}; give a folder or a file ending in {', '.join(WRITERS)}")
    if ending and out.is_dir():
        raise IsADirectoryError(errno.EISDIR, "", str(out))
    place = Path(source) if isinstance(source, str | os.PathLike) else Path(os.devnull)
    if out.exists() and not out.is_dir() and place.exists() and out.samefile(place):
        raise ValueError(f"{out}: is the video itself; give another path as --out")
    if ending in (".mp4", ".srt") and place.is_dir() and not is_frames(place):
        raise ValueError(f"{out}: one file for a folder of videos; give a folder as --out")
    if ending == ".mp4" and is_live(source):
        raise ValueError(f"{out}: what was seen live is not kept; give a .json or a .csv as --out")
    if out.exists() and not os.access(out, os.W_OK):
        raise PermissionError(errno.EACCES, "", str(out))


def write(prediction: Prediction, out: Path, *, is_drawn: bool = True) -> list[Path]:
    """Write what the ending of `out` asks for.

    A folder gets the windows as json and csv, and each video as mp4, in folders like those of the videos.
    """
    if out.suffix:
        return [WRITERS[out.suffix.lower()](prediction, out)]
    table = prediction.to_csv(out / "windows.csv")  # first, since it has a word for nan, and json has none
    written = [prediction.to_json(out / "windows.json"), table]
    if not is_drawn:
        return written
    on_disk = [part for part in prediction.videos() if Path(part.sources[0]).exists()]  # what was live is not
    videos = [Path(part.sources[0]).absolute() for part in on_disk]  # "." has a name as well
    shared = os.path.commonpath([video.parent for video in videos]) if videos else ""
    for number, (part, video) in enumerate(zip(on_disk, videos, strict=True), start=1):
        place = out / video.parent.relative_to(shared)  # as the videos lie
        path = place / f"{video.stem}_seen.mp4"
        place.mkdir(parents=True, exist_ok=True)
        if path in written:  # a.mp4 and a.avi
            path = path.with_stem(f"{path.stem}_{number}")
        written.append(part.to_video(path))
    return written
