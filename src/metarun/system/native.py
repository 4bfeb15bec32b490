"""C++ that is compiled on this machine at its first use, and kept in the cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from metarun.system.files import cache_directory, lock

log = logging.getLogger("metarun")

# A product and a sum become one operation where they stand in one expression, as in the libraries of torch.
_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-std=c++17"]


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Return the compiled library of a C++ file, or None where it cannot be compiled; the log says why.

    The file may include headers of its own folder.

    torch's own loader compiles it (`torch.utils.cpp_extension`, which needs a compiler and ninja), in a few
    seconds; processes that start together wait for the first. The library is for this kind of processor.
    """
    try:
        path = cache_directory() / "native" / f"{source.stem}-{_digest(source)}.so"
        if not path.is_file():
            with lock(path):
                if not path.is_file():
                    _compile(source, path)
        return ctypes.CDLL(str(path))
    # The loader raises RuntimeError without ninja or where compiling fails, OSError without a compiler.
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        log.info("%s cannot be compiled here, torch's own operations are used: %s", source.name, reason)
        return None


def _digest(source: Path) -> str:
    files = sorted(source.parent.glob("*.h"))
    content = [path.read_bytes() for path in (source, *files)]
    content += map(str.encode, (*_FLAGS, torch.__version__, _processor()))
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def _processor() -> str:
    """Return what the processor can do: a folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{torch.backends.cpu.get_cpu_capability()} {sorted(told)}"


def _compile(source: Path, path: Path) -> None:
    """Compile a file to a library.

    Raises:
        RuntimeError: there is no ninja, or compiling fails.
        OSError: there is no compiler, or the folder cannot be written.
    """
    import ninja
    from torch.utils import cpp_extension

    log.info("compiling %s for this processor, once: a few seconds", source.name)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    search = os.environ.get("PATH", os.defpath)
    loader = logging.getLogger("torch.utils.cpp_extension")
    level = loader.level
    try:
        loader.setLevel(logging.ERROR)  # its warnings fill a screen; what fails is told in one line
        # The loader looks for ninja on the PATH, on which a virtual environment need not be.
        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, search])
        cpp_extension.load(
            path.stem.replace("-", "_"),
            [str(source)],
            extra_cflags=_FLAGS,
            build_directory=str(folder),
            is_python_module=False,
        )
        next(folder.glob("*.so")).replace(path)
    finally:
        os.environ["PATH"] = search
        loader.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)
