"""Train, measure and run a 3D network and its frame-by-frame twin on motion: python examples/demo.py [VIDEO]"""

import shutil
import sys
from pathlib import Path

import tubelet
from tubelet import plot
from tubelet.data import motion
from tubelet.data.video import Video
from tubelet.page import Section, write_report

OUT = Path("runs/demo")
LONG = ("right", "clockwise", "up", "growing", "left", "counterclockwise", "down", "shrinking")


def trained(name: str, epochs: int, what: str) -> tuple[dict[str, object], Section]:
    run = tubelet.train("motion", model=name, epochs=epochs, lr=0.01, out=OUT / name)
    table = tubelet.evaluate(run.out, "motion", views=3, crops=1)
    print(f"\n{name}\n{table}\n")
    pictures = {"curves.png": "Training", "evaluate/confusion.png": "Held-out clips", "evaluate/audit.png": "Audit"}
    shown = {f"{key} %": round(100 * table.summary[key], 1) for key in table.summary if "top1" in key or "audit" in key}
    row = {"network": name, "parameters": sum(p.numel() for p in run.load().parameters()), **shown}
    return row, Section(f"{name}, {what}", "", [(run.out / file, caption) for file, caption in pictures.items()])


def strip(name: str) -> tuple[Path, str]:
    file = motion.motion() / "val" / name / f"{name}_000.mp4"
    best = tubelet.predict(OUT / "tiny", file).top(1).rows[0]
    with Video(file) as video:
        clip = video.frames(range(video.num_frames))
    caption = f"true: {name}   predicted: {best['class']} ({best['score']})"
    return plot.strip(clip, OUT / f"strip_{name}.png", caption=caption, good=best["class"] == name), caption


def watched(video: Path, title: str, truth: list[tuple[float, float, str]] | None = None) -> Section:
    seen = tubelet.predict(OUT / "tiny", video, short="loop")
    print(f"{title}\n{seen.top(3)}\n")
    line = plot.timeline(seen.times, seen.scores, seen.classes, OUT / f"timeline_{video.stem}.png", truth=truth)
    return Section(title, "", [(line, "Scores"), (seen.to_video(OUT / f"watched_{video.stem}.mp4"), "Played")])


def main(own: str = "") -> None:
    if own:
        Video(own).close()  # a wrong path is said now and not after the training
    shutil.rmtree(OUT, ignore_errors=True)
    space_time, per_frame = trained("tiny", 30, "space and time"), trained("tiny_2d", 12, "its twin, frame by frame")
    truth = motion.long_video(OUT / "long.mp4", LONG)
    clips = Section("Clips", "One frame tells nothing, only motion does.", [strip(name) for name in motion.CLASSES])
    sections = [Section("Two networks", table=[space_time[0], per_frame[0]]), clips, space_time[1], per_frame[1]]
    sections.append(watched(OUT / "long.mp4", "A long video with several motions in a row", truth))
    sections += [watched(Path(own), f"Your video: {Path(own).name}")] if own else []
    print(f"open {write_report(OUT / 'report.html', 'tubelet sees motion', sections).resolve()}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, KeyboardInterrupt) as stop:
        sys.exit(f"demo: {str(stop) or 'interrupted'}")
