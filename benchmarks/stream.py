"""New frames: the stream against running a whole 16-frame window again.

Eight frames of an exact stream, and one of a dense stream.
"""

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
    return [*made, dense()]


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
