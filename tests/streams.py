"""Live streams for tests: a server on this machine that sends pictures, each of a gray that tells its number."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import torch

BOUNDARY = "multipart/x-mixed-replace; boundary=b"


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 4 * (number % 60), np.uint8)


def number_of(frame: torch.Tensor) -> int:
    return round(frame.float().mean().item() / 4)


class Out:
    """What a stream is written to: each write is a chunk of HTTP, so that the end can be told."""

    def __init__(self, file, says_end: bool) -> None:
        self.file, self.says_end = file, says_end

    def write(self, data: bytes) -> int:
        self.file.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if self.says_end else data)
        self.file.flush()
        return len(data)


@contextmanager
def serve(send: Callable[[Out], None], kind: str = "video/mp2t", *, says_end: bool = True) -> Iterator[str]:
    """The address of a stream that `send` writes; without `says_end`, the connection breaks at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if says_end:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError, av.error.FFmpegError):  # the one who looks has gone
                send(Out(self.wfile, says_end))
                if says_end:
                    self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.shutdown()
        server.server_close()


def mpegts(num_frames: int, fps: int = 25, *, is_paced: bool = False, then: Callable[[], object] = lambda: None):
    """Sends H.264 in MPEG-TS as a camera does: a keyframe every 5 frames, none out of order."""

    def send(out: Out) -> None:
        options = {"flush_packets": "1"}
        with av.open(out, "w", format="mpegts", options=options, buffer_size=188 * 7) as container:
            stream = container.add_stream("libx264", rate=fps, options={"tune": "zerolatency", "g": "5"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                container.mux(stream.encode(frame))
                time.sleep(1 / fps if is_paced else 0)
            container.mux(stream.encode())
            then()

    return send


def mjpeg(sizes: list[tuple[int, int]]):
    """Sends one jpg after the other, as cheap cameras do."""

    def send(out: Out) -> None:
        for number, (height, width) in enumerate(sizes):
            out.write(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + jpg(picture(number, height, width)) + b"\r\n")
        out.write(b"--b--\r\n")

    return send


def jpg(array: np.ndarray) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = array.shape[:2]
    context.pix_fmt, context.time_base = "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
