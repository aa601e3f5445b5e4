"""Run the benchmarks named, or all, and print their tables."""

import sys

import torch

from benchmarks import augment, inference, stream, training, video, windows

BENCHMARKS = {
    "augment": augment,
    "inference": inference,
    "stream": stream,
    "training": training,
    "video": video,
    "windows": windows,
}


def main(names: list[str]) -> None:
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    for name in names or ("video", "stream", "training", "inference"):  # video begins with augment
        for table in BENCHMARKS[name].tables():
            print(table, end="\n\n", flush=True)


main(sys.argv[1:])
