"""What FFmpeg does through PyAV besides reading files: upright pictures, single ones, live sources, writing videos.

The one file that imports PyAV.
"""

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..machine import needs

if TYPE_CHECKING:
    import av as av

__all__ = [
    "Live",
    "VideoError",
    "cameras",
    "decode_pictures",
    "decode_webp",
    "encode",
    "live",
    "pyav",
    "upright",
    "video_stream",
    "without_password",
]

# FFmpeg's flag of formats whose frames carry no time.
_NO_TIMESTAMPS = 0x80


class VideoError(ValueError):
    """A video file that cannot be read or written: its path, the reason, and the fix where there is one."""


def pyav() -> ModuleType:
    """PyAV, or an ImportError with the line that installs it."""
    with needs("video"):
        import av
    return av


def video_stream(path: Path | str, container: Any) -> Any:
    """The one that FFmpeg takes: the default one rather than others, a film rather than its thumbnail."""
    cover = pyav().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise VideoError(f"{path}: no video stream (audio or subtitles only)")
    readable = [stream for stream in streams if stream.codec_context is not None]
    if not readable:
        raise VideoError(f"{path}: this FFmpeg has no decoder for the codec; re-encode the file")
    best = container.streams.best("video") if len(readable) > 1 else readable[0]
    return best if best in readable else readable[0]


@cache
def _side_data() -> Any:
    """PyAV's reader of what a frame carries beside its picture, which of a kind without a name (EXIF) made an error."""
    from av.sidedata import sidedata

    sidedata.Type._missing_ = classmethod(lambda kinds, value: kinds.PANSCAN)  # type: ignore[assignment]
    return sidedata.SideDataContainer


def upright(frame: "av.VideoFrame", to_pixels: Any, form: str = "rgb24") -> np.ndarray:
    """(H, W, C), turned and mirrored as the display matrix of the file says, to the nearest quarter turn."""
    # More threads would be woken for each picture, which costs more than they give.
    picture = to_pixels.reformat(frame, format=form, threads=1).to_ndarray()
    picture = picture.reshape(*picture.shape[:2], -1)
    # By `frame.side_data` the frame would refer to itself, and stay until a collection of garbage.
    data = _side_data()(frame)
    if not data or (matrix := data.get("DISPLAYMATRIX")) is None:
        return picture
    # Rows of (a b u, c d v, x y w): x' = a x + c y and y' = b x + d y.
    a, b, _, c, d = memoryview(bytes(matrix)).cast("i")[:5]
    right, down = a, d
    if abs(b) > abs(a):
        picture = picture.transpose(1, 0, 2)
        right, down = c, b
    if right < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


# Ticks a second of times that are told: a frame of 24, 25, 30 or 30000/1001 a second lasts a whole number of them.
_TICKS = 360_000


def encode(
    path: Path, pictures: Iterator[np.ndarray], rate: Fraction, options: dict[str, str], times: Sequence[float] | None
) -> None:
    """Write pictures (H, W, 3) of uint8 RGB as H.264 in yuv420p, at these seconds or evenly.

    Raises:
        OSError: the file cannot be written; the message is the reason alone.
    """
    av = pyav()
    first = next(pictures)
    try:
        # The index goes first, so that a browser plays the file before it is all there.
        with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, _TICKS)
            for number, picture in enumerate(chain([first], pictures)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = round(times[number] * _TICKS), Fraction(1, _TICKS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise OSError(error.strerror) from None


# How the bytes of a picture begin, whatever its name ends in, and the decoder for it.
_PICTURES = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG": "png", b"BM": "bmp", b"RIFF": "webp"}


def decode_pictures(paths: Iterable[Path], *, is_gray: bool = False) -> Generator[np.ndarray]:
    """Still pictures (jpg, png, bmp, webp) as (H, W, 3) uint8 RGB, or (H, W, 1), turned as their EXIF says.

    Colours are converted as those of a video file are. Transparency is left out, as Pillow's `convert("RGB")` does.

    Raises:
        VideoError: a file is not there, not a picture, or damaged; the message names it.
    """
    av = pyav()
    to_pixels = av.video.reformatter.VideoReformatter()
    decoders: dict[str, Any] = {}
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VideoError(f"{path}: {error.strerror}") from None
        codec = next((name for start, name in _PICTURES.items() if data.startswith(start)), None)
        if codec is None:
            reason = "not a jpg, png, bmp or webp picture" if data else "the file is empty (0 bytes)"
            raise VideoError(f"{path}: {reason}")
        # Cut within its last rows, a jpg decodes without complaint and ends in gray: only its end mark tells.
        if codec == "mjpeg" and data.find(b"\xff\xd9", data.find(b"\xff\xda")) < 0:
            raise VideoError(f"{path}: the picture is cut short")
        if codec not in decoders:
            decoders[codec] = av.CodecContext.create(codec, "r")
            decoders[codec].thread_type = "NONE"
            decoders[codec].options = {"err_detect": "explode+crccheck"}
        packet = av.Packet(data)
        packet.is_keyframe = True  # else a png is added to the picture before it
        try:
            frames = decoders[codec].decode(packet)
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: the picture is damaged or cut short ({error.strerror})") from None
        if not frames or frames[0].is_corrupt:
            raise VideoError(f"{path}: the picture is damaged or cut short")
        yield upright(frames[0], to_pixels, "gray" if is_gray else "rgb24")


def decode_webp(data: bytes) -> np.ndarray:
    """A still WebP picture as (H, W, 4) uint8 RGBA.

    Raises:
        VideoError: it is damaged; the message is the reason alone.
    """
    av = pyav()
    decoder = av.CodecContext.create("webp", "r")
    decoder.thread_type = "NONE"
    decoder.options = {"err_detect": "explode"}
    try:
        frames = decoder.decode(av.Packet(data))
    except av.error.FFmpegError as error:
        raise VideoError(error.strerror) from None
    if not frames or frames[0].is_corrupt:
        raise VideoError("the picture is damaged")
    return frames[0].reformat(format="rgba", threads=1).to_ndarray()


# For each frame the seconds that its source stamped on it, and what makes it a picture.
Live = Generator[tuple[float, Callable[[], np.ndarray]]]


def without_password(address: str) -> str:
    """An address as errors may show it."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1@", address)


def live(name: str, address: str, form: str | None, options: dict[str, str], timeout_s: float) -> Live:
    """Frames of a camera or a stream as they come, until it ends.

    Args:
        name: what errors call it.
        address: what FFmpeg opens.
        form: FFmpeg's name of the kind of device, or None to find out the format.
        options: FFmpeg's options for it.
        timeout_s: seconds without data, to open it and ever after, that are an error.

    Yields:
        The seconds that the source stamped on the frame, on a clock of its own, and what makes it a picture
        (H, W, 3), uint8 RGB and upright.

    Raises:
        VideoError: it cannot be opened, has no video, breaks off or falls silent.
    """
    av = pyav()
    to_rgb = av.video.reformatter.VideoReformatter()
    has_begun = False
    began = time.monotonic()
    try:
        with av.open(address, format=form, options=options, timeout=timeout_s) as container:
            if container.duration and address.startswith("http"):
                raise VideoError(f"{name}: a file, not a live stream; download it, and every frame is read exactly")
            stream = video_stream(name, container)
            # Decoding in several threads holds frames back.
            stream.thread_type = "NONE"
            is_stamped = not container.format.flags & _NO_TIMESTAMPS
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # lost on the way, or begun in the middle of a group of pictures
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        continue
                    has_begun = True
                    stamp_s = frame.time if is_stamped else None
                    yield time.monotonic() if stamp_s is None else stamp_s, partial(upright, frame, to_rgb)
    except av.error.FFmpegError as error:
        # Told to wait no longer, rtsp answers that the data are not valid.
        has_waited = not has_begun and time.monotonic() - began >= timeout_s
        if has_waited or isinstance(error, av.error.ExitError):
            raise VideoError(f"{name}: no data for {timeout_s:g} s") from None
        what = "the stream broke off" if has_begun else "cannot be opened"
        raise VideoError(f"{name}: {what} ({error.strerror})") from None


def cameras(form: str) -> list[str]:
    """Names of the cameras of this machine, of one of FFmpeg's kinds of device."""
    pyav()
    from av.device import enumerate_input_devices

    return [device.name for device in enumerate_input_devices(form) if "video" in device.media_types]
