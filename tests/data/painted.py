"""Videos whose frames carry their index, painted in their pixels, for the tests of reading."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 96
BITS = np.arange(8)
CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"


def painted(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 3): the index as 2x4 black or white blocks, most significant first."""
    bits = (index >> BITS[::-1]) & 1
    blocks = np.repeat(np.repeat(bits.reshape(2, 4), 24, axis=0), 24, axis=1) * 255
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, :] = np.pad(blocks, ((0, max(height - 48, 0)), (0, max(width - 96, 0))))[:height, :width, None]
    return picture


def read_index(picture: torch.Tensor) -> int:
    """The index painted in an upright (3, 48, 96) picture."""
    blocks = picture.float().mean(0)[:HEIGHT, :WIDTH].unfold(0, 24, 24).unfold(1, 24, 24)
    bits = (blocks[..., 8:16, 8:16].mean((-1, -2)) > 128).flatten().tolist()
    return int("".join("01"[bit] for bit in bits), 2)


def read_indices(clip: torch.Tensor) -> list[int]:
    return [read_index(picture) for picture in clip.unbind(1)]


def encode(
    path: Path,
    num_frames: int,
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    stamps_ms: list[int] | None = None,
    prepare: Callable[[object], None] = lambda stream: None,
    height: int = HEIGHT,
    width: int = WIDTH,
    draw: Callable[[int], np.ndarray] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        if stamps_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for index in range(num_frames):
            picture = painted(index, height, width) if draw is None else draw(index)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stamps_ms is not None:
                frame.pts, frame.time_base = stamps_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if codec == "libsvtav1":
        _leave_real_time()
    return path


def _leave_real_time() -> None:
    """SVT-AV1 puts threads of root before all others of the machine and leaves them so: other tests would starve."""
    threads = Path("/proc/self/task")
    for thread in threads.iterdir() if threads.is_dir() else ():
        with suppress(ProcessLookupError):  # it has ended by now
            os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def plain_decode(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def packets_of(path: Path) -> list:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def x264(gop: int, **options: str) -> dict[str, str]:
    return {"g": str(gop), "bf": "2", "sc_threshold": "0", "preset": "veryfast", **options}


def av1(gop: int) -> dict[str, str]:
    return {"g": str(gop), "preset": "8", "svtav1-params": "lp=1:scd=0"}


def interlaced(stream: object) -> None:
    """Fields are coded apart, as in a broadcast."""
    stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
