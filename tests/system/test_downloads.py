"""Downloads from a server on this machine: whole and right, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metarun.errors import MetarunError, with_keys
from metarun.system.downloads import download

CONTENT = b"archive" * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.zip").write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_is_fetched_to_a_folder_that_is_made(server: str, tmp_path: Path) -> None:
    download(f"{server}/a.zip", tmp_path / "new" / "folder" / "a.zip", hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "new" / "folder" / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(("name", "md5"), [("a.zip", "0" * 32), ("missing.zip", "0" * 32)])
def test_a_wrong_or_missing_file_leaves_nothing_and_says_what_to_do(
    server: str, tmp_path: Path, name: str, md5: str
) -> None:
    says = rf"{name} is not in .* and cannot be downloaded .* data\.root=FOLDER"
    with pytest.raises(MetarunError, match=says), with_keys():
        download(f"{server}/{name}", tmp_path / "new" / name, md5)
    assert list((tmp_path / "new").iterdir()) == []


def test_no_server_is_no_connection(tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match="no connection"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "0" * 32)


def test_a_folder_that_cannot_be_made_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MetarunError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "file" / "a.zip", "0" * 32)
