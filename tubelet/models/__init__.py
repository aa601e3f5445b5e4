"""Every network by name: `models()` lists them, `create` makes one, `load` reads one from a file."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .. import decoders, heads
from .. import weights as files
from ..convert import UNTOLD, alone, convert, fitted, inflate, layouts, recognise, rename
from ..convert.layout import Found, Layout
from ..preset import Preset
from ..spec import ClipSpec
from . import c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, textbook, tiny, tsm, unet, x3d

_FAMILIES = (c3d, densenet, inception, movinet, p3d, resnet, slow, slowfast, textbook, tiny, tsm, unet, x3d)
MODELS = tuple(preset for family in _FAMILIES for preset in family.PRESETS)

T = TypeVar("T")
log = logging.getLogger("tubelet")

NUM_CLASSES = 400


def models(pattern: str = "*") -> tuple[str, ...]:
    """Names of the networks, all or those that match a shell pattern: `models("tiny*")`."""
    return tuple(fnmatch.filter((preset.name for preset in MODELS), pattern))


def create(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network by name, (B, C, T, H, W) -> logits (B, num_classes).

    Args:
        name: one of `models()`.
        num_classes: K of the logits; None is what the weights answer, or 400. For another number than theirs the last
            layer is new, and the log says so.
        in_channels: C of the input; None is what the weights take, or what the network was published for. For another
            number than theirs the first convolution is spread over it: an image with equal channels gives the same
            answer.
        weights: None for new ones; the name of a dataset, such as "kinetics400", for the best that were published for
            this network; a tag of the catalogue (`tubelet.weights.CATALOGUE`); or the path of a checkpoint of any known
            code base, or of a 2D ResNet of ImageNet, whose kernels are then spread over time.
        **kwargs: further arguments of the network's own function; what is not given is as the weights have it.

    Raises:
        ValueError: the name (the message gives the nearest ones), an argument or the checkpoint does not fit.
    """
    _preset(name)
    arguments = {"num_classes": num_classes, "in_channels": in_channels, **kwargs}
    given = {key: value for key, value in arguments.items() if value is not None or key in kwargs}
    _check(name, given)
    if weights is None:
        return _make(name, given)
    checkpoint = _alone(_open(name, weights))
    told = _told(checkpoint)
    if checkpoint.header is not None and told is not None and told[0] != name:
        raise ValueError(f"{checkpoint.path}: holds {told[0]}, not {name}")
    known = _for_name(name, told, checkpoint.path)
    try:
        return _filled(name, known, given, checkpoint)
    except ValueError as error:
        if told is None or told[0] == name:
            raise
        raise ValueError(f"{checkpoint.path}: holds {told[0]}, not {name} ({error})") from None


def _for_name(name: str, told: Found | None, path: Path) -> dict[str, Any]:
    """Arguments of a network that the user names, from those of the network that a checkpoint tells."""
    if told is None:
        return {}
    if told[0] == name:
        return told[1]
    wanted, found = _preset(name), _preset(told[0])
    if wanted.build is not found.build:
        return _sizes_of(told[1])
    whole = found.whole(told[1])
    differing = [key for key in wanted.arguments if key in wanted.differing(whole)]
    if differing:
        # which window a head has no key tells, but for code bases whose heads have none
        level = logging.INFO if differing == ["windows"] and whole["windows"] else logging.WARNING
        what = (path, told[0], name, ", ".join(differing))
        log.log(level, "%s: recognised as %s, made as %s; they differ in %s", *what)
    return {key: value for key, value in wanted.differing(whole).items() if key not in wanted.arguments}


def load(path: str | os.PathLike, *, model: nn.Module | None = None, **hints: Any) -> nn.Module:
    """The network of a file, built and ready (in evaluation mode).

    Args:
        path: a file that `tubelet.save` wrote, the folder of a run, or a checkpoint of a known code base, whose network
            is recognised from its keys and shapes. A file that has the name of a published one has its clip, too.
        model: a network of any make that takes the weights, and the `spec` that the file has: the one that was trained.
        **hints: what keys cannot tell, by the names of the network's own arguments; they go before what was recognised.

    Raises:
        ValueError: the file cannot be read, no known network has its keys, or the network has no such argument; the
            message says what to do.
    """
    if not Path(path).exists() and (advice := _instead(str(path))):
        raise ValueError(f"{path}: no such file of weights; {advice}")
    checkpoint = files.read(path)
    if model is not None:
        return _into(model, checkpoint, hints)
    checkpoint = _alone(checkpoint)
    told = _told(checkpoint)
    if told is None:
        raise ValueError(f"{path}: {_why_unknown(checkpoint)}")
    name, known = told
    _check(name, hints)
    model = _filled(name, known, hints, checkpoint).eval()
    cast(Any, model).loaded_from = checkpoint.path  # what it was trained on, a run tells beside it
    if checkpoint.header is None and _row(checkpoint, told) is None and _likeness(checkpoint.state) != 1:
        _say_assumed(name, known, hints, checkpoint.path)
    return model


def _into(model: Any, checkpoint: files.Checkpoint, hints: Mapping[str, Any]) -> nn.Module:
    """A network with the weights and the spec of a checkpoint."""
    if hints:
        raise ValueError(f"{', '.join(hints)} with a network in memory: leave them out")
    if checkpoint.state.keys().isdisjoint(model.state_dict()):  # else it may have weights beside those of a prefix
        checkpoint = _alone(checkpoint)
    try:
        model.load_state_dict(convert(checkpoint.state, model))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    model.loaded_from = checkpoint.path
    if checkpoint.header is not None and checkpoint.header["spec"] is not None:
        model.spec = ClipSpec.from_dict(checkpoint.header["spec"])
    return model.eval()


def _alone(checkpoint: files.Checkpoint) -> files.Checkpoint:
    """A checkpoint of others without what they keep beside the network, which the log names."""
    if checkpoint.header is not None or recognise(checkpoint.state) is not None:
        return checkpoint  # a head may be beside the rest
    state, beside = alone(checkpoint.state)
    if beside:
        log.warning("%s: left out what is beside the network: %s", checkpoint.path, ", ".join(beside))
    return dataclasses.replace(checkpoint, state=state)


def _instead(name: str) -> str:
    """What to type for a name that is no file: a network's, or a tag's."""
    row = files.find(name)
    if row is not None:
        return f"tubelet.create({row.model!r}, weights={row.tag!r}) downloads it"
    return f"tubelet.create({name!r}) makes the network" if name in models() else ""


def _say_assumed(name: str, known: Mapping[str, Any], hints: Mapping[str, Any], path: Path) -> None:
    """Warn of what the keys do not tell and was taken as published."""
    preset = _preset(name)
    whole = preset.whole({**known, **hints})
    no_matter = {
        "shift_div": whole.get("shift_place", "") is None,
        "non_local_mode": not any(whole.get("non_local", ())) or whole["non_local_mode"] == "gaussian",
        "has_pool2": "has_pool2" in whole and any(max(frames) > 1 for frames in whole["temporal"]),
        "num_groups": "g" not in whole.get("order", "g"),
        "upsample": whole.get("upsample") == "deconv",
    }
    assumed = [key for key in UNTOLD.get(preset.build.__name__, ()) if key not in hints and not no_matter.get(key)]
    if assumed:
        log.warning(
            "%s: taken for %s with %s, as published; the keys do not tell, tubelet.load(path, %s=...) does",
            *(path, name, ", ".join(f"{key}={whole[key]!r}" for key in assumed), assumed[0]),
        )
    if known.get("num_classes") == 80 and name.startswith("slow"):
        log.warning("%s: 80 classes are AVA's; a detector of PySlowFast has the keys of this classifier", path)


def ready(model: str | os.PathLike | nn.Module) -> tuple[nn.Module, ClipSpec]:
    """A network in evaluation mode and the clip it takes, from what `evaluate` and `predict` accept as a model.

    What is loaded here goes to the GPU, if there is one; a network in memory stays where it is.

    Args:
        model: a file or a run's folder for `load`, a tag of the catalogue, or a network with a `spec`.

    Raises:
        ValueError: the network has no `spec`, or its weights cannot be loaded.
    """
    if not isinstance(model, nn.Module):
        row = files.find(str(model))
        if row is None and not Path(model).exists():
            runs = (str(file.parent) for file in Path("runs").rglob("model.safetensors"))
            near = difflib.get_close_matches(str(model), (*sorted(runs), *_tags()), n=3, cutoff=0.6)
            raise ValueError(f"{model}: no such file of weights, run or tag; {_nearest_weights(str(model), near)}")
        model = create(row.model, weights=row.tag) if row else load(model)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ClipSpec):
        raise ValueError(
            f"{type(model).__name__} has no spec: set `model.spec = tubelet.ClipSpec(...)` to say what clip it takes"
        )
    return model.eval(), spec


def classifier(
    model: str | os.PathLike | nn.Module,
    classes: str | os.PathLike | None = None,
    *,
    is_video: bool = True,
    may_label_frames: bool = False,
) -> tuple[nn.Module, ClipSpec]:
    """As `ready`, of a network that answers once a clip: found out before a video is read.

    Args:
        model: as for `ready`.
        classes: a file of class names (see `read_classes`), which go before those of the network's `spec`.
        is_video: whether the network is to see videos, which have three channels, and their optical flow two.
        may_label_frames: whether one that answers for each frame will do as well.

    Raises:
        ValueError: as in `ready`; also when the head has another task, the names do not fit, or the channels do not.
    """
    network, spec = ready(model)
    if not (may_label_frames and heads.labels_frames(network)):
        heads.check_classifier(network)
    if classes is not None:
        spec = dataclasses.replace(spec, classes=read_classes(classes))
    heads.check_classes(getattr(network, "head", None), spec.classes)
    if is_video and spec.in_channels not in (2, 3):
        raise ValueError(
            f"the network's clips have {spec.in_channels} channels and a video has 3; predict takes an array "
            f"({spec.in_channels}, T, H, W), and tubelet.create(NAME, weights=PATH, in_channels=3) makes it take 3"
        )
    return network, spec


def read_classes(path: str | os.PathLike) -> tuple[str, ...]:
    """Class names in the order of the logits, from a text file with one a line, or a json list or {name: index}.

    Raises:
        ValueError: it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of class names")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
        if isinstance(found, dict):
            names = {int(index): name for name, index in found.items()}
            found = [names[index] for index in range(len(found))]
        # Kinetics' published names have quotes of their own
        classes = tuple(name.strip().strip('"') for name in found)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path}: no class names; give text, one a line, or .json, a list of them or {{name: index}} from 0 up"
        ) from None
    if not classes:
        raise ValueError(f"{path}: no class names; the file is empty")
    return classes


def unnamed(model: str | os.PathLike | nn.Module, network: nn.Module) -> str:
    """What to do about a network that does not say what its classes are, for what `ready` accepts as a model."""
    row = None
    if not isinstance(model, nn.Module):
        file = files.Checkpoint(Path(model), {})
        row = files.find(str(model)) or files.published(file, heads.num_classes(getattr(network, "head", None)))
    where = f"; its names are published at {row.classes}" if row is not None and row.classes else ""
    return f"the model does not say what its classes are: give `classes` (--classes FILE), one name a line{where}"


def _preset(name: str) -> Preset:
    preset = next((preset for preset in MODELS if preset.name == name), None)
    if preset is None:
        raise ValueError(_unknown(f"unknown model {name!r}", name, models()))
    return preset


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"{what}; did you mean {', '.join(near)}?" if near else f"{what}; known are {', '.join(known)}"


def _nearest_weights(name: str, near: Sequence[str]) -> str:
    """What to give for a name that is neither a file of weights nor a run nor a tag."""
    if name in models():
        tags = [row.tag for row in files.CATALOGUE if row.model == name]
        return f"{name} is a network, without weights" + (f"; published for it: {', '.join(tags[:3])}" if tags else "")
    if near:
        return f"did you mean {', '.join(near)}?"
    return (
        f"`tubelet models` lists the {len(MODELS)} networks, tubelet.weights.CATALOGUE the {len(files.CATALOGUE)} tags"
    )


def _tags() -> tuple[str, ...]:
    """What `weights` may be: each tag, and each network.dataset."""
    return tuple(dict.fromkeys(tag for row in files.CATALOGUE for tag in (f"{row.model}.{row.dataset}", row.tag)))


def _check(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError when the network does not take one of these arguments."""
    accepted = ("num_classes", "in_channels", *_preset(name).options)
    if unknown := sorted(set(arguments) - set(accepted)):
        raise ValueError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    for key in ("num_classes", "in_channels"):
        value = arguments.get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} {value!r} must be a whole number of at least 1")


def _make(name: str, arguments: Mapping[str, Any]) -> Any:
    """A network with new weights, which knows its own call."""
    preset = _preset(name)
    arguments = {"num_classes": NUM_CLASSES, "in_channels": preset.spec.in_channels, **arguments}
    model: Any = preset(**arguments)
    model.architecture = {"name": name, "arguments": arguments, "layers": files.layers(model)}
    return model


def _open(name: str, weights: str | os.PathLike) -> files.Checkpoint:
    """The checkpoint of a path, a tag, or a dataset's name."""
    if Path(weights).exists():
        return files.read(weights)
    row = files.find(str(weights), name)
    if row is None:
        known = tuple(dict.fromkeys(row.dataset for row in files.CATALOGUE if row.model == name))
        published = f"published for {name} are {', '.join(known)}" if known else f"none are published for {name}"
        near = difflib.get_close_matches(str(weights), _tags(), n=3, cutoff=0.6)
        raise ValueError(
            f"weights {str(weights)!r} is neither a file nor a tag; {published}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    if row.model != name:
        raise ValueError(f"weights {row.tag!r} are for {row.model}, not for {name}")
    return files.read(files.fetch(row))


def _told(checkpoint: files.Checkpoint) -> Found | None:
    """Network and arguments that a checkpoint is for: by its header, or by its keys and its row of the catalogue."""
    state = checkpoint.state
    if checkpoint.header is not None:
        architecture = checkpoint.header["architecture"]
        return architecture and (architecture["name"], architecture["arguments"])
    if inflate.is_image_resnet(state):
        return None
    found = _named(recognise(state)) or _recognise_own(state)
    row = _row(checkpoint, found)
    if row is None:
        return found
    name, arguments = found or (row.model, {"num_classes": row.num_classes or NUM_CLASSES})
    if name != row.model:
        is_kin = _preset(name).build is _preset(row.model).build
        whole = _preset(name).whole(arguments)
        arguments = _preset(row.model).differing(whole) if is_kin else _sizes_of(arguments)
    return row.model, {**arguments, **row.arguments}


def _named(found: Found | None) -> Found | None:
    """The network whose own arguments are nearest to what was recognised, of those of one family, and what differs."""
    if found is None:
        return None
    first = _preset(found[0])
    arguments = first.whole(found[1])
    kin = [first, *(preset for preset in MODELS if preset.build is first.build)]
    return min(((preset.name, preset.differing(arguments)) for preset in kin), key=lambda named: len(named[1]))


def _sizes_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in ("num_classes", "in_channels") if key in arguments}


def _row(checkpoint: files.Checkpoint, found: Found | None) -> files.Published | None:
    """Row of the catalogue that a checkpoint is from."""
    row = files.published(checkpoint, found[1].get("num_classes") if found else None)
    if row is None or checkpoint.tag or row.sha256:
        return row
    # others may give their file this name, too
    is_kin = found is not None and _preset(found[0]).build is _preset(row.model).build
    return row if is_kin else None


def _attempt(function: Callable[[Mapping[str, Any]], T], given: Mapping[str, Any]) -> T | None:
    try:
        return function(given)
    except Exception:  # it has the marks of a network and not all of its layers: what its shapes lack has any type
        return None


def _recognise_own(state: Mapping[str, Tensor]) -> Found | None:
    """Network and sizes of a plain state_dict of ours, as `torch.save(model.state_dict(), ...)` leaves it.

    Of networks that differ in what has no weights it is the first.
    """
    kernels = [key for key, value in state.items() if value.ndim == 5]
    if not kernels or _likeness(state) < 1:
        return None
    # files may be in the order of the alphabet
    first = min(kernels, key=lambda key: (not key.startswith("stem."), not key.startswith("stages.")))
    shapes = {key: value.shape for key, value in state.items()}
    sizes = {"in_channels": state[first].shape[1]}
    if "head.fc.weight" in state:
        sizes["num_classes"] = len(state["head.fc.weight"])
    # Large networks take long to lay out: first come the families that have no layouts, all small, then those whose
    # layouts see something in these keys.
    foreign = {_family(layout.recognise) for layout in layouts()}
    seen = {_family(layout.recognise) for layout in layouts() if _attempt(layout.recognise, state)}

    def turn(preset: Preset) -> int:
        family = _family(preset.build)
        return (family in foreign) + (family in foreign - seen)

    def fits(preset: Preset) -> bool:
        outline = _attempt(partial(_outline, preset), sizes)
        return outline is not None and shapes == {key: value.shape for key, value in outline.state_dict().items()}

    found = next(filter(fits, sorted(MODELS, key=turn)), None)
    if found is None:
        return None
    kin = [preset for preset in MODELS if preset.name.split("_")[0] == found.name.split("_")[0]]
    twins = [preset.name for preset in kin if preset is not found and fits(preset)]
    if twins:
        log.warning("taken for %s; %s have the same weights: tubelet.create makes those", found.name, ", ".join(twins))
    return found.name, sizes


def _family(function: Callable[..., Any]) -> str:
    """The file that a function is from; a family has the same name in `models` and in `convert`."""
    return function.__module__.rpartition(".")[2]


def _likeness(state: Mapping[str, Tensor]) -> float:
    """Share of the keys that look like ours."""
    return (
        sum(key.startswith(("stem.", "stages.", "decoders.", "head.")) for key in state) / len(state) if state else 0.0
    )


def _outline(preset: Preset, sizes: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights, silent about sizes that make no sense."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        return preset(**sizes)


def _why_unknown(checkpoint: files.Checkpoint) -> str:
    """Why no network is known for a checkpoint, and the network that is nearest, with what it misses."""
    state = checkpoint.state
    if checkpoint.header is not None:
        return (
            "holds the weights of a network that tubelet did not make; build it in Python as `net`, and give "
            f"`tubelet.load({str(checkpoint.path)!r}, model=net)` instead of the path"
        )
    if inflate.is_image_resnet(state):
        return "holds a 2D ResNet; `tubelet.create(NAME, weights=...)` spreads its kernels over time for a 3D one"
    reason = f"no known network has these {len(state)} keys ({', '.join(list(state)[:3])}, ...)"
    return reason + _nearest(state)


def _nearest(state: Mapping[str, Tensor]) -> str:
    """What is missing and left over in the network whose keys are nearest, of the families that they look like."""

    def score(layout: Layout) -> float:
        marks = [any(re.fullmatch(mark, key) for key in state) for mark in layout.marks]
        return _likeness(layout.rename(state)) + sum(marks) / len(marks)

    best = sorted(layouts(), key=score)[-2:]
    if score(best[-1]) < 0.5:
        return "; if you know which it is, use tubelet.create(NAME, weights=...)"
    found: list[tuple[int, str, str]] = []
    for layout in best:
        renamed = layout.rename(state)
        for preset in MODELS:
            if _family(preset.build) == _family(layout.recognise):
                outline = _outline(preset, {})
                away = len(outline.state_dict().keys() ^ renamed.keys())
                if not found or away < found[0][0]:
                    found = [(away, preset.name, _misfit(renamed, outline))]
    _, name, misfit = found[0]
    is_headless = not any(key.startswith("head.") for layout in best for key in layout.rename(state))
    advice = f"; tubelet.create({name!r}, weights=...) gives it a new head" if is_headless else ""
    return f"; the nearest is {name}: {misfit}{advice}"


def _misfit(state: Mapping[str, Tensor], model: nn.Module) -> str:
    try:
        convert(state, model)
    except ValueError as error:
        return str(error)
    return "its keys and shapes fit, what they are for does not"


def _filled(name: str, known: Mapping[str, Any], given: Mapping[str, Any], checkpoint: files.Checkpoint) -> nn.Module:
    """A network with the weights of a checkpoint.

    Args:
        name: of the network.
        known: arguments that the checkpoint tells.
        given: arguments that the user gives; they go before the known ones.
        checkpoint: the weights.
    """
    state, header = checkpoint.state, checkpoint.header or {}
    if inflate.is_image_resnet(state):
        known = {"in_channels": state["conv1.weight"].shape[1]}
        if "fc.weight" in state:
            known["num_classes"] = len(state["fc.weight"])
    elif not known and "head.fc.weight" in state:
        known = {"num_classes": len(state["head.fc.weight"])}
    model: Any = _make(name, {**known, **given})
    if decoder := (header.get("architecture") or {}).get("decoder"):
        model = decoders.build(decoder, model, model.architecture["arguments"]["num_classes"])
    answered = known.get("num_classes", model.architecture["arguments"]["num_classes"])
    wanted = given.get("num_classes", answered)
    if (head := header.get("head")) is not None:
        answered = head["arguments"].get("num_classes", 0)
        wanted = given.get("num_classes", answered)
        sizes = {"num_classes": wanted} if answered else {}
        if answered or not wanted:
            model.head = heads.build({**head, "arguments": {**head["arguments"], **sizes}})
    if header.get("spec") is not None:
        model.spec = ClipSpec.from_dict(header["spec"])
    elif (row := _row(checkpoint, (name, dict(known)))) is not None:
        model.spec = row.spec
    model.spec = model.spec.with_channels(model.architecture["arguments"]["in_channels"])
    try:
        state = _adapted(state, model, checkpoint.path)
        has_head = any(key.startswith("head.") for key in state) or not list(model.head.parameters())
        if wanted != answered or not has_head:
            state = _with_new_head(state, model)
        model.load_state_dict(fitted(state, model, len(checkpoint.state)))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    if not has_head:
        log.warning("%s has no last layer: the head is new and must be trained", checkpoint.path)
    elif wanted != answered:
        model.spec = dataclasses.replace(model.spec, classes=())
        log.warning(
            "%s answers %d classes, %d are wanted: the head is new and must be trained",
            *(checkpoint.path, answered, wanted),
        )
    return model


def _adapted(state: Mapping[str, Tensor], model: Any, path: Path) -> dict[str, Tensor]:
    """The weights under the model's keys, for its number of input channels."""
    if inflate.is_image_resnet(state):
        log.info("%s is a 2D network: its kernels are spread over time", path)
        state = inflate.inflate(state, model)
    else:
        state = rename(state, model)
    spread = inflate.spread_channels(state, model.state_dict(), model.spec.in_channels)
    if any(spread[key] is not value for key, value in state.items()):
        log.info("%s: the first convolution is spread over %d channels", path, model.spec.in_channels)
    return spread


def _with_new_head(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The weights with the model's own for those of its head that depend on the number of classes, or are missing."""
    own = {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    replaced = {
        key
        for key, value in own.items()
        if key in state and value.ndim and len(state[key]) != len(value) and state[key][0].numel() == value[0].numel()
    }
    return {**own, **{key: value for key, value in state.items() if key not in replaced}}
