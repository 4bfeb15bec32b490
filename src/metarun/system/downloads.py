"""Downloading a file once, with a progress bar and a checksum, and without half-written files."""

from __future__ import annotations

import sys
from pathlib import Path

from metarun.errors import MetarunError


def download(url: str, path: Path, md5: str) -> None:
    """Download url to path and check its MD5.

    Raises:
        MetarunError: the file cannot be downloaded or written, or its checksum is wrong.
    """
    import pooch
    from requests import ConnectionError, RequestException

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30),
        )
    except (RequestException, OSError, ValueError) as error:
        reason = "no connection" if isinstance(error, ConnectionError) else str(error).splitlines()[0]
        raise MetarunError(
            f"{path.name} is not in {path.parent} and cannot be downloaded from {url} ({reason}): "
            f"put it there, or type @source.root=FOLDER or METARUN_DATA=FOLDER to say where it is"
        ) from error
