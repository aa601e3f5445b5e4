"""Run the benchmarks named, or all, and print their tables."""

import sys

import torch

from benchmarks import augment, stream, training, video

BENCHMARKS = {"augment": augment, "stream": stream, "training": training, "video": video}


def main(names: list[str]) -> None:
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    for name in names or ("video", "stream", "training"):  # video begins with augment
        for table in BENCHMARKS[name].tables():
            print(table, end="\n\n", flush=True)


main(sys.argv[1:])
