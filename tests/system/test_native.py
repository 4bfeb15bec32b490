"""C++ compiled at its first use: found again, and done without where it cannot be compiled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from metarun.learners import kernels_available
from metarun.system import native

Caplog = pytest.LogCaptureFixture

pytestmark = pytest.mark.skipif(not kernels_available(), reason="no C++ compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Caplog) -> Path:
    caplog.set_level(logging.INFO, "metarun")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "twice.cpp"
    path.write_text('extern "C" int twice(int x) { return 2 * x; }\n')
    return path


def compiled(source: Path) -> native.ctypes.CDLL | None:
    return native.library.__wrapped__(source)  # as a new process would


def test_a_library_is_compiled_once(source: Path, monkeypatch: pytest.MonkeyPatch, caplog: Caplog) -> None:
    library = compiled(source)
    assert library is not None
    assert library.twice(21) == 42
    assert [line for line in caplog.messages if "compiling twice.cpp" in line]
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("it is there"))
    assert compiled(source) is not None
    files = [path.name for path in (source.parent / "cache" / "native").iterdir()]
    assert sum(name.endswith(".so") for name in files) == 1
    assert not any(name.startswith(".twice") and "lock" not in name for name in files)  # nothing half done


def test_another_source_or_processor_has_a_library_of_its_own(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = native._digest(source)
    monkeypatch.setattr(native, "_processor", lambda: "another")
    second = native._digest(source)
    source.write_text("int nothing;\n")
    assert len({first, second, native._digest(source)}) == 3


def test_what_cannot_be_compiled_is_done_without(source: Path, caplog: Caplog) -> None:
    source.write_text("this is no C++\n")
    assert compiled(source) is None
    assert (
        len([line for line in caplog.messages if line.startswith("twice.cpp cannot be compiled here")]) == 1
    )


def test_without_a_compiler(source: Path, monkeypatch: pytest.MonkeyPatch, caplog: Caplog) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled(source) is None
    assert any("torch's own operations are used" in line for line in caplog.messages)


def test_a_cache_that_cannot_be_written_is_done_without(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: Caplog
) -> None:
    (source.parent / "file").write_text("")
    monkeypatch.setenv("METARUN_CACHE", str(source.parent / "file"))
    assert compiled(source) is None
    assert any("cannot be compiled here" in line for line in caplog.messages)
