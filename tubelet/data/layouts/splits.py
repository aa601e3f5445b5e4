"""Groups of samples that belong on one side, and the part that is set aside to validate on."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..sample import Sample, Span, Task

VAL_FRACTION = 0.2
# UCF101 v_Archery_g07_c03: clips of one g are cut from one video; Kinetics -3B32lodo2M_000059_000069: of one on YouTube
_GROUP = re.compile(r"(?:(.+_g\d+)_c\d+|([\w-]{11})_\d{6}_\d{6})(?:\.\w+)*$")


def group_in(name: str) -> str:
    """The group that the name of a video tells in the manner of UCF101 or Kinetics, else nothing."""
    found = _GROUP.match(name)
    return (found[1] or found[2]) if found else ""


def labels_of(sample: Sample, task: Task) -> set[int]:
    """All classes of a sample; none of a mask, which would have to be read."""
    target = sample.target
    if isinstance(target, int):
        return {target}
    if isinstance(target, Path):
        return set()
    found: set[int] = set()
    for each in target:
        found.update((each,) if isinstance(each, int) else (each.target,) if isinstance(each, Span) else each.targets)
    return found


def set_aside(
    samples: Sequence[Sample], classes: Sequence[str], task: Task, root: Path
) -> tuple[list[Sample], list[Sample]]:
    """Training and validation parts: of each class, the fifth of the groups whose names hash lowest.

    A hash of the name, so that adding videos moves few of the others. A group is never cut, and no class is left
    without a group to learn from.

    Raises:
        ValueError: a class to tell from others has one group only.
    """
    groups = [sample.group or str(sample.path) for sample in samples]
    members: dict[str, set[int]] = {}
    for group, sample in zip(groups, samples, strict=True):
        labels = labels_of(sample, task) or {-1}  # what shows no class is a kind of its own
        if members.setdefault(group, labels) is not labels:
            members[group] |= labels
    is_named = {sample.group for sample in samples}

    def rank(group: str) -> bytes:
        # the group settles ties: a set of strings has another order in each process
        name = group if group in is_named else Path(group).name
        return hashlib.sha256(name.encode()).digest() + group.encode()

    by_class: dict[int, list[str]] = defaultdict(list)
    for group, labels in members.items():
        for label in labels:
            by_class[label].append(group)
    for label in sorted(by_class):
        by_class[label].sort(key=rank)
        if task == "classify" and len(by_class[label]) < 2:
            (group,) = by_class[label]
            raise ValueError(
                f"{root}: one {'group' if group in is_named else 'video'} only ({group}) for class {classes[label]}, "
                "so none is left to validate on; add videos or give a validation part"
            )
    left = {label: len(of_class) for label, of_class in by_class.items()}
    aside: set[str] = set()
    for label in sorted(by_class):
        wanted = max(1, round(VAL_FRACTION * len(by_class[label]))) - sum(group in aside for group in by_class[label])
        for group in by_class[label]:
            if wanted > 0 and group not in aside and all(left[each] > 1 for each in members[group]):
                aside.add(group)
                wanted -= 1
                for each in members[group]:
                    left[each] -= 1
    train: list[Sample] = []
    val: list[Sample] = []
    for group, sample in zip(groups, samples, strict=True):
        (val if group in aside else train).append(sample)
    return train, val
