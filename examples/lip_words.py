"""Lip reading: from GRID's word times to a list that `tubelet train` reads. All 51 words, or the ten digits.

    python examples/lip_words.py ../shared/data/grid words.csv
    python examples/lip_words.py ../shared/data/grid digits.csv digit
    tubelet train words.csv --model small --epochs 40 --batch_size 32 --lr 0.002 --precision bf16 --num_frames 20 \
        --frame_stride 1 --resize none --crop 56x72 --short hold --augment.max_shift 4 --augment.flip true

A row is a word and what surrounds it. Its clip ends on a held frame, so a network also sees how long the word was.
"""

import csv
import sys
from pathlib import Path

AROUND = 3  # frames before a word, and after it
VIDEO = 75  # frames of each file
VAL_FOLD = "3"


def main(corpus: Path, out: Path, slot: str = "") -> None:
    with (corpus / "words.csv").open(newline="") as file:
        words = [row for row in csv.DictReader(file) if slot in ("", row["slot"])]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "start_frame", "end_frame", "split"])
        for word in words:
            start = max(0, int(word["start_frame"]) - AROUND)
            end = min(VIDEO, int(word["end_frame"]) + AROUND)
            path = (corpus / "clips" / word["file"]).resolve()
            split = "val" if word["fold"] == VAL_FOLD else "train"
            writer.writerow([path, word["word"], start, end, split])
    print(f"{len(words)} words in {out}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python examples/lip_words.py GRID_FOLDER OUT.csv [SLOT]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
