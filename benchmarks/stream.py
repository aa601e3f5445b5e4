"""One new frame: the stream against running the whole window again."""

import torch

import tubelet
from benchmarks.timing import alternate
from tubelet import Table


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

        made.append(alternate({"16-frame window, again for each frame": again, "stream": on}, f"{name}, 8 frames"))
    return made
