"""Which packets are keyframes, where a container does not say it, or says what is not so."""

from collections.abc import Callable, Sequence

from .packets import Packet

__all__ = ["bytes_of_unit_size", "is_hevc_key", "num_told"]

# Codecs whose keyframes are seen in the packets, whatever the container says, and two that have no other frames.
_SEEN = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "png", "cfhd"})
_SEEN_IN_MATROSKA = frozenset({"ffv1", "mpeg4", "mpeg2video"})

# Containers in which nothing said makes a keyframe.
_SILENT = frozenset({"avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})

# Types of HEVC's units with a picture, and those of pictures at which decoding may start.
_HEVC_PICTURES = range(32)
_HEVC_KEYS = range(16, 24)


def bytes_of_unit_size(extradata: bytes | None) -> int:
    """Bytes of the size before each unit of HEVC, by ISO/IEC 14496-15; 0 where FFmpeg looks into the units itself."""
    header = extradata or b""
    return (header[21] & 3) + 1 if header[:1] == b"\1" and len(header) > 21 else 0


def is_hevc_key(data: memoryview, num_bytes: int) -> bool:
    """Whether decoding may start at a packet of HEVC: by the type of its first unit with a picture."""
    place = num_bytes
    while place < len(data):
        kind = data[place] >> 1 & 63
        if kind in _HEVC_PICTURES:
            return kind in _HEVC_KEYS
        place += int.from_bytes(data[place - num_bytes : place]) + num_bytes
    return False


def num_told(packets: Sequence[Packet], form: str, codec: str, begins_intra: Callable[[], bool]) -> int:
    """Packets up to those that are keyframes only because the container does not say which are.

    AVI may say it of the first ones alone. Others that are silent make all packets keyframes.

    Args:
        packets: in the order of the file.
        form: FFmpeg's name of the container.
        codec: FFmpeg's name of the codec, which has more than keyframes.
        begins_intra: whether the first frames, decoded, are all keyframes; asked only in doubt.
    """
    seen = _SEEN | _SEEN_IN_MATROSKA if form == "matroska,webm" else _SEEN
    if form not in _SILENT or codec in seen:
        return len(packets)
    told = len(packets)
    while told > 1 and packets[told - 1].is_key:
        told -= 1
    if told > 1 and form != "avi":
        return len(packets)
    is_intra = told == 1 < len(packets) and packets[0].is_key and begins_intra()
    return len(packets) if is_intra else told
