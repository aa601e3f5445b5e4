"""Lip reading: from GRID's word times to a list that `tubelet train` reads. All 51 words, or the ten digits.

    python examples/lip_words.py ../shared/data/grid words.csv
    tubelet train words.csv --model small --epochs 40 --batch_size 32 --lr 0.002 --precision bf16 --num_frames 20 \
        --frame_stride 1 --resize none --crop 56x72 --short hold --augment.max_shift 4 --augment.flip true

    python examples/lip_words.py ../shared/data/grid digits.csv digit 8
    tubelet train digits.csv --model tiny --epochs 80 --lr 0.006 --precision bf16 --num_frames 20 \
        --frame_stride 1 --resize none --crop 56x72 --short hold --augment.max_shift 4

A row is a word and so many frames before and after it. With three, most clips end on a held frame, which tells how long
the word was; with eight, clips begin anywhere in their row, which makes more of few words.
"""

import csv
import sys
from pathlib import Path

VIDEO = 75  # frames of each file
VAL_FOLD = "3"


def main(corpus: Path, out: Path, slot: str = "", around: str = "3") -> None:
    with (corpus / "words.csv").open(newline="") as file:
        words = [row for row in csv.DictReader(file) if slot in ("", row["slot"])]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "start_frame", "end_frame", "split"])
        for word in words:
            start = max(0, int(word["start_frame"]) - int(around))
            end = min(VIDEO, int(word["end_frame"]) + int(around))
            path = (corpus / "clips" / word["file"]).resolve()
            split = "val" if word["fold"] == VAL_FOLD else "train"
            writer.writerow([path, word["word"], start, end, split])
    print(f"{len(words)} words in {out}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit("usage: python examples/lip_words.py GRID_FOLDER OUT.csv [SLOT [FRAMES_AROUND]]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
