"""Clips from files to normalised tensors: our reader against PyTorchVideo's way, decord and torchcodec.

Each reader gives the same frames of the same file, clip by clip as a network takes them: (crops, 3, T, 112, 112)
float32, short side 128, cropped, normalised.
"""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import augment
from benchmarks.timing import in_turn
from tubelet import ClipSpec, Table
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips
from tubelet.data.loader import loader
from tubelet.data.order import EpochOrder
from tubelet.data.sample import Sample, VideoData
from tubelet.data.transforms import normalize, resize, resize_shape, spread_area, spread_crops
from tubelet.data.video import Video, write_video
from tubelet.terminal import progress

CLIPS = Path(__file__).parents[2] / "shared" / "data" / "clips"
SHORT, CROP = 128, (112, 112)
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
NUM_FRAMES = 16
ROUNDS = 5


@dataclass(frozen=True)
class Ask:
    """Clips wanted of one file, each a list of frame indices, and crops of each."""

    path: Path
    size: tuple[int, int]  # of a frame after the resize
    clips: Sequence[Sequence[int]]
    crops: int = 1


Reader = Callable[[Ask], Iterator[Tensor]]


def _views(clip: Tensor, crops: int) -> Tensor:
    """uint8 (3, T, H, W) -> (crops, 3, T, 112, 112) normalised."""
    return normalize(torch.stack(spread_crops(clip, CROP, crops)), MEAN, STD)


def ours(ask: Ask) -> Iterator[Tensor]:
    with Video(ask.path) as video:
        for clip in video.clips(ask.clips, resize=ask.size, crop=spread_area(*ask.size, CROP, ask.crops)):
            yield _views(clip, ask.crops)


def pytorchvideo_way(ask: Ask) -> Iterator[Tensor]:
    """Its `get_clip`: decode from the keyframe on, all frames of the clip's time to RGB and float. Then, in the order
    of its own recipes: choose frames, normalise, scale, crop."""
    shape = (-1, 1, 1, 1)
    mean, std = torch.tensor(MEAN).view(shape), torch.tensor(STD).view(shape)
    with av.open(str(ask.path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for clip in ask.clips:
            start, end = (round(index / stream.average_rate / stream.time_base) for index in (clip[0], clip[-1] + 1))
            container.seek(max(start - 1024, 0), stream=stream)
            in_time = {}
            for frame in container.decode(stream):
                if frame.pts >= end:
                    break
                if frame.pts >= start:
                    in_time[frame.pts] = frame
            pictures = [torch.from_numpy(in_time[pts].to_rgb().to_ndarray()) for pts in sorted(in_time)]
            frames = torch.stack(pictures).permute(3, 0, 1, 2).float()
            frames = frames.index_select(1, torch.linspace(0, len(pictures) - 1, len(clip)).long())
            frames = (frames / 255 - mean).div_(std)
            small = F.interpolate(frames, ask.size, mode="bilinear", align_corners=False)
            yield torch.stack(spread_crops(small, CROP, ask.crops))


def decord(ask: Ask) -> Iterator[Tensor]:
    """Resized while it converts, which is its fastest way; each frame once."""
    from decord import VideoReader, cpu

    height, width = ask.size
    reader = VideoReader(str(ask.path), ctx=cpu(0), width=width, height=height, num_threads=1)
    wanted, places = _once(ask.clips)
    frames = torch.from_dlpack(reader.get_batch(wanted).to_dlpack()).permute(3, 0, 1, 2)
    for each in places:
        yield _views(_chosen(frames, each), ask.crops)


def torchcodec(ask: Ask) -> Iterator[Tensor]:
    """Exact, resized and, with one crop, cropped by the decoder, which is its fastest way; each frame once."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    changes = [Resize(ask.size), CenterCrop(CROP)] if ask.crops == 1 else [Resize(ask.size)]
    decoder = VideoDecoder(ask.path, seek_mode="exact", num_ffmpeg_threads=1, transforms=changes)
    wanted, places = _once(ask.clips)
    frames = decoder.get_frames_at(wanted).data.transpose(0, 1)
    for each in places:
        yield _views(_chosen(frames, each), ask.crops)


def _once(clips: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Every frame of the clips once, ascending, and the places of each clip's frames among them."""
    wanted = sorted({index for clip in clips for index in clip})
    place = {index: number for number, index in enumerate(wanted)}
    return wanted, [[place[index] for index in clip] for clip in clips]


def _chosen(frames: Tensor, places: Sequence[int]) -> Tensor:
    return frames if len(places) == frames.shape[1] else frames[:, places]


PEERS: dict[str, Reader] = {"PyTorchVideo's way": pytorchvideo_way, "decord": decord, "torchcodec": torchcodec}
PACKAGES = {"decord": ("decord", "decord==0.6.0"), "torchcodec": ("torchcodec.decoders", "torchcodec==0.13.0")}


@dataclass(frozen=True)
class Case:
    """What is asked for, and how many times our time each peer's is meant to be at least."""

    title: str
    asks: list[Ask]
    goals: Mapping[str, float]


def _goals(*least: float) -> dict[str, float]:
    return dict(zip(PEERS, least, strict=True))


def _frames(name: str, size: tuple[int, int], num_drawn: int) -> Tensor:
    """Real frames (3, T, *size), or drawn ones where the file is absent."""
    if (CLIPS / name).is_file():
        with Video(CLIPS / name) as video:
            return video.frames(range(video.num_frames), resize=size)
    coarse = torch.rand(1, 3, num_drawn // 6, 15, 21, generator=torch.Generator().manual_seed(0))
    small = (F.interpolate(coarse, (num_drawn, 180, 240), mode="trilinear")[0] * 255).to(torch.uint8)
    return resize(small, size)


def _written(path: Path, frames: Tensor, gop: int) -> Path:
    # constant quality 23 is the encoder's own default
    write_video(path, frames.unbind(1), 30.0, crf=23, gop=gop)
    return path


def _random_clips(path: Path, num_clips: int) -> list[Ask]:
    """One clip a file opened, every second, third or fourth frame."""
    generator = torch.Generator().manual_seed(0)
    size, total = _shape(path)
    asks = []
    for number in range(num_clips):
        stride = 2 + number % 3
        start = int(torch.randint(total - stride * (NUM_FRAMES - 1), (), generator=generator))
        asks.append(Ask(path, size, [[start + stride * i for i in range(NUM_FRAMES)]]))
    return asks


def _spread(path: Path) -> list[Ask]:
    size, total = _shape(path)
    return [Ask(path, size, [torch.linspace(0, total - 1, NUM_FRAMES).long().tolist()])]


def _ten_views(path: Path) -> list[Ask]:
    size, total = _shape(path)
    span = 4 * (NUM_FRAMES - 1) + 1
    clips = [[(total - span) * i // 9 + 4 * j for j in range(NUM_FRAMES)] for i in range(10)]
    return [Ask(path, size, clips, crops=3)]


def _whole(path: Path) -> list[Ask]:
    size, total = _shape(path)
    return [Ask(path, size, [range(total)])]


def _shape(path: Path) -> tuple[tuple[int, int], int]:
    with Video(path) as video:
        height, width = resize_shape(video.height, video.width, SHORT)
        # even, since of an odd number of columns the centre is another one for every library
        return (height, width // 2 * 2), video.num_frames


def _cases(folder: Path) -> list[Case]:
    small = _frames("h264_long_gop.mp4", (256, 340), 300)
    short = _written(folder / "gop12.mp4", small, 12)
    long = CLIPS / "h264_long_gop.mp4"
    if not long.is_file():
        long = _written(folder / "gop250.mp4", small, 250)
    large = _frames("walking_people.mp4", (720, 1280), 72)
    # there and back again makes a scene of a usual length
    large = _written(folder / "large.mp4", torch.cat([large, large.flip(1), large], 1), 12)
    return [
        Case("16 frames, 340x256, GOP 12", _random_clips(short, 6), _goals(4, 1.4, 1.4)),
        Case("16 frames, 340x256, GOP 250", _random_clips(long, 6), _goals(2.3, 1.5, 1.4)),
        Case("16 frames, 1280x720, GOP 12", _random_clips(large, 6), _goals(8, 1.0, 1.3)),
        Case("16 over the whole, GOP 250", _spread(long), _goals(7, 1.5, 1.4)),
        Case("10 clips x 3 crops, GOP 250", _ten_views(long), _goals(4, 1.5, 1.2)),
        Case("every frame, GOP 250", _whole(long), _goals(3, 0.95, 1.1)),
    ]


def _check(ask: Ask, peers: Mapping[str, Reader]) -> None:
    """All readers give the same frames: each is nearer to ours than to the frames next to ours."""
    expected = torch.cat(list(ours(ask)))
    last = _shape(ask.path)[1] - 1
    beside = []
    for by in (-1, 1):
        clips = [[min(max(index + by, 0), last) for index in clip] for clip in ask.clips]
        beside.append(torch.cat(list(ours(replace(ask, clips=clips)))))
    for name, read in peers.items():
        theirs = torch.cat(list(read(ask)))
        assert theirs.shape == expected.shape, f"{name}: {tuple(theirs.shape)}, not {tuple(expected.shape)}"
        away, *others = ((theirs - each).abs().mean().item() for each in (expected, *beside))
        assert away < min(0.2, *others), f"{name} gives other frames: {away:.3f} away, {others} from those beside"


def _consume(read: Reader, ask: Ask) -> None:
    for _ in read(ask):
        pass


def _row(case: Case, peers: Mapping[str, Reader]) -> dict[str, object]:
    _check(case.asks[-1], peers)
    readers = {**peers, "tubelet": ours}
    times = in_turn({name: partial(_consume, read) for name, read in readers.items()}, case.asks, ROUNDS)
    mine = times["tubelet"]
    row: dict[str, object] = {
        "case": case.title,
        "tubelet ms": f"{statistics.median(mine):.1f}\n{min(mine):.1f} to {max(mine):.1f}",
    }
    for name in peers:
        ratio = statistics.median(times[name]) / statistics.median(mine)
        each = [theirs / our for theirs, our in zip(times[name], mine, strict=True)]
        row[name] = f"{ratio:.2f} (goal {case.goals[name]})\n{min(each):.2f} to {max(each):.2f}"
    return row


def _workers(path: Path) -> Table:
    """Training clips a second of wall clock from one and from two worker processes; it needs two free cores."""
    samples = [Sample(path, 0)] * 96
    clips = TrainClips(
        VideoData(("all",), {"train": samples}), "train", ClipSpec(frame_stride=2), Augment(), "error", 0
    )
    batches = {number: loader(clips, 8, order=EpochOrder(len(clips), 0), workers=number) for number in (1, 2)}
    rates: dict[int, list[float]] = {number: [] for number in batches}
    for epoch in range(ROUNDS + 1):
        for number, each in batches.items():
            start = time.perf_counter()
            for _ in each:
                pass
            if epoch:  # the first one starts the workers
                rates[number].append(len(clips) / (time.perf_counter() - start))
    one = statistics.median(rates[1])
    rows = [
        {
            "workers": number,
            "clips/s": round(statistics.median(each), 1),
            "least": round(min(each), 1),
            "most": round(max(each), 1),
            "times one": round(statistics.median(each) / one, 2),
        }
        for number, each in rates.items()
    ]
    return Table(rows, title="uint8 clips a second (wall clock; means something only where two cores are free)")


def tables() -> Iterator[Table]:
    # first, since memory comes faster to a process that has read a video
    yield from augment.tables()
    peers = dict(PEERS)
    for name, (module, package) in PACKAGES.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec without FFmpeg's libraries: RuntimeError
            print(f"{name} is left out, {str(error).splitlines()[0]}: pip install {package}")
            del peers[name]
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(Path(folder))
        rows = [_row(case, peers) for case in progress(cases, "reading video")]
        yield Table(rows, title="Milliseconds of one processor, and how many times that each peer takes")
        yield _workers(cases[0].asks[0].path)
