"""Downloading a file once: from the first server that has it, going on where an attempt was cut off."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metarun.errors import MetarunError
from metarun.system.files import lock, naming

_CHUNK = 2**20
_SECONDS = 30  # without an answer
_ATTEMPTS = 3  # of a server that breaks off
_MOST = 2**40


class _FailedError(Exception):
    """A server did not give the file; the message says why."""


class _CutError(_FailedError):
    """A server broke off: it may be asked for the rest."""


def download(urls: str | Sequence[str], path: Path, md5: str, size: int | None = None) -> None:
    """Download a file to path, from the first of some servers that has it, and check it.

    What an earlier attempt has fetched is kept beside it, and not fetched again. Processes that start at once
    fetch it once.

    Args:
        urls: one address or several, the best first.
        path: where to write it.
        md5: its MD5, 32 hexadecimal digits.
        size: its bytes, if they are known.

    Raises:
        MetarunError: no server has it, its checksum is wrong, or it cannot be written.
    """
    servers = [urls] if isinstance(urls, str) else list(urls)
    problems = []
    was_there = path.parent.is_dir()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path):
            for url in servers:
                if path.exists():
                    return
                try:
                    _from(url, path, md5, size)
                except _FailedError as error:
                    problems.append((url, str(error)))
                else:
                    return
    except OSError as error:  # the disk is full, or the folder cannot be written
        raise _not_there(path, f"{error.filename or path}: {error.strerror}") from error
    finally:
        path.with_suffix(".lock").unlink(missing_ok=True) if path.parent.is_dir() else None
        if not was_there:
            with suppress(OSError):  # something was fetched
                path.parent.rmdir()
    raise _not_there(path, "; ".join(f"from {url} ({why})" for url, why in problems))


def _not_there(path: Path, why: str) -> MetarunError:
    return MetarunError(
        f"{path.name} is not in {path.parent} and cannot be downloaded {why}: "
        f"put it there, or type @source.root=FOLDER or METARUN_DATA=FOLDER to say where it is"
    )


def _from(url: str, path: Path, md5: str, size: int | None) -> None:
    """Fetch the file from one server; the bytes that have come are kept, unless they are wrong."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            _fetch(url, part, size)
            break
        except _CutError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(attempt)
    found = md5_of(part)
    if found != md5:
        with part.open("rb") as file:
            is_page = file.read(64).lstrip()[:1] == b"<"
        part.unlink()
        raise _FailedError("a web page came instead" if is_page else f"its MD5 is {found}, not {md5}")
    part.replace(path)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, 32 hexadecimal digits."""
    found = hashlib.md5()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Append what is missing to the part of a file that is there."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # it is all there, or too long: the checksum tells
            if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
                raise _FailedError(f"{answer.status_code} {answer.reason}")
            goes_on = answer.status_code == requests.codes.partial_content
            _append(answer, part, have if goes_on else 0, size)
    except requests.ConnectionError as error:
        raise (_CutError if have else _FailedError)("no connection") from error
    except requests.RequestException as error:
        raise _CutError(" ".join(str(error).split())[:100]) from error


def _append(answer: Any, part: Path, start: int, size: int | None) -> None:
    """Write an answer's content behind the first `start` bytes, with a progress bar."""
    from urllib3.exceptions import HTTPError

    said = answer.headers.get("Content-Length")
    total = size or (start + int(said) if said and said.isdigit() else None)
    bar = tqdm(
        total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, disable=None, leave=False
    )
    with bar, naming(part), part.open("r+b" if part.exists() else "w+b") as file:
        file.seek(start)
        file.truncate()
        written = start
        try:
            # As it comes, so that nothing is lost where it ends too early.
            while chunk := answer.raw.read1(_CHUNK):
                written += len(chunk)
                if written > (total or _MOST):
                    file.seek(0)
                    file.truncate()
                    raise _FailedError(
                        f"more than {total:,} bytes came" if total else "its content does not end"
                    )
                file.write(chunk)
                bar.update(len(chunk))
        except HTTPError as error:
            if total is None:
                raise _CutError(f"cut off after {written:,} bytes") from error
        file.flush()
        os.fsync(file.fileno())
    if total is not None and written < total:
        raise _CutError(f"cut off after {written:,} of {total:,} bytes")
