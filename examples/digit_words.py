"""Lip reading: from GRID's word times to a list that `tubelet train` reads.

    python examples/digit_words.py ../shared/data/grid digits.csv
    tubelet train digits.csv --model tiny --num_frames 20 --frame_stride 1 --resize none --crop 56x72 \
        --augment.max_shift 4 --epochs 80 --lr 0.006

A word lasts 1 to 22 frames, so each row is a window of fixed length around the middle of its word.
"""

import csv
import sys
from pathlib import Path

WINDOW = 24  # frames
VIDEO = 75  # frames of each file
VAL_FOLD = "3"


def main(corpus: Path, out: Path) -> None:
    with (corpus / "words.csv").open(newline="") as file:
        words = [row for row in csv.DictReader(file) if row["slot"] == "digit"]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "start_frame", "end_frame", "split"])
        for word in words:
            middle = (int(word["start_frame"]) + int(word["end_frame"])) // 2
            start = min(max(0, middle - WINDOW // 2), VIDEO - WINDOW)
            path = (corpus / "clips" / word["file"]).resolve()
            split = "val" if word["fold"] == VAL_FOLD else "train"
            writer.writerow([path, word["word"], start, start + WINDOW, split])
    print(f"{len(words)} words in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/digit_words.py GRID_FOLDER OUT.csv")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
