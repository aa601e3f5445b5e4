"""Random clips from a file: our reader against PyAV from the last keyframe and PyAV from the start."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import alternate
from tubelet import Table
from tubelet.data.video import Video, write_video

CLIP = [range(start, start + 32, 2) for start in (20, 90, 150, 210)]


def _plain(path: Path, indices: Sequence[int], seeks: bool) -> Tensor:
    """What a careful user of PyAV writes: decode on, keep the wanted frames, resize them as float."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if seeks:
            container.seek(int(indices[0] / stream.average_rate / stream.time_base), stream=stream)
        wanted, kept = set(indices), []
        for frame in container.decode(stream):
            index = round(frame.time * stream.average_rate)
            if index in wanted:
                kept.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if index >= indices[-1]:
                break
    clip = torch.stack(kept).permute(0, 3, 1, 2).float()
    return F.interpolate(clip, (128, 182), mode="bilinear", antialias=True)


def _ours(path: Path, indices: Sequence[int]) -> Tensor:
    with Video(path) as video:
        return video.frames(indices, resize=(128, 182))


def tables() -> list[Table]:
    made = []
    with tempfile.TemporaryDirectory() as folder:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, 40, 15, 21, generator=generator)
        frames = (F.interpolate(coarse, (250, 240, 340), mode="trilinear")[0] * 255).to(torch.uint8).unbind(1)
        for gop in (12, 250):
            path = Path(folder) / f"gop{gop}.mp4"
            write_video(path, frames, 25.0, gop=gop)
            cases = {
                "PyAV from the start": lambda path=path: [_plain(path, clip, False) for clip in CLIP],
                "PyAV from the keyframe": lambda path=path: [_plain(path, clip, True) for clip in CLIP],
                "tubelet": lambda path=path: [_ours(path, clip) for clip in CLIP],
            }
            made.append(alternate(cases, f"4 clips of 16 frames, 340x240 H.264, GOP {gop}"))
    return made
