"""A file from an address: taken up again where it broke off, and checked against its hash."""

from __future__ import annotations

import hashlib
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from .terminal import progress

MIB = 1 << 20
TRIES = 5


def download(url: str, path: Path, sha256: str = "") -> None:
    """Fetch a file, with a bar for its MiB. Until it is whole and checked it is called `path` and `.part`.

    A line that breaks is taken up again a few times; what has come stays for the next call. Beside it, as `path` and
    `.part.version`, stays the version that the server names; where it has another by then, the file is begun anew.

    Args:
        url: where the file is.
        path: where it shall be.
        sha256: the hash, or its first digits; "" when nobody published one.

    Raises:
        ValueError: it did not come whole, or it has another hash and was removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for tries_left in reversed(range(TRIES)):
        before = _size(part)
        try:
            _fetch_rest(url, part)
            break
        except (OSError, HTTPException) as error:
            has_stalled = _size(part) in (0, before)  # less is of a file that was begun anew
            if has_stalled or not tries_left:
                kept = f"; its first {_size(part) / MIB:.0f} MiB are kept" if _size(part) else ""
                raise ValueError(f"could not download {url} ({error}){kept}") from error
    try:
        check(part, sha256)
    except ValueError as error:
        _remove(part)
        raise ValueError(f"{url}: {error}; what was downloaded is removed") from None
    part.replace(path)
    _version(part).unlink(missing_ok=True)


def check(path: Path, sha256: str) -> None:
    """Compare a file with its hash, or with the first digits of it.

    Raises:
        ValueError: the file has another.
    """
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise ValueError(f"its hash is {found[: len(sha256)]}, not the published {sha256}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version(part: Path) -> Path:
    """Where the answer's validator is kept, the ETag or the time of the last change."""
    return part.with_name(f"{part.name}.version")


def _remove(part: Path) -> None:
    part.unlink()
    _version(part).unlink(missing_ok=True)


def _validator(headers: HTTPMessage) -> str:
    """What `If-Range` may hold: no weak ETag, which files that differ may share. "" if there is nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _fetch_rest(url: str, part: Path) -> None:
    """Append what is missing of a file, all of it where the server cannot send a rest or has another file now."""
    done = _size(part)
    headers = {"User-Agent": "tubelet", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if _version(part).exists():
            headers["If-Range"] = _version(part).read_text()
    try:
        answer = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code != 416 or not done:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":  # nothing is missing
            return
        _remove(part)  # longer than the file: it is none of it
        _fetch_rest(url, part)
        return
    is_rest = answer.status == 206
    if done and is_rest and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        answer.close()
        _remove(part)
        _fetch_rest(url, part)
        return
    with answer, part.open("ab" if is_rest else "wb") as file:
        if not is_rest:
            _version(part).unlink(missing_ok=True)
            if validator := _validator(answer.headers):
                _version(part).write_text(validator)
        length = answer.headers.get("Content-Length")
        blocks = iter(lambda: answer.read(MIB), b"")
        written = 0
        for block in progress(blocks, f"{part.stem} (MiB)", total=-(-int(length) // MIB) if length else None):
            written += file.write(block)
    if length and written < int(length):
        raise ConnectionError(f"broke off after {written} of {length} bytes")
