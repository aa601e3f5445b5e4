"""Functional groups of enhanced DICOM files (PS3.3, C.7.6.16): what each of the frames in one file tells.

ITK shows no sequences. It takes frames in the order in which they are stored, and the first one's rescale for all.
The one file that imports pydicom.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from ..machine import needs
from .grid import VolumeError

__all__ = ["frames"]

_GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)
_TOLD = ("SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
         "RescaleIntercept", "RescaleSlope")  # fmt: skip
_OF_FILE = ("SOPClassUID", "PhotometricInterpretation")
_SHARED, _EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


def _pydicom() -> ModuleType:
    with needs("volume"):
        import pydicom
    return pydicom


def frames(path: Path) -> list[dict[str, str]]:
    """What the groups tell of each frame under names such as 0020|0032, with what they and the file tell of all.

    Empty where the file has no groups.

    Raises:
        VolumeError: it is damaged.
        ImportError: pydicom is missing; the message tells how to install it.
    """
    pydicom = _pydicom()
    try:
        with pydicom.config.disable_value_validation():
            held = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_OF_FILE, _SHARED, _EACH])
            shared = {**_told(held, _OF_FILE), **_grouped((held.get(_SHARED) or [{}])[0])}
            return [shared | _grouped(each) for each in held.get(_EACH) or ()]
    except pydicom.errors.InvalidDicomError:  # of before 1993, without groups
        return []
    except Exception as error:  # of many types, as a header may be damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VolumeError(f"{path}: its header cannot be read ({reason}); copy it again") from None


def _grouped(group: Any) -> dict[str, str]:
    told: dict[str, str] = {}
    for name in _GROUPS:
        for item in group.get(name) or ():
            told |= _told(item, _TOLD)
    return told


def _told(held: Any, names: tuple[str, ...]) -> dict[str, str]:
    """Elements by their tags, as DICOM writes them: numbers between backslashes."""
    found = (held[name] for name in names if name in held)
    return {
        f"{each.tag.group:04x}|{each.tag.element:04x}": "\\".join(map(str, each.value if each.VM > 1 else [each.value]))
        for each in found
    }
