"""The command line, made from the signatures of the functions. The one file that imports jsonargparse."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from . import doctor, terminal
from .compare import compare
from .data import distort as distortions
from .data.augment import RECIPES, Augment
from .data.distort import Distort
from .data.loader import reason
from .data.mixing import Mixing
from .data.volume import is_scan
from .evaluate import evaluate
from .export import export
from .features import features
from .launch import is_first, is_launched, launch
from .machine import FULL, folder_for
from .models import MODELS, models, ready
from .predict import WRITERS, check_out, predict, write
from .prepare import prepare
from .report import report
from .run import begun_in
from .segment import Masks, dense_classes
from .spec import ClipSpec
from .train import train
from .weights import CATALOGUE

_FIXES = {
    errno.EEXIST: "a file is in the way; move it, or give another path",
    errno.ENOTDIR: "a part of this path is a file, not a folder; give another path",
    errno.EISDIR: "a folder, and a file is wanted; give another path",
    errno.ENOENT: "no such file or folder; see whether the path is right",
    errno.EACCES: "no permission; give another path, or change its rights (chmod, chown)",
    errno.EPERM: "no permission; give another path, or change its rights (chmod, chown)",
    errno.EROFS: "this disk can only be read; give another path",
    errno.ENOSPC: "the disk is full; make room, or give a path on another one",
    errno.EDQUOT: "your share of this disk (quota) is full; make room, or give a path on another one",
    errno.EFBIG: "the file is larger than this disk or shell allows; see `ulimit -f`, or give a path on another one",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
}
# Settings of `train` that a recipe chooses unless one of their fields was typed.
_CHOSEN: dict[str, Any] = {"augment": Augment, "mixing": Mixing, "distort": Distort}
_PRESETS: dict[str, dict[str, Any]] = {"augment": RECIPES, "distort": distortions.RECIPES}
_SWITCHES = ("--resume", "--full", "--temperature", "--mirrored", "--largest", "--holes", "--stream")
_TAKES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0; 1 where `doctor` found problems; 2 after an error, told in one line; 130 after Ctrl-C.
    """
    from jsonargparse import ArgumentError

    terminal.log_to_terminal()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        parser = _parser()
        spelled = _spelled_out(arguments) or ["--help"]
        try:
            chosen = parser.instantiate(parser.parse_args(spelled))
        except ArgumentError as error:
            return _fail(_told(str(error), *_command(parser, arguments)), 2)
        name, values = chosen.subcommand, chosen[chosen.subcommand]
        if "subcommand" in values:  # a command with commands of its own
            name, values = f"{name} {values.subcommand}", values[values.subcommand]
        values = vars(values)
        configs = values.pop("config", None)
        if name == "train":
            _check_place(configs or (), values["data"])
            typed = parser.parse_args(spelled, defaults=False).train
            values |= {setting: None for setting in _CHOSEN if typed.get(setting) is None}
            if values["devices"] > 1 and not is_launched():
                return launch(arguments, values["devices"])
        return _COMMANDS[name](values) or 0
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        fix = _FIXES.get(error.errno or 0) if error.filename or error.errno in FULL else None
        return _fail(f"{error.filename or 'a file'}: {fix}" if fix else reason(error), 2)
    except (ValueError, ImportError) as error:
        return _fail(reason(error), 2)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", 130)


def _fail(line: str, status: int) -> int:
    terminal.say(f"tubelet: {line}")
    return status


def _command(parser: Any, arguments: Sequence[str]) -> tuple[str, Any]:
    """The command that arguments begin with, such as `tubelet doctor data`, and its parser."""
    name = "tubelet"
    for argument in arguments:
        commands = parser._subcommands_action.choices if parser._subcommands_action else {}
        if argument not in commands:
            break
        name, parser = f"{name} {argument}", commands[argument]
    return name, parser


def _told(error: str, command: str, parser: Any) -> str:
    """The parser's error in one line: the argument, its value, and what is accepted."""
    actions = {action.dest: action for action in parser._actions}
    options = [option for action in parser._actions for option in action.option_strings]
    if wrong := re.search(r'^Parser key "([\w.]+)":.*?(?:value: |Got value: )(\S.*)$', error, re.DOTALL):
        name, value = wrong.groups()
        takes = _takes(actions[name]._typehint) if name in actions else ""
        return f"--{name} {value}: `{command}` takes {takes or 'something else; see its --help'}"
    if wrong := re.match(r"unrecognized arguments: (.*)", error, re.DOTALL):
        names = wrong[1].split()
        name = next((name for name in names if name.startswith("-")), names[0]).partition("=")[0]
        if name.startswith("-"):
            return f"{name}: `{command}` has no such option; {_near(name, options, f'`{command} --help` lists them')}"
        places = [dest for dest, action in actions.items() if not action.option_strings]
        return f"{name}: one argument too many; `{command}` takes {', '.join(places).upper() or 'options only'}"
    if wrong := re.match(r"Subcommand .* does not accept option '(.*)'", error):
        names = [option.lstrip("-") for option in options]
        return f"{wrong[1]}: no argument of `{command}`; {_near(wrong[1], names, f'`{command} --help` lists them')}"
    if wrong := re.match(r"argument subcommand: invalid choice: '(.*?)' \(choose from (.*)\)", error, re.DOTALL):
        known = re.findall(r"[\w-]+", wrong[2])
        return f"{wrong[1]}: `{command}` has no such command; {_near(wrong[1], known, 'there is ' + ', '.join(known))}"
    if wrong := re.match(r"the following arguments are required: (.*)", error):
        names = [name.rpartition(".")[2].upper() for name in wrong[1].split(", ")]
        return f"`{command}` also wants {', '.join(names)}; see `{command} --help`"
    if wrong := re.match(r"argument (--\S+): expected one argument", error):
        return f"{wrong[1]}: it wants a value; see `{command} --help`"
    return " ".join(re.sub(r'^Parser key "([\w.]+)":', r"--\1:", error).split())


def _near(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def _takes(hint: Any) -> str:
    """The values of a type in words, as they are typed; "" for one that has none."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:  # a pair of whole numbers is a size, see `_spelled_out`
        return "HEIGHTxWIDTH" if set(get_args(hint)) == {int} else f"[{','.join(['NUMBER'] * len(get_args(hint)))}]"
    if get_args(hint):
        return " or ".join(filter(None, map(_takes, get_args(hint))))
    return _TAKES.get(hint, "")


def _parser() -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser

    def parser(description: str, **options: Any) -> Any:
        return ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False, **options)

    def command(function: Callable, own: dict[str, dict[str, Any]], skip: set[str]) -> Any:
        """A parser from a signature, but for the arguments that a command line spells in its own way."""
        made = parser((function.__doc__ or "").split("\n")[0])
        made.add_argument("--config", action=ActionConfigFile, help="arguments from a file, such as a run.json")
        for name, options in own.items():
            made.add_argument(name, **{"type": str, **options})
        made.add_function_arguments(function, as_positional=True, skip=skip | {name.strip("-") for name in own})
        return made

    root = parser(
        "Convolutional networks over space and a third axis: time in video, depth in CT and MRI.",
        prog="tubelet",
        version=version("tubelet"),
    )
    commands = root.add_subcommands(required=True)
    network = {"default": None, "help": "name of a network (default: r2plus1d_18, for masks of scans a fitting U-Net)"}
    run = {"help": "file of weights, folder of a run, or tag of the catalogue (default: the newest run in runs/)"}
    source = {"help": "a video, a scan, or a folder of them"}
    out = {
        "help": "windows to FILE.json or .csv, subtitles to .srt, a video to .mp4, masks to .nii.gz, or all to a FOLDER"
    }
    of_train = command(train, {"--model": network}, set(_CHOSEN))
    for name, kind in _CHOSEN.items():
        of_train.add_argument(f"--{name}", type=kind, default=kind())
    for name, known in _PRESETS.items():
        option = next(action for action in of_train._actions if action.dest == name)
        option.metavar, option.help = "RECIPE", f"{', '.join(known)}, or a file of the values of the next ones"
    commands.add_subcommand("train", of_train, help="train a network on videos or scans")
    several = {"action": "append", "type": _Names(), "help": f"{run['help']}; of several, the scores are fused"}
    of_evaluate = command(evaluate, {"--model": several}, set())
    commands.add_subcommand("evaluate", of_evaluate, help="measure a network on videos or scans")
    commands.add_subcommand(
        "predict",
        command(predict, {"source": source, "--model": run, "--out": out}, set()),
        help="what happens in a video, and when; masks of scans",
    )
    commands.add_subcommand(
        "features",
        command(features, {"source": {"help": "a video, or a folder of them"}, "--model": run}, set()),
        help="what a network makes of long videos, as files of vectors with times",
    )
    of_compare = command(compare, {name: {"help": "folder of a run that was evaluated"} for name in ("a", "b")}, set())
    commands.add_subcommand("compare", of_compare, help="which of two runs is better, and could it be chance")
    written = {"help": "the file to write; it ends in .onnx, .pt2 (torch.export) or .xml (OpenVINO)"}
    clip = {"default": None, "help": "a video or a scan, on a clip of which the file is checked as well as on noise"}
    trained = {"help": run["help"].partition(" (")[0]}
    of_export = command(export, {"model": trained, "path": written, "--example": clip}, set())
    commands.add_subcommand("export", of_export, help="write a network as a file for other programs")
    commands.add_subcommand("report", command(report, {}, set()), help="one offline page of a run")
    commands.add_subcommand("prepare", command(prepare, {}, set()), help="make videos small and quick to read")
    group = parser("What is wrong, and what to do about it.")
    long_enough = {"default": None, "help": "name of a network, or file or run of one, for whose clips to look"}
    commands.add_subcommand("doctor", group, help="find out what is wrong")
    probes = group.add_subcommands(required=True)
    probes.add_subcommand("data", command(doctor.data, {"--model": long_enough}, set()), help="examine a data set")
    timed = {"nargs": "?", "default": "r2plus1d_18", "help": "name of a network, or file or run of one"}
    probes.add_subcommand("speed", command(doctor.speed, {"model": timed}, set()), help="time a step of training")
    listing = parser("The networks that there are, with the clip and the paper of each.")
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, such as 'x3d*'")
    commands.add_subcommand("models", listing, help="list the networks")
    return root


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """Arguments as jsonargparse wants them.

    `--resume` and the like alone is true, a size 56x72 is [56,72], and `--augment NAME` is all fields of a recipe.
    """
    spelled = []
    for i, argument in enumerate(arguments):
        for option in _PRESETS:
            name = argument.removeprefix(f"--{option}=")
            if name != argument or (i and arguments[i - 1] == f"--{option}"):
                argument = argument.removesuffix(name) + _recipe(option, name)
        if argument in _SWITCHES and "".join(arguments[i + 1 : i + 2]) not in ("true", "false"):
            argument = f"{argument}=true"
        elif (size := re.fullmatch(r"(--(?:crop|resize)=)?(\d+)x(\d+)", argument)) and (
            size[1] or (i and arguments[i - 1] in ("--crop", "--resize"))
        ):
            argument = f"{size[1] or ''}[{size[2]},{size[3]}]"
        spelled.append(argument)
    return spelled


def _recipe(option: str, name: str) -> str:
    known = _PRESETS[option]
    if name in known:
        return json.dumps(asdict(known[name]))
    if name.startswith("{") or Path(name).is_file():
        return name
    raise ValueError(
        f"--{option} {name}: no such recipe; there is {', '.join(known)}, or set its fields (`tubelet train --help`)"
    )


def _names(value: Any) -> list[str]:
    """The names in lists of any depth: one for each time an option was given, one in a file of arguments."""
    return [value] if isinstance(value, str) else [name for each in value for name in _names(each)]


class _Names:
    """`_names` as the type of an option, whose help says text."""

    def __call__(self, value: Any) -> list[str]:
        return _names(value)

    def __str__(self) -> str:
        return "str"


def _newest_run() -> str:
    files = sorted(Path("runs").rglob("model.safetensors"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(
            "no trained model in runs/: train one with `tubelet train`, or name one with --model (a file of weights, "
            "a run's folder, or a tag such as r2plus1d_18.kinetics400)"
        )
    terminal.say(f"model: {files[-1].parent}")
    return str(files[-1].parent)


def _check_place(configs: Iterable[Any], data: str | os.PathLike) -> None:
    """Raise ValueError where the data of a `run.json` are found from the folder in which it began, and not here."""
    if str(data) == "motion" or Path(data).exists():
        return
    for config in map(str, configs):
        if place := begun_in(Path(config).parent, data):
            raise ValueError(f"{data}: not there, seen from here; paths of {config} begin in {place}: go on from there")


def _train(values: dict[str, Any]) -> None:
    try:
        run = train(**values)
    except KeyboardInterrupt as stop:
        before = "interrupted before the training began: nothing new is saved; the same command starts it again"
        raise KeyboardInterrupt(str(stop) or before) from None
    if is_first():
        print(run)


def _evaluate(values: dict[str, Any]) -> None:
    print(evaluate(_names(values.pop("model") or _newest_run()), values.pop("data"), **values))


def _compare(values: dict[str, Any]) -> None:
    print(compare(**values))


def _report(values: dict[str, Any]) -> None:
    print(report(**values))


def _export(values: dict[str, Any]) -> None:
    print(export(**values))


def _predict(values: dict[str, Any]) -> None:
    asked, source = values.pop("out"), values.pop("source")
    out = Path(asked) if asked else None
    with ExitStack() as made:  # before the work, so that it is not done in vain
        if out is not None and (out.suffix.lower() in WRITERS or not (Path(source).is_dir() or is_scan(source))):
            check_out(out, source)
            made.enter_context(folder_for(out.parent if out.suffix else out))
        model = values.pop("model") or _newest_run()
        network, spec = ready(model)
        is_of_scans = spec.intensity is not None
        is_of_masks = is_of_scans and dense_classes(network, spec) is not None
        if out is not None and not is_of_masks:
            check_out(out, source, is_drawn=not is_of_scans)
            made.enter_context(folder_for(out.parent if out.suffix else out))
        with terminal.told():
            prediction = predict(network if is_of_scans else model, source, out=out if is_of_masks else None, **values)
        print(prediction.top())
        if isinstance(prediction, Masks):
            written = [case.file for case in prediction.cases if case.file is not None]
        else:
            written = write(prediction, out, is_drawn=not is_of_scans) if out is not None else []
    for path in written:
        terminal.say(f"wrote {path}")
    if prediction.failed:
        kind = "scan" if is_of_scans else "video"
        raise ValueError(f"{terminal.counted(len(prediction.failed), kind)} left out, see above")


def _features(values: dict[str, Any]) -> None:
    model, source = values.pop("model") or _newest_run(), values.pop("source")
    with terminal.told():
        table = features(model, source, **values)
    print(table)
    if left := table.summary.get("left out"):
        raise ValueError(f"{terminal.counted(cast(int, left), 'video')} left out, see above")


def _prepare(values: dict[str, Any]) -> None:
    prepared = prepare(**values)
    print(prepared)
    if prepared.failed:
        raise ValueError(f"{terminal.counted(len(prepared.failed), 'video')} left out, see above")


def _doctor_speed(values: dict[str, Any]) -> None:
    print(doctor.speed(**values))


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
    "compare": _compare,
    "report": _report,
    "export": _export,
    "predict": _predict,
    "features": _features,
    "prepare": _prepare,
    "doctor data": _doctor_data,
    "doctor speed": _doctor_speed,
    "models": _models,
}
