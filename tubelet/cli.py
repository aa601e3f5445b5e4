"""The command line, made from the signatures of the functions. The one file that imports jsonargparse."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import doctor, terminal
from .data.loader import reason
from .evaluate import evaluate
from .models import MODELS, models
from .predict import Prediction, predict
from .prepare import prepare
from .spec import ClipSpec
from .train import train
from .weights import CATALOGUE

_WRITERS = {".json": Prediction.to_json, ".csv": Prediction.to_csv, ".mp4": Prediction.to_video}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 1 where `doctor` found problems; 2 after an error, told in one line; 130 after Ctrl-C.
    """
    from jsonargparse import ArgumentError

    terminal.log_to_terminal()
    try:
        parser = _parser()
        parsed = parser.parse_args(_spelled_out(sys.argv[1:] if arguments is None else arguments) or ["--help"])
        chosen = parser.instantiate(parsed)
        name, values = chosen.subcommand, chosen[chosen.subcommand]
        if "subcommand" in values:  # a command with commands of its own
            name, values = f"{name} {values.subcommand}", values[values.subcommand]
        values = vars(values)
        values.pop("config", None)
        return _COMMANDS[name](values) or 0
    except ArgumentError as error:
        return _fail(_told(str(error)), 2)
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        return _fail(reason(error), 2)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", 130)


def _fail(line: str, status: int) -> int:
    terminal.say(f"tubelet: {line}")
    return status


def _told(error: str) -> str:
    """The parser's error in one line; of its long ones, the argument and its value."""
    wrong = re.search(r'^Parser key "([\w.]+)":.*?(?:value: |Got value: )(\S.*)$', error, re.DOTALL)
    if wrong:
        return f"--{wrong[1]} {wrong[2]}: not what it takes; see --help"
    return " ".join(error.split())


def _parser() -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser

    def parser(description: str, **options: Any) -> Any:
        return ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, **options)

    def command(function: Callable, own: dict[str, dict[str, Any]], skip: set[str]) -> Any:
        """A parser from a signature, but for the arguments that a command line spells in its own way."""
        made = parser((function.__doc__ or "").split("\n")[0])
        made.add_argument("--config", action=ActionConfigFile, help="arguments from a file, such as a run.json")
        for name, options in own.items():
            made.add_argument(name, type=str, **options)
        made.add_function_arguments(function, as_positional=True, skip=skip | {name.strip("-") for name in own})
        return made

    root = parser(
        "Convolutional networks over space and a third axis: time in video, depth in CT and MRI.",
        prog="tubelet",
        version=version("tubelet"),
    )
    commands = root.add_subcommands(required=True)
    network = {"default": "r2plus1d_18", "help": "name of a network; `tubelet models` lists them"}
    run = {"help": "file of weights, folder of a run, or tag of the catalogue (default: the newest run in runs/)"}
    source = {"help": "a video or a folder of them"}
    out = {"help": "windows to FILE.json or FILE.csv, the annotated video to FILE.mp4, or all into a FOLDER"}
    commands.add_subcommand("train", command(train, {"--model": network}, set()), help="train a network on videos")
    commands.add_subcommand("evaluate", command(evaluate, {"--model": run}, set()), help="measure a network on videos")
    commands.add_subcommand(
        "predict",
        command(predict, {"source": source, "--model": run, "--out": out}, {"fps"}),
        help="what happens in a video, and when",
    )
    commands.add_subcommand("prepare", command(prepare, {}, set()), help="make videos small and quick to read")
    group = parser("What is wrong, and what to do about it.")
    long_enough = {"default": None, "help": "name of a network, or file or run of one, for whose clips to look"}
    commands.add_subcommand("doctor", group, help="find out what is wrong")
    probes = group.add_subcommands(required=True)
    probes.add_subcommand("data", command(doctor.data, {"--model": long_enough}, set()), help="examine a data set")
    listing = parser("The networks that there are, with the clip and the paper of each.")
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, such as 'x3d*'")
    commands.add_subcommand("models", listing, help="list the networks")
    return root


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """Arguments as jsonargparse wants them: `--resume` or `--full` alone is true, a size 56x72 is [56,72]."""
    spelled = []
    for i, argument in enumerate(arguments):
        if argument in ("--resume", "--full") and "".join(arguments[i + 1 : i + 2]) not in ("true", "false"):
            argument = f"{argument}=true"
        elif (size := re.fullmatch(r"(--(?:crop|resize)=)?(\d+)x(\d+)", argument)) and (
            size[1] or (i and arguments[i - 1] in ("--crop", "--resize"))
        ):
            argument = f"{size[1] or ''}[{size[2]},{size[3]}]"
        spelled.append(argument)
    return spelled


def _newest_run() -> str:
    files = sorted(Path("runs").rglob("model.safetensors"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(
            "no trained model in runs/: train one with `tubelet train`, or name one with --model (a file of weights, "
            "a run's folder, or a tag such as r2plus1d_18.kinetics400)"
        )
    terminal.say(f"model: {files[-1].parent}")
    return str(files[-1].parent)


def _train(values: dict[str, Any]) -> None:
    print(train(**values))


def _evaluate(values: dict[str, Any]) -> None:
    print(evaluate(values.pop("model") or _newest_run(), values.pop("data"), **values))


def _predict(values: dict[str, Any]) -> None:
    asked, source = values.pop("out"), values.pop("source")
    out = Path(asked) if asked else None
    if out is not None and out.suffix and out.suffix not in _WRITERS:
        raise ValueError(f"{out}: ends in {out.suffix}; give a folder or a file ending in {', '.join(_WRITERS)}")
    if out is not None and out.suffix == ".mp4" and Path(source).is_dir():
        raise ValueError(f"{out}: one file for a folder of videos; give a folder as --out")
    if out is not None:  # before the work, so that it is not done in vain
        (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
    prediction = predict(values.pop("model") or _newest_run(), source, **values)
    print(prediction.top())
    if out is not None:
        for path in _write(prediction, out):
            terminal.say(f"wrote {path}")
    if prediction.failed:
        raise ValueError(f"{len(prediction.failed)} videos were left out, see above")


def _write(prediction: Prediction, out: Path) -> list[Path]:
    """Write what the ending of `out` asks for; a folder gets the windows as json and csv, and each video as mp4."""
    if out.suffix:
        return [_WRITERS[out.suffix](prediction, out)]
    written = [prediction.to_json(out / "windows.json"), prediction.to_csv(out / "windows.csv")]
    for number, part in enumerate(prediction.videos(), start=1):
        path = out / f"{Path(part.sources[0]).stem}_seen.mp4"
        if path in written:  # two folders may hold videos of one name
            path = path.with_stem(f"{path.stem}_{number}")
        written.append(part.to_video(path))
    return written


def _prepare(values: dict[str, Any]) -> None:
    prepared = prepare(**values)
    print(prepared)
    if prepared.failed:
        raise ValueError(f"{len(prepared.failed)} videos were left out, see above")


def _doctor_data(values: dict[str, Any]) -> int:
    diagnosis = doctor.data(**values)
    print(diagnosis)
    return 0 if diagnosis.is_healthy else 1


def _models(values: dict[str, Any]) -> None:
    pattern = values["pattern"]
    if not (names := models(pattern)):
        near = difflib.get_close_matches(pattern, models(), n=3, cutoff=0.3)
        raise ValueError(
            f"no network is called {pattern!r}"
            + (f"; did you mean {', '.join(near)}?" if near else "; `tubelet models` lists them")
        )
    published = Counter(row.model for row in CATALOGUE)
    rows = [
        {
            "name": preset.name,
            "clip": _clip(preset.spec),
            "paper": f"{preset.paper.title}, {preset.paper.year}",
            "weights": published[preset.name],
        }
        for preset in MODELS
        if preset.name in names
    ]
    print(terminal.Table(rows, title="clip: frames x frame stride, crop. weights: how many are published"))


def _clip(spec: ClipSpec) -> str:
    crop = "any size" if spec.crop is None else f"{spec.crop[0]}x{spec.crop[1]}"
    return f"{spec.num_frames}x{spec.frame_stride}, {crop}"


_COMMANDS: dict[str, Callable[[dict[str, Any]], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "prepare": _prepare,
    "doctor data": _doctor_data,
    "models": _models,
}
