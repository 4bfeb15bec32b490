"""A process that has imported metarun, and forks one of its own for every command: a start without imports.

What it forks is a process like any other: it has its own session, environment, folder and standard streams,
can be killed, and ends as `python -m metarun` does. Tests of what happens before or while Python starts (an
encoding, a path, a number of threads) start Python itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

# Read when Python, or a library, starts: with others than the zygote's a process has to be a new one.
_AT_START = ("OMP_NUM_THREADS", "PYTHONPATH", "PYTHONIOENCODING", "LC_ALL", "LANG", "PYTHONUTF8")


class Forked:
    """A forked process, with what tests use of subprocess.Popen."""

    def __init__(self, connection: socket.socket, arguments: list[str]) -> None:
        self._connection, self.args = connection, arguments
        self._answers = connection.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, None as long as it has not."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and return how."""
        if self.returncode is None:
            ready, _, _ = select.select([self._connection], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def fits(environment: dict[str, str]) -> bool:
    """Say whether a process with this environment may be a forked one."""
    return all(environment.get(name) == _environment().get(name) for name in _AT_START)


def fork(arguments: list[str], cwd: Path, environment: dict[str, str], stdout: Any, stderr: Any) -> Forked:
    """Start metarun with these arguments, writing to these files."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_zygote())
    request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": environment})
    with Path(os.devnull).open() as nothing:
        streams = [nothing.fileno(), stdout.fileno(), stderr.fileno()]
        socket.send_fds(connection, [len(request.encode()).to_bytes(8, "big")], streams)
        connection.sendall(request.encode())
        return Forked(connection, arguments)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@cache
def _zygote() -> str:
    """Return the address of this process's zygote; it ends when this process does."""
    address = f"\0metarun-zygote-{os.getpid()}-{time.time_ns()}"
    process = subprocess.Popen(
        [sys.executable, __file__, address[1:]],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    _alive.append(process)
    return address


_alive: list[Any] = []  # its end of the pipe stays open


def serve(address: str) -> None:
    """Fork a process for each request until standard input ends; returns in the children, ready to run."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0{address}")
    listening.listen()
    wake, waker = socket.socketpair()
    for each in (wake, waker):
        each.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([sys.stdin, listening, wake], [], [])
        if sys.stdin in ready:
            os._exit(0)
        if wake in ready:
            wake.recv(4096)
        _tell_of_ends(children)
        if listening in ready:
            connection, _ = listening.accept()
            size, streams, _, _ = socket.recv_fds(connection, 8, 3)
            request = json.loads(_receive(connection, int.from_bytes(size, "big")))
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listening, wake, waker, connection, *children.values()):
                    each.close()
                _become(request, streams)
                return
            for each in streams:
                os.close(each)
            connection.sendall(f"{pid}\n".encode())
            children[pid] = connection


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def _tell_of_ends(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        connection = children.pop(pid)
        with suppress(OSError):  # nobody asks any more
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        connection.close()


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over what a new process would have been given."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["metarun", *request["arguments"]]
    sys.path[0] = str(Path.cwd())  # as `python -m` has it


def preload() -> None:
    """Import what a command imports, and nothing that starts a thread."""
    import importlib
    import pkgutil

    import metarun

    for module in pkgutil.walk_packages(metarun.__path__, "metarun."):
        if not module.name.startswith(("metarun.bench", "metarun.cli.bench", "metarun.__main__")):
            importlib.import_module(module.name)
    importlib.import_module("torch._dynamo")  # which torch's optimizers import at their first use
    from metarun.config.composition import prepare_hydra

    prepare_hydra()


def end(status: int) -> None:
    """End the process as Python does, but without a visit to every object: each would be a page to copy."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    preload()
    gc.freeze()  # the collector of a forked process leaves alone what it shares with this one
    serve(sys.argv[1])
    from metarun.__main__ import run

    try:
        run()
    except SystemExit as ending:
        end(int(ending.code or 0))
