"""Prediction: what happens in a video, and when, window by window in bounded memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from . import plot, terminal
from .data import sampling, transforms
from .data.datasets import SUFFIXES
from .data.sampling import Short
from .data.video import Video, VideoError, write_video
from .models import ready
from .spec import ClipSpec
from .terminal import Table


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

    def videos(self) -> list[Prediction]:
        """One prediction for each video, in order."""
        parts = []
        for source in dict.fromkeys(self.sources):
            mine = torch.tensor([other == source for other in self.sources])
            parts.append(Prediction((source,) * int(mine.sum()), self.times[mine], self.scores[mine], self.classes))
        return parts

    def top(self, k: int = 5) -> Table:
        """The k best classes of each video, by the mean score of its windows, and when each scored highest."""
        rows: list[dict[str, object]] = []
        for part in self.videos():
            mean = part.scores.mean(0)
            for place in mean.topk(min(k, len(mean))).indices.tolist():
                start, end = part.times[int(part.scores[:, place].argmax())].tolist()
                rows.append(
                    {
                        "video": Path(part.sources[0]).name,
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

        A video of less than 240 pixels is drawn larger, so that it can be read.
        """
        (part,) = self.videos()
        middles = part.times.mean(1)
        with Video(part.sources[0]) as video:
            short_side = max(240, min(video.height, video.width))
            height, width = transforms.resize_shape(video.height, video.width, short_side)
            even = (height - height % 2, width - width % 2)
            clips = video.clips([[i] for i in range(video.num_frames)], resize=short_side, crop=even)
            times = video.times.tolist()

            def drawn() -> Iterator[Tensor]:
                for clip, time_s in terminal.progress(zip(clips, times, strict=True), "drawing", len(times)):
                    scores = part.scores[int((middles - time_s).abs().argmin())]
                    best = scores.topk(min(2, len(scores)))
                    lines = [
                        f"{self.classes[i]} {100 * score:.0f} %"
                        for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                    ]
                    yield plot.annotate(clip[:, 0], [*lines, f"{time_s:.1f} s"])

            write_video(path, drawn(), video.fps)
        return Path(path)


def predict(
    model: str | os.PathLike | nn.Module,
    source: str | os.PathLike | Tensor,
    *,
    stride_s: float | None = None,
    fps: float | None = None,
    batch_size: int = 8,
    short: Short = "error",
) -> Prediction:
    """Scores of overlapping windows over the whole of a video, however long.

    Args:
        model: a file of weights, the folder of a run, or a network with a `spec`.
        source: a video file, a folder of them, or a tensor or array (3, T, H, W) of uint8.
        stride_s: seconds between the starts of two windows; by default half a window.
        fps: rate of an array; None counts its times in frames.
        batch_size: windows in one pass of the network.
        short: videos with fewer frames than a window: error, loop or hold.

    Returns:
        Times and scores of each window.

    Raises:
        ValueError: the model or the source does not fit; of a folder's files, the first that cannot be read.
    """
    if batch_size < 1 or (stride_s is not None and stride_s <= 0):
        raise ValueError(f"batch_size {batch_size} must be at least 1 and stride_s {stride_s} above 0")
    network, spec = ready(model)
    if not isinstance(source, str | os.PathLike):
        return _predict_array(network, spec, torch.as_tensor(source), stride_s, fps, batch_size, short)
    files = _files(Path(source))
    parts = [_predict_file(network, spec, file, stride_s, batch_size, short) for file in files]
    return Prediction(
        tuple(source for part in parts for source in part.sources),
        torch.cat([part.times for part in parts]),
        torch.cat([part.scores for part in parts]),
        parts[0].classes,
    )


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{source}: no videos ({' '.join(sorted(SUFFIXES))})")
    return files


def _windows(
    name: str, spec: ClipSpec, total: int, fps: float, stride_s: float | None, short: Short
) -> tuple[list[list[int]], list[int]]:
    """Frame indices of each window, and the last frame of each, before short videos were filled up."""
    step = sampling.step(spec, fps)
    span = sampling.span(spec.num_frames, step)
    stride = max(1, span // 2 if stride_s is None else round(stride_s * fps))
    starts = sampling.window_starts(total, span, stride)
    try:
        windows = [sampling.fit(sampling.clip(start, spec.num_frames, step), total, short) for start in starts]
    except ValueError as error:
        raise VideoError(f"{name}: {error}") from None
    return windows, [min(start + span, total) - 1 for start in starts]


def _predict_file(
    network: nn.Module, spec: ClipSpec, path: Path, stride_s: float | None, batch_size: int, short: Short
) -> Prediction:
    with Video(path) as video:
        windows, lasts = _windows(str(path), spec, video.num_frames, video.fps, stride_s, short)
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
    rate = fps or spec.fps or 1.0
    windows, lasts = _windows("the array", spec, array.shape[1], rate, stride_s, short)
    clips = (transforms.center_crop(transforms.resize(array[:, window], spec.resize), spec.crop) for window in windows)
    scores = _run(network, spec, clips, batch_size)
    frames = torch.tensor([[window[0], last + 1] for window, last in zip(windows, lasts, strict=True)])
    return Prediction(("array",) * len(windows), frames / (fps or 1.0), scores, _classes(spec, scores))


@torch.no_grad()
def _run(network: nn.Module, spec: ClipSpec, clips: Iterable[Tensor], batch_size: int) -> Tensor:
    device = next(network.parameters()).device
    waiting, parts = iter(clips), []
    while batch := list(islice(waiting, batch_size)):
        clips_in = transforms.normalize(torch.stack(batch).to(device), spec.mean, spec.std)
        parts.append(network(clips_in).softmax(1).cpu())
    return torch.cat(parts)


def _classes(spec: ClipSpec, scores: Tensor) -> tuple[str, ...]:
    return spec.classes or tuple(f"class {i}" for i in range(scores.shape[1]))
