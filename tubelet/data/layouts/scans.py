"""Data sets of scans, with masks or classes: the Decathlon's, nnU-Net's, MONAI's lists, tables, and folders.

What is read, by what lies there:

- `dataset.json` of the Medical Segmentation Decathlon (Antonelli et al. 2022), or a list of MONAI: `training`,
  `validation` and `test` with {image, label, fold};
- nnU-Net v2's `dataset.json` (Isensee et al. 2021) with `imagesTr/case_0000.nii.gz`, `labelsTr`, `splits_final.json`,
  or with the files listed in `dataset`;
- a table with columns image, label and maybe split, fold, group;
- `images/` and `labels/`, matched by name;
- a folder for each class.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...processes import Failed, each
from ...terminal import counted, progress
from .. import indexes
from ..sample import Sample, Task, VideoData, shared_groups
from ..volume import SUFFIXES, is_dicom_name, is_scan, read_mask
from .classes import find_classes
from .collect import collect
from .lists import SEPARATORS
from .opposites import mirrors
from .rows import Found, Row, fold_of, split_of
from .splits import set_aside
from .text import LISTS, OTHER_GROUPS, SPLITS, head, lines_in, read_json, read_text

log = logging.getLogger("tubelet")

BACKGROUND = "background"
IGNORE = "ignore"  # nnU-Net's name for voxels that do not count
IMAGES = ("images", "image", "imagestr")
LABELS = ("labels", "label", "masks", "mask", "labelstr")
COLUMNS = {
    "image": ("image", "images", "scan", "volume", "path", "file", "filename"),
    "label": ("label", "labels", "mask", "masks", "segmentation", "class", "target"),
    "split": ("split", "subset", "set", "part"),
    "fold": ("fold",),
    "group": ("group", "patient", "subject", "person", "source", *OTHER_GROUPS),
}
LABELS_VERSION = "labels 1"  # of what is remembered of a mask
OF_VIDEOS = ("path", "file", "filename")  # columns that lists of videos have as well, which may be arrays
PLAIN = (".npy", ".npz", ".tif", ".tiff")  # in a folder without a list these may be features, videos, pictures
PROBES = 100  # folders without a scan, after which there are taken to be none: data sets of frames have millions
SPARSE = 4  # times as many classes as labels in the masks, from which the labels are no numbers of classes
TIME_LIMIT_S = 600.0  # for the reading of one mask
_JSON = re.compile(rb'"(image|channel_names|file_ending|modality)"\s*:')
_ENDING = re.compile(r"[-_. ](image|img|mask|label|seg|segmentation)$", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_NUMBERED = re.compile(rf"({'|'.join(COLUMNS['image'])})[-_ ]?\d+")


class Case(NamedTuple):
    """One scan as its annotation has it.

    Attributes:
        images: file or folder of each channel, or of all.
        label: path of a mask, or name of a class.
        split: train, val, test, or None where nothing says so.
        fold: in which it validates; None where nothing says so.
        group: as in `Sample`.
        where: the annotation and the row, for a reader.
        name: by which nnU-Net's folds list it.
    """

    images: tuple[Path, ...]
    label: Path | str
    split: str | None = None
    fold: int | None = None
    group: str = ""
    where: str = ""
    name: str = ""


@dataclass(frozen=True)
class Cases:
    """What an annotation of scans says.

    Attributes:
        layout: its name, and the files it was read from.
        home: its folder.
        cases: the scans that have a label.
        file: the annotation, None where folders say all.
        classes: names by their number in the masks; None: a class file or the masks tell.
        folds: which cases, by their names, are in train and val of each fold, where a file lists them.
        ignored: as in `VideoData`.
    """

    layout: str
    home: Path
    cases: Sequence[Case]
    file: Path | None = None
    classes: tuple[str, ...] | None = None
    folds: Sequence[Mapping[str, Sequence[str]]] = ()
    ignored: int | None = None


def open_scans(path: Path, task: Task | None, fold: int | None, skip_missing: bool) -> VideoData | None:
    """The scans that a path holds, as `open_data` takes it; None where it holds none.

    The part to validate on is what the data says: its own part, or the scans of one fold, `fold` or the last one. Where
    all scans are of one fold they are the part `val`, and there is none to train on. Data that says nothing has a fifth
    set aside.

    Raises:
        ValueError: files that are not there, a mask without an image, a name that is there twice, a row that cannot be
            read, no such fold or task.
    """
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        return None
    if not found.cases:
        raise ValueError(f"{path}: {found.layout} without a scan that has a label; give masks or classes")
    is_mask = [isinstance(case.label, Path) for case in found.cases]
    if any(is_mask) and not all(is_mask):
        case = found.cases[is_mask.index(False)]
        raise ValueError(f"{case.where}: label {case.label!r} is no mask, others are; give masks alone, or classes")
    held: Task = "segment" if is_mask[0] else "classify"
    if task and task != held:
        raise ValueError(f"{path}: {found.layout} is read as {held}, not as {task}; give task {held}")
    cases, missing = _there(path, found.cases, skip_missing)
    _check_once(cases)
    cases = _parted(path, replace(found, cases=cases), fold)
    data = _classified(path, found, cases) if held == "classify" else _segmented(path, found, cases)
    return replace(data, is_volume=True, missing=missing, missing_of={})  # `collect` saw none of these


def labels_in(masks: Iterable[Path]) -> dict[Path, dict[int, int]]:
    """How many voxels of each mask have each label. Every mask is read once, and remembered until it changes.

    Raises:
        ValueError: a mask cannot be read, or holds labels below 0.
    """
    found: dict[Path, dict[int, int]] = {}
    states: dict[Path, tuple[os.stat_result, str]] = {}
    for path in masks:
        states[path] = path.stat(), f"{LABELS_VERSION} {indexes.footprint(path)}"
        known = indexes.load(path, *states[path])
        if known is not None:
            found[path] = dict(known.reshape(-1, 2).tolist())
    waiting = [path for path in states if path not in found]
    if waiting:
        with closing(each(_labels, waiting, time_limit_s=TIME_LIMIT_S)) as counts:
            for path, answer in progress(counts, "reading masks", len(waiting)):
                if isinstance(answer, Failed):
                    raise ValueError(answer.reason if str(path) in answer.reason else f"{path}: {answer.reason}")
                found[path] = answer
                numbers = np.array(list(answer.items()), np.int64).ravel()
                indexes.save(path, *states[path], numbers)
    return found


def is_beside_images(folder: str, folders: Iterable[str]) -> bool:
    """Whether a folder is named as one of labels, among folders of which one is named as theirs of images."""
    names = {name.lower() for name in folders}
    return folder.lower() in (*LABELS, "labelsts") and not names.isdisjoint((*IMAGES, "imagests"))


def labels_named(root: Path) -> set[Path]:
    """The masks, links resolved, that annotations in a folder name as labels, of those that can be read."""
    files = [file for file in root.iterdir() if file.suffix.lower() in {*LISTS, ".json"} and file.is_file()]
    cases: list[Case] = []
    for file in files:
        with suppress(ValueError, OSError, csv.Error):
            cases += getattr(_of_file(file), "cases", ())
    return {case.label.resolve() for case in cases if isinstance(case.label, Path)}


def _labels(path: Path) -> dict[int, int]:
    labels, counts = np.unique(read_mask(path, None).array, return_counts=True)
    if labels[0] < 0:
        raise ValueError(f"{path}: label {labels[0]}; classes count from 0, correct the mask")
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


# Which annotation there is


def _of_file(file: Path) -> Cases | None:
    if file.suffix.lower() == ".json":
        return _of_json(file)
    return _of_table(file) if file.suffix.lower() in LISTS else None


def _of_folder(root: Path) -> Cases | None:
    """A `dataset.json`, then any one list of scans, then folders of images and labels, then class folders."""
    if (file := root / "dataset.json").is_file() and (found := _of_json(file)):
        return found
    lists = sorted(file for file in root.iterdir() if file.suffix.lower() in {*LISTS, ".json"} and file.is_file())
    fit = [found for file in lists if (found := _of_file(file))]
    if len(fit) > 1:
        named = ", ".join(found.layout for found in fit)
        raise ValueError(f"{root}: {counted(len(fit), 'list')} of scans ({named}); give the one that is meant")
    return fit[0] if fit else _of_pairs(root) or _of_classes(root)


def _of_json(file: Path) -> Cases | None:
    if not _JSON.search(file.read_bytes()):  # of a hundred classes the names alone fill what `head` reads
        return None
    held = read_json(file)
    if not isinstance(held, dict):
        return None
    labels = dict(held["labels"]) if isinstance(held.get("labels"), dict) else {}
    is_nnunet = "channel_names" in held or "file_ending" in held
    ignored = labels.pop(IGNORE, None) if is_nnunet else None
    classes = _named(file, labels) if isinstance(held.get("labels"), dict) else None
    if ignored is not None and (classes is None or ignored != len(classes) or len(classes) < 2):
        raise ValueError(f"{file}: labels {held['labels']}; {IGNORE} has the number after that of the last class")
    if is_nnunet:
        return replace(_of_nnunet(file, held, classes), ignored=ignored)
    parts = {key: held[key] for key in held if key.lower() in SPLITS and isinstance(held[key], list)}
    cases = [
        case
        for key, items in parts.items()
        for number, item in enumerate(items)
        if (case := _of_item(file, item, SPLITS[key.lower()], f"{file}, {key} {number}"))
    ]
    is_decathlon = "modality" in held
    if not cases and not is_decathlon:
        return None
    name = "Decathlon" if is_decathlon else "MONAI list"
    return Cases(f"{name} ({file.name})", file.parent, cases, file, classes)


def _of_item(file: Path, item: Any, split: str | None, where: str) -> Case | None:
    """An entry of a list in json; None without a label."""
    if not isinstance(item, dict) or item.get("label") is None:
        return None
    images, label, fold = item.get("image"), _whole(item["label"]), _whole(item.get("fold"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise ValueError(f"{where}: image {item.get('image')!r}; give a path, or a list of one for each channel")
    if not isinstance(label, str | int) or not isinstance(fold, int | None):
        raise ValueError(f"{where}: label {label!r}, fold {fold!r}; give a path or a class, and a whole number")
    paths = tuple(_placed(file.parent, image) for image in images)
    return Case(paths, _label(file.parent, str(label)), split, fold, where=where)


def _whole(value: Any) -> Any:
    """A whole number that is written as 1.0 as an int, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _of_nnunet(file: Path, held: Mapping[str, Any], classes: tuple[str, ...] | None) -> Cases:
    home, ending = file.parent, held.get("file_ending", ".nii.gz")
    num_channels = len(held.get("channel_names") or {"0": ""})
    listed = held.get("dataset")
    cases = _of_dataset(file, listed) if isinstance(listed, dict) and listed else _of_channels(file, ending)
    for case in cases:
        if len(case.images) != num_channels:
            raise ValueError(
                f"{case.images[0].parent}: {counted(len(case.images), 'channel')} of {case.name}, and dataset.json "
                f"names {num_channels}; put them there"
            )
    splits = home / "splits_final.json"
    folds = read_json(splits) if splits.is_file() else ()
    return Cases("nnU-Net (dataset.json)", home, cases, file, classes, folds)


def _of_dataset(file: Path, listed: Mapping[str, Any]) -> list[Case]:
    """What nnU-Net has as {name: {images, label}}, wherever the files lie."""
    cases = []
    for name, item in listed.items():
        entry = {"image": item.get("images"), "label": item.get("label")} if isinstance(item, dict) else None
        if case := _of_item(file, entry, None, f"{file}, dataset {name}"):
            cases.append(case._replace(name=name))
    return cases


def _of_channels(file: Path, ending: str) -> list[Case]:
    """The masks of nnU-Net's folders, each with the files of its channels."""
    home, cases = file.parent, []
    for images, labels, split in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
        if not (home / labels).is_dir() or not (home / images).is_dir():
            continue
        channels: dict[str, list[Path]] = {}
        for image in sorted((home / images).glob(f"[!.]*{ending}")):
            if match := _CHANNEL.fullmatch(image.name.removesuffix(ending)):
                channels.setdefault(match[1], []).append(image)
        masks = {mask.name.removesuffix(ending): mask for mask in sorted((home / labels).glob(f"[!.]*{ending}"))}
        _check_masks(masks.keys() - channels.keys(), home / labels, f"{images}/NAME_0000{ending}")
        cases += [Case(tuple(channels[name]), mask, split, where=str(file), name=name) for name, mask in masks.items()]
    return cases


def _of_table(file: Path) -> Cases | None:
    """A table whose header names images and labels, and whose first image is a scan."""
    begin = lines_in(head(file))[:2]
    if len(begin) < 2:
        return None
    for separator in SEPARATORS:
        header, first = csv.reader(begin, delimiter=separator)
        places = _columns(header)
        if {"image", "label"} <= places.keys() and len(first) > places["image"]:
            image = first[places["image"]].strip()
            name = header[places["image"]].strip().lower()
            if image.lower().endswith(PLAIN) and name in OF_VIDEOS:
                return None
            if not _is_scan_name(image) and not is_scan(_placed(file.parent, image)):
                return None
            _check_columns(file, header, first)
            lines = (line if line.strip() else "" for line in read_text(file).split("\n"))
            rows = [row for row in enumerate(csv.reader(lines, delimiter=separator), start=1) if row[1]]
            cases = [_of_row(file, cells, places, number) for number, cells in rows[1:]]
            return Cases(f"table of scans ({file.name})", file.parent, cases, file)
    return None


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Place of each column of `COLUMNS`; of several names for one the first counts."""
    cells = [cell.strip().lower() for cell in header]
    found = {name: [cells.index(alias) for alias in aliases if alias in cells] for name, aliases in COLUMNS.items()}
    return {name: places[0] for name, places in found.items() if places}


def _check_columns(file: Path, header: Sequence[str], first: Sequence[str]) -> None:
    """Refuse a table of which a column that counts would be left out."""
    cells = {name.strip().lower(): cell.strip() for name, cell in zip(header, first, strict=False)}
    if more := next(filter(_NUMBERED.fullmatch, cells), None):
        raise ValueError(
            f"{file}: column {more}: a table has one file for each scan; give channels as its fourth axis, or a list "
            "of MONAI (json), whose image may be several"
        )
    kinds = {isinstance(_label(file.parent, cells[name]), Path): name for name in COLUMNS["label"] if cells.get(name)}
    if len(kinds) > 1:
        raise ValueError(f"{file}: column {kinds[False]} has classes, column {kinds[True]} masks; remove one of them")


def _of_row(file: Path, cells: Sequence[str], places: Mapping[str, int], line: int) -> Case:
    where = f"{file}, row {line}"
    values = {name: cells[place].strip() for name, place in places.items() if place < len(cells)}
    if not values.get("image") or not values.get("label"):
        raise ValueError(f"{where} ({','.join(cells)}): no image or no label; complete it or leave it out")
    try:
        split, fold = split_of(values.get("split", "")), fold_of(values.get("fold", ""))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    image, label = _placed(file.parent, values["image"]), _label(file.parent, values["label"])
    return Case((image,), label, split, fold, values.get("group", ""), where)


def _of_pairs(root: Path) -> Cases | None:
    """Folders of images and of labels, alone, in folders of parts, or with these in them."""
    inner = {folder.name.lower(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    homes = {SPLITS[name]: _pair(folder) for name, folder in inner.items() if name in SPLITS}
    pairs: list[tuple[str | None, tuple[Path, Path]]] = [(split, pair) for split, pair in homes.items() if pair]
    if not pairs and (pair := _pair(root)):
        pairs = [(None, pair)]
        if {"imagests", "labelsts"} <= inner.keys():
            pairs.append(("test", (inner["imagests"], inner["labelsts"])))
    cases = []
    for split, (images, labels) in pairs:
        named, masks = _by_name(images), _by_name(labels)
        if not named or not masks:
            return None
        _check_masks(masks.keys() - named.keys(), labels, f"{images.name}/NAME.nii.gz")
        if bare := sorted(named.keys() - masks.keys()):
            log.warning("%s: no mask for %s, first %s; left out", root, counted(len(bare), "image"), named[bare[0]])
        for name in sorted(masks):
            part = SPLITS.get(name.partition("/")[0].lower()) if "/" in name else None
            cases.append(Case((named[name],), masks[name], split or part, where=str(masks[name])))
    return Cases("folders of images and labels", root, cases) if cases else None


def _pair(root: Path) -> tuple[Path, Path] | None:
    inner = {folder.name.lower(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    images, labels = (next((inner[name] for name in names if name in inner), None) for names in (IMAGES, LABELS))
    return (images, labels) if images and labels else None


def _by_name(root: Path) -> dict[str, Path]:
    """Scans by their path below a folder, without endings.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Path] = {}
    for path in _scans(root):
        name = _ENDING.sub("", _without_suffix(path.relative_to(root).as_posix()))
        if name in found:
            raise ValueError(f"{found[name]} and {path.name} have one name; remove or rename one")
        found[name] = path
    return found


def _of_classes(root: Path) -> Cases | None:
    """A folder of scans for each class, alone or under folders of parts."""
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    parts = [folder for folder in folders if folder.name.lower() in SPLITS]
    of_class: list[tuple[str | None, Path]] = [(None, folder) for folder in folders]
    if parts and len(parts) == len(folders):
        groups = [(SPLITS[part.name.lower()], inner) for part in parts for inner in sorted(part.iterdir())]
        of_class = [(split, folder) for split, folder in groups if folder.is_dir() and not folder.name.startswith(".")]
    cases: list[Case] = []
    for split, folder in of_class:
        scans = [scan for scan in _scans(folder) if not scan.name.lower().endswith(PLAIN)]
        if is_scan(folder):
            raise ValueError(f"{folder}: slices of DICOM series; put each series into a folder of its own in it")
        if not scans:
            if cases:
                raise ValueError(f"{folder}: no scans ({' '.join(sorted(SUFFIXES))}); fill or remove it")
            return None
        cases += [Case((scan,), folder.name, split, where=str(scan)) for scan in scans]
    return Cases("class folders of scans", root, cases) if cases else None


def _scans(root: Path) -> Iterator[Path]:
    """Scans below a folder: files, and folders that are DICOM series. A link to a folder is followed once."""
    seen: set[str] = set()
    has_any = False
    for place, folders, files in os.walk(root, followlinks=True):
        if not has_any and len(seen) > PROBES:
            return
        names = sorted(name for name in files if not name.startswith("."))
        if Path(place) != root and any(map(is_dicom_name, names)) and is_scan(place):
            folders.clear()
            has_any = True
            yield Path(place)
            continue
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        scans = [Path(place, name) for name in names if _is_scan_name(name)]
        scans = [path for path in scans if path.suffix.lower() != ".dcm" or is_scan(path)]
        has_any |= bool(scans)
        yield from scans


def _is_scan_name(name: str) -> bool:
    return name.lower().endswith(tuple(SUFFIXES))


def _without_suffix(name: str) -> str:
    endings = [ending for ending in SUFFIXES if name.lower().endswith(ending)]
    return name[: -max(map(len, endings))] if endings else name


def _placed(home: Path, written: str) -> Path:
    """A path as it is written, beside the annotation or from where the reader is."""
    path = home / written
    return Path(written) if not path.exists() and Path(written).exists() else path


def _label(home: Path, written: str) -> Path | str:
    """The path of a mask, or the name of a class: of one word, even where a folder of DICOM files is called so."""
    placed = _placed(home, written)
    return placed if _is_scan_name(written) or ("/" in written and is_scan(placed)) else written


def _named(file: Path, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names by number, of {number: name} (Decathlon) or {name: number} (nnU-Net).

    Raises:
        ValueError: they are of neither form.
    """
    if all(number.isdecimal() and isinstance(name, str) for number, name in labels.items()):
        names = {int(number): name for number, name in labels.items()}
    elif all(isinstance(number, int) for number in labels.values()):
        names = {number: name for name, number in labels.items()}
    else:
        raise ValueError(f"{file}: labels {dict(labels)}; give {{name: number}} without regions")
    if not names or min(names) < 0 or len(names) < len(labels) or max(names) >= SPARSE * (len(names) + 1):
        raise ValueError(f"{file}: labels {dict(labels)}; classes count from 0, each once and with few gaps")
    return _complete(names)


def _complete(names: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(names.get(i, f"class {i}" if i else BACKGROUND) for i in range(max(names) + 1))


# What is in the parts


def _check_masks(lonely: Iterable[str], folder: Path, wanted: str) -> None:
    if names := sorted(lonely):
        told = f"{counted(len(names), 'mask')} without an image, first {names[0]}"
        raise ValueError(f"{folder}: {told}; put {wanted} there or remove the mask")


def _there(path: Path, cases: Sequence[Case], skip: bool) -> tuple[list[Case], int]:
    """The cases whose files are all there, and how many others there are."""
    lost: dict[int, Path] = {}
    for i, case in enumerate(cases):
        for file in (*case.images, case.label):
            if isinstance(file, Path) and not file.exists():
                lost.setdefault(i, file)
    if lost:
        first, gone = next(iter(lost.items()))
        told = f"{path}: files of {len(lost):,} of {len(cases):,} scans are not there, first {gone}"
        if not skip or len(lost) == len(cases):
            raise ValueError(f"{told} ({cases[first].where}); put them there or correct the rows")
        log.warning("%s; they are left out", told)
    return [case for i, case in enumerate(cases) if i not in lost], len(lost)


def _check_once(cases: Sequence[Case]) -> None:
    first: dict[Path, Case] = {}
    for case in cases:
        if (other := first.setdefault(case.images[0].absolute(), case)) is not case:
            raise ValueError(f"{case.where}: {case.images[0]} is there twice, first in {other.where}; remove one")


def _parted(path: Path, found: Cases, fold: int | None) -> list[Case]:
    """The cases with the part that a fold gives them."""
    cases = list(found.cases)
    open_ = [case for case in cases if case.split in (None, "train")]
    if found.folds:
        return _by_list(path, found, fold)
    numbers = sorted({case.fold for case in open_ if case.fold is not None})
    if any(case.split == "val" for case in cases) or not numbers:
        if fold is not None:
            raise ValueError(f"{path}: fold {fold}, but {found.layout} has no folds to choose from; leave it out")
        return cases
    if bare := [case for case in open_ if case.fold is None]:
        raise ValueError(f"{bare[0].where}: no fold, others have one; give each scan its fold")
    chosen = _chosen(path, fold, numbers)
    if len(numbers) == 1:
        log.info("%s: all scans are of fold %d: they are the part val, and none is to train on", path, chosen)
    part = {number: "val" if number == chosen else "train" for number in numbers}
    return [case if case.split == "test" else case._replace(split=part[case.fold or 0]) for case in cases]


def _by_list(path: Path, found: Cases, fold: int | None) -> list[Case]:
    """As nnU-Net's splits_final.json says; scans that are in neither part of the fold are left out."""
    try:
        parts = [{name: part for part in ("train", "val") for name in held[part]} for held in found.folds]
    except (KeyError, TypeError):
        raise ValueError(f"{found.home / 'splits_final.json'}: no list of {{train, val}}; get the file again") from None
    chosen = parts[_chosen(path, fold, range(len(parts)))]
    named = {case.name: case for case in found.cases}
    if unknown := sorted(chosen.keys() - named.keys()):
        raise ValueError(f"{found.home / 'splits_final.json'}: no scan {unknown[0]} is there; correct the file")
    given = [case._replace(split=chosen[name]) for name, case in named.items() if name in chosen]
    return [*given, *(case for name, case in named.items() if name not in chosen and case.split == "test")]


def _chosen(path: Path, fold: int | None, numbers: Sequence[int]) -> int:
    if fold is not None and fold not in numbers:
        raise ValueError(f"{path}: fold {fold}; there is {', '.join(map(str, numbers))}")
    return numbers[-1] if fold is None else fold


def _classified(path: Path, found: Cases, cases: Sequence[Case]) -> VideoData:
    """Classes, numbers and parts are made as those of videos are."""
    file = found.file or Path()
    rows = [Row(case.images[0], case.label, case.split, group=case.group, file=file) for case in cases]
    classes = found.classes if found.classes and {str(case.label) for case in cases} <= {*found.classes} else None
    data = collect(path, Found(found.layout, found.home, rows, classes=classes, is_volume=True), False)
    more = {case.images[0]: case.images[1:] for case in cases}
    splits = {part: [replace(each, more=more[each.path]) for each in held] for part, held in data.splits.items()}
    return replace(data, splits=splits)


def _segmented(path: Path, found: Cases, cases: Sequence[Case]) -> VideoData:
    beside = dict.fromkeys([path, found.home] if path.is_dir() else [found.home])
    told = find_classes(beside, [found.file] if found.file else [], has_own=found.classes is not None)
    classes = found.classes
    if classes is None:
        classes = told.classes if told else None
        if classes is None or BACKGROUND not in map(str.lower, classes):
            classes = _from_masks(cases, classes)
    splits: dict[str, list[Sample]] = {}
    for case in cases:
        sample = Sample(case.images[0], case.label, group=case.group, more=case.images[1:])  # type: ignore[arg-type]
        splits.setdefault(case.split or "train", []).append(sample)
    is_parted_here = "train" in splits and "val" not in splits
    if is_parted_here:
        splits["train"], splits["val"] = set_aside(splits["train"], classes, "segment", path)
    data = VideoData(
        classes, splits, "segment", found.layout, mirrors(classes, told),
        is_parted_here=is_parted_here, ignored=found.ignored,
    )  # fmt: skip
    if shared := shared_groups(data):
        group, parts = next(iter(shared.items()))
        log.warning("%s: %s in several parts, first %s in %s; scores will be too good",
                    path, counted(len(shared), "group"), group, " and ".join(parts))  # fmt: skip
    return data


def _from_masks(cases: Sequence[Case], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Class names by the labels that the masks hold; names of a class file may leave the background out."""
    masks = labels_in(case.label for case in cases if isinstance(case.label, Path))
    total: Counter[int] = Counter()
    highest: dict[int, Path] = {}
    for path, counts in masks.items():
        total.update(counts)
        highest.setdefault(max(counts), path)
    most = max(highest)
    if names is not None:
        names = (BACKGROUND, *names) if most == len(names) else names
        if most >= len(names):
            raise ValueError(f"{highest[most]}: label {most}, and the class file has {len(names)} names; add it there")
        return names
    if most == 0:
        raise ValueError(f"{highest[0]} and all other masks hold the background alone; give masks with labels")
    if most >= SPARSE * len(total):
        raise ValueError(
            f"{highest[most]}: label {most}, and all masks hold {len(total)} labels; number the classes from 0, 1, ..."
        )
    return _complete({most: f"class {most}"})
