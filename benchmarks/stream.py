"""New frames: the stream against running a whole 16-frame window again.

Eight frames of an exact stream, one of a dense stream, and one of networks that answer at each frame anyway, as they
are and optimized.
"""

from functools import partial

import torch

import tubelet
from benchmarks.timing import alternate
from tubelet import Table, optimize


def tables() -> list[Table]:
    made = []
    for name, size in (("tiny", 56), ("r3d_18", 112), ("r2plus1d_18", 112)):
        model = tubelet.create(name).eval()
        model.head = tubelet.heads.Features()
        window = torch.rand(1, 3, 16, size, size)
        # eight frames at a time, the least that gives a step of the last stage
        stream = tubelet.Stream(model)
        for _ in range(16):
            stream(window[:, :, :8])

        def again(model: torch.nn.Module = model, window: torch.Tensor = window) -> None:
            with torch.no_grad():
                for _ in range(8):
                    model(window)

        def on(stream: tubelet.Stream = stream, window: torch.Tensor = window) -> None:
            stream(window[:, :, :8])

        def once(model: torch.nn.Module = model, window: torch.Tensor = window) -> None:
            with torch.no_grad():
                model(window)

        cases = {"window, at each frame": again, "window, once": once, "stream": on}
        made.append(alternate(cases, f"{name}, 8 new frames"))
    frame_by_frame = [a_frame("movinet_a0_stream", 172), a_frame("movinet_a2_stream", 224), a_frame("tsm_r50", 224)]
    return [*made, dense(), *frame_by_frame]


def dense(name: str = "r2plus1d_18", size: int = 112) -> Table:
    """A frame of a stream without padding in time, as it is and optimized, against torch's own window of 16 frames."""
    model = tubelet.create(name).eval()
    window = torch.rand(1, 3, 16, size, size)
    plain = tubelet.Stream(model, dense=True, window=1)
    fast = tubelet.Stream(optimize(model, window), dense=True, window=1)
    frame = window[:, :, :1]
    for _ in range(plain.receptive_field // 16 + 1):
        plain(window)
    fast.state = plain.state
    fast(frame)

    def again() -> None:
        with torch.no_grad():
            model(window)

    cases = {"window": again, "dense stream": lambda: plain(frame), "optimized": lambda: fast(frame)}
    return alternate(cases, f"{name}, 1 new frame")


def a_frame(name: str, size: int) -> Table:
    """A frame of a stream, through torch's layers and as one graph that was made fast."""
    model = tubelet.create(name).eval()
    video = torch.rand(1, 3, 32, size, size)
    streams = {"stream": tubelet.Stream(model), "optimized": tubelet.Stream(optimize(model, video[:, :, :8]))}
    for frame in video.split(1, 2):
        for stream in streams.values():
            stream(frame)
    cases = {label: partial(stream, video[:, :, :1]) for label, stream in streams.items()}
    return alternate(cases, f"{name}, 1 new frame", rounds=40)
