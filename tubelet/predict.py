"""Prediction: what happens in a video, and when, window by window in bounded memory."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from . import heads, plot, terminal
from .data import sampling, transforms
from .data.layouts import SUFFIXES
from .data.sampling import Short
from .data.video import Video, VideoError, write_video
from .models import classifier, unnamed
from .spec import ClipSpec, at_least_one
from .terminal import Table

log = logging.getLogger("tubelet")

_BLOCK = 4096  # frames drawn in one pass over the file


@dataclass(frozen=True)
class Prediction:
    """Scores of each window of a video, or of several.

    Attributes:
        sources: (N) the video of each window.
        times: (N, 2) seconds of each window, from its first frame to its last one's end.
        scores: (N, K) softmax.
        classes: K names.
    """

    sources: tuple[str, ...]
    times: Tensor
    scores: Tensor
    classes: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    def videos(self) -> list[Prediction]:
        """One prediction for each video, in order."""
        parts, start = [], 0
        for _, windows in groupby(self.sources):
            sources = tuple(windows)
            mine = slice(start, start := start + len(sources))
            parts.append(Prediction(sources, self.times[mine], self.scores[mine], self.classes))
        return parts

    def top(self, k: int = 5) -> Table:
        """The k best classes of each video, by the mean score of its windows, and when each scored highest."""
        rows: list[dict[str, object]] = []
        paths = {Path(source) for source in self.sources}
        names_tell = len({path.name for path in paths}) == len(paths)
        for part in self.videos():
            video = Path(part.sources[0])
            mean = part.scores.mean(0)
            for place in mean.topk(min(k, len(mean))).indices.tolist():
                start, end = part.times[int(part.scores[:, place].argmax())].tolist()
                rows.append(
                    {
                        "video": video.name if names_tell else str(video),
                        "class": self.classes[place],
                        "score": f"{mean[place]:.3f}",
                        "highest": f"{part.scores[:, place].max():.3f}",
                        "from s": f"{start:.2f}",
                        "to s": f"{end:.2f}",
                    }
                )
        return Table(rows)

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write a row for each window: source, start_s, end_s and a score for each class."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "start_s", "end_s", *self.classes])
            for source, times, scores in zip(self.sources, self.times.tolist(), self.scores.tolist(), strict=True):
                writer.writerow([source, *(f"{t:.3f}" for t in times), *(f"{score:.6g}" for score in scores)])
        return path

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write `{"classes": [...], "windows": [{"source", "start_s", "end_s", "top", "scores"}, ...]}`."""
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
            ValueError: the prediction is of several videos or of an array, or `path` is the video itself.
        """
        source, path = Path(self.sources[0]), Path(path)
        if len(set(self.sources)) > 1 or not source.is_file():
            raise ValueError(
                f"{path}: drawn for one video file; this prediction is of {len(set(self.sources))} sources"
            )
        if path.exists() and path.samefile(source):
            raise ValueError(f"{path}: is the video itself; give another name")
        with Video(source) as video:
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
    source: str | os.PathLike | Tensor,
    *,
    stride_s: float | None = None,
    fps: float | None = None,
    classes: str | os.PathLike | None = None,
    batch_size: int = 8,
    short: Short = "error",
) -> Prediction:
    """Scores of overlapping windows over the whole of a video, however long.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`.
        source: a video file, a folder of them, or a tensor or array (3, T, H, W) of uint8.
        stride_s: seconds between the starts of two windows; by default half a window.
        fps: rate of an array; None takes it to be at the model's own rate, and counts times and stride in frames.
        classes: file of the model's class names, as in `evaluate`; without any they are called "class 0" and so on.
        batch_size: windows in one pass of the network.
        short: videos with fewer frames than a window: error, loop or hold.

    Returns:
        Times and scores of each window.

    Raises:
        ValueError: the model, the classes or the source does not fit, or no video can be read. Of a folder, a file
            that cannot be read is left out, which the log and `Prediction.failed` tell.
    """
    at_least_one(batch_size=batch_size)
    if stride_s is not None and not stride_s > 0:
        raise ValueError(f"stride_s {stride_s} must be above 0 seconds")
    network, spec = classifier(model, classes, is_video=isinstance(source, str | os.PathLike))
    if not spec.classes:
        log.info("%s", unnamed(model, network))
    if not isinstance(source, str | os.PathLike):
        return _predict_array(network, spec, torch.as_tensor(source), stride_s, fps, batch_size, short)
    files = _files(Path(source))
    parts, failed = [], {}
    for file in files:
        try:
            parts.append(_predict_file(network, spec, file, stride_s, batch_size, short))
        except VideoError as error:
            if len(files) == 1:
                raise
            log.warning("left out: %s", error)
            failed[str(file)] = str(error)
    if not parts:
        raise VideoError(f"{source}: none of its {len(files)} videos can be read, first {next(iter(failed.values()))}")
    return Prediction(
        tuple(source for part in parts for source in part.sources),
        torch.cat([part.times for part in parts]),
        torch.cat([part.scores for part in parts]),
        parts[0].classes,
        failed,
    )


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{source}: no videos ({' '.join(sorted(SUFFIXES))})")
    return files


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


def _predict_file(
    network: nn.Module, spec: ClipSpec, path: Path, stride_s: float | None, batch_size: int, short: Short
) -> Prediction:
    with Video(path) as video:
        stride = None if stride_s is None else round(stride_s * video.fps)
        windows, lasts = _windows(str(path), spec, video.num_frames, sampling.step(spec, video.fps), stride, short)
        clips = video.clips(windows, resize=spec.resize, crop=spec.crop)
        scores = _run(network, spec, terminal.progress(clips, path.name, len(windows)), batch_size)
        ends = torch.cat([video.times[1:], video.times.new_tensor([video.duration_s])])
        times = torch.stack([video.times[[window[0] for window in windows]], ends[lasts]], 1)
    return Prediction((str(path),) * len(windows), times, scores, _classes(spec, scores))


def _predict_array(
    network: nn.Module,
    spec: ClipSpec,
    array: Tensor,
    stride_s: float | None,
    fps: float | None,
    batch_size: int,
    short: Short,
) -> Prediction:
    if array.ndim != 4 or array.shape[0] != spec.in_channels or array.dtype != torch.uint8:
        raise ValueError(
            f"the array is {tuple(array.shape)} of {array.dtype}; give ({spec.in_channels}, T, H, W) of torch.uint8"
        )
    rate = fps or 1.0
    step = sampling.step(spec, fps) if fps else spec.frame_stride
    stride = None if stride_s is None else round(stride_s * rate)
    windows, lasts = _windows("the array", spec, array.shape[1], step, stride, short)
    clips = (transforms.center_crop(transforms.resize(array[:, window], spec.resize), spec.crop) for window in windows)
    scores = _run(network, spec, clips, batch_size)
    frames = torch.tensor([[window[0], last + 1] for window, last in zip(windows, lasts, strict=True)])
    return Prediction(("array",) * len(windows), frames / rate, scores, _classes(spec, scores))


@torch.no_grad()
def _run(network: nn.Module, spec: ClipSpec, clips: Iterable[Tensor], batch_size: int) -> Tensor:
    waiting, parts = iter(clips), []
    while batch := list(islice(waiting, batch_size)):
        parts.append(heads.scores(network(transforms.prepare(torch.stack(batch), spec, network)), spec.classes))
    return torch.cat(parts)


def _classes(spec: ClipSpec, scores: Tensor) -> tuple[str, ...]:
    return spec.classes or tuple(f"class {i}" for i in range(scores.shape[1]))
