"""Downloads from a server on this machine: whole and right, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from metarun.errors import MetarunError, with_keys
from metarun.system import downloads
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
    assert not (tmp_path / "new").exists()


class Awkward(BaseHTTPRequestHandler):
    """A server that does what servers do."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        self.asked.append(f"{self.path} {given}")
        start = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
        content, said = CONTENT[start:], len(CONTENT) - start
        if self.path == "/cut":  # a thousand bytes at a time
            content = content[:1000]
        elif self.path == "/always-cut":
            content, start = b"", 0
        elif self.path == "/longer":
            content, said = content + b"more" * 1000, len(content) + 4000
        elif self.path == "/whole":  # which does not know ranges
            content, said, start = CONTENT, len(CONTENT), 0
        elif self.path == "/page":
            content, start = b"<html>Quota exceeded</html>", 0
            said = len(content)
        elif self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(said))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def awkward(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Awkward.asked.clear()
    monkeypatch.setattr(downloads.time, "sleep", Awkward.asked.count)
    with ThreadingHTTPServer(("127.0.0.1", 0), Awkward) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_download_that_is_cut_off_goes_on_where_it_was(
    awkward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_ATTEMPTS", 3)
    path = tmp_path / "a.zip"
    with pytest.raises(MetarunError, match=r"cut off after 3,000 of 7,000 bytes"):
        download(f"{awkward}/cut", path, MD5)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:3000]
    monkeypatch.setattr(downloads, "_ATTEMPTS", 9)
    download(f"{awkward}/cut", path, MD5)
    assert path.read_bytes() == CONTENT
    assert Awkward.asked == [f"/cut {f'bytes={n}-' if n else None}" for n in range(0, 7000, 1000)]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_a_server_that_knows_no_ranges_starts_again(awkward: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:10])
    download(f"{awkward}/whole", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("gone", "404 Not Found"),
        ("page", "a web page came instead"),
        ("longer", "its MD5 is"),
        ("always-cut", "cut off after 0 of 7,000 bytes"),
    ],
)
def test_the_next_server_is_asked(awkward: str, tmp_path: Path, first: str, why: str) -> None:
    download([f"{awkward}/{first}", f"{awkward}/good"], tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    with pytest.raises(MetarunError) as error:
        download([f"{awkward}/{first}", f"{awkward}/gone"], tmp_path / "b.zip", MD5)
    assert f"from {awkward}/{first} ({why}" in str(error.value)
    assert str(error.value).count("\n") == 0


def test_a_server_that_gives_more_than_there_is_fills_no_disk(awkward: str, tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match=r"more than 7,000 bytes came"):
        download(f"{awkward}/longer", tmp_path / "a.zip", MD5, size=len(CONTENT))
    assert (tmp_path / "a.zip.part").stat().st_size == 0


def test_what_is_whole_but_was_not_renamed_is_used(awkward: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    with pytest.raises(MetarunError):
        download(f"{awkward}/gone", tmp_path / "a.zip", MD5)
    download(f"{awkward}/cut", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_full_disk_is_said_and_what_has_come_is_kept(
    awkward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(MetarunError, match=r"a\.zip\.part: No space left on device"):
        download(f"{awkward}/good", tmp_path / "a.zip", MD5)
    monkeypatch.undo()
    download(f"{awkward}/cut", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_processes_that_start_at_once_fetch_it_once(awkward: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(partial(download, f"{awkward}/good", tmp_path / "a.zip"), [MD5] * 6))
    assert Awkward.asked == ["/good None"]


def test_no_server_is_no_connection(tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match="no connection"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "0" * 32)


def test_a_folder_that_cannot_be_made_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MetarunError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "file" / "a.zip", "0" * 32)
