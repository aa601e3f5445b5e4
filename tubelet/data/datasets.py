"""Clips of the samples of a data set: random ones to train on, views spread over a video to measure with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..spec import ClipSpec
from . import sampling, transforms
from .augment import Augment
from .sample import Sample
from .sampling import Short
from .video import Video, VideoError


class TrainClips(Dataset):
    """A random clip of each sample: (clip uint8 (C, T, H, W), target), the same for the same (epoch, index).

    Keys are pairs (epoch, index), so that worker processes need not be told of the epoch.
    """

    def __init__(self, samples: Sequence[Sample], spec: ClipSpec, augment: Augment, short: Short, seed: int) -> None:
        self.samples, self.spec, self.augment, self.short, self.seed = samples, spec, augment, short, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        sample, spec = self.samples[index], self.spec
        generator = torch.Generator().manual_seed(hash((self.seed, epoch, index)) & (2**63 - 1))

        def starts(total: int, span: int) -> list[int]:
            return [sampling.random_start(total, span, generator)]

        (clip,) = _read_clips(sample, spec, self.short, starts)
        with _naming(sample):
            clip = transforms.random_crop(clip, spec.crop, generator, self.augment.max_shift)
        if self.augment.flip and torch.rand((), generator=generator) < 0.5:
            clip = transforms.flip(clip)
        if self.augment.color:
            clip = transforms.color_jitter(clip, self.augment.color, generator)
        return clip, sample.target


class ViewClips(Dataset):
    """All views of each sample: (clips uint8 (views * crops, C, T, H, W), target, index).

    Views are spread over the video, crops over the side with more room; view by view, crop by crop.
    """

    def __init__(self, samples: Sequence[Sample], spec: ClipSpec, views: int, crops: int, short: Short) -> None:
        self.samples, self.spec, self.views, self.crops, self.short = samples, spec, views, crops, short

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        sample = self.samples[index]

        def starts(total: int, span: int) -> list[int]:
            return sampling.view_starts(total, span, self.views)

        clips = _read_clips(sample, self.spec, self.short, starts)
        with _naming(sample):
            # cropped one by one: all views at full size may be gigabytes
            views = [torch.stack(transforms.spread_crops(clip, self.spec.crop, self.crops)) for clip in clips]
        return torch.cat(views), sample.target, index


def _read_clips(
    sample: Sample, spec: ClipSpec, short: Short, starts: Callable[[int, int], list[int]]
) -> Iterator[Tensor]:
    """Clips (3, T, H, W) that begin at `starts(total, span)`, resized."""
    with Video(sample.path) as video:
        end = video.num_frames if sample.end is None else sample.end
        if end > video.num_frames:
            raise VideoError(f"{sample.name}: the video has {video.num_frames} frames only")
        step = sampling.step(spec, video.fps)
        total = end - sample.start
        with _naming(sample):
            lists = [
                sampling.fit(sampling.clip(start, spec.num_frames, step), total, short)
                for start in starts(total, sampling.span(spec.num_frames, step))
            ]
        shifted = [[sample.start + index for index in indices] for indices in lists]
        yield from video.clips(shifted, resize=spec.resize)


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Whatever does not fit this sample, as an error that begins with its name."""
    try:
        yield
    except VideoError:
        raise  # it has the name already
    except ValueError as error:
        raise VideoError(f"{sample.name}: {error}") from None
