"""`metarun serve RUN|MODEL`: a web page on this machine, where a learner can be tried."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

from metarun.cli.arguments import learner_parser, parse
from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.usable import OPEN, usable

_HERE = "127.0.0.1"


def main(arguments: list[str]) -> None:
    """Serve the page until it is interrupted.

    Raises:
        ConfigError: an argument is wrong.
        MetarunError: the run does not learn classes of images, or a package is missing.
    """
    parser = learner_parser(
        "serve",
        "A web page on this machine, where a learner can be tried: nobody else can reach it.",
        OPEN,
        "device=cpu",
    )
    parser.add_argument("--port", type=int, default=8000, help="8000; 0: any that is free")
    options = parse(parser, arguments[1:])
    if not 0 <= options.port < 2**16:
        raise ConfigError(f"--port {options.port}: should be from 0 to 65535")
    try:
        import uvicorn

        from metarun.serving.app import Desk, Limits, make_app
    except ImportError as error:
        raise MetarunError(
            "metarun serve needs starlette, uvicorn and python-multipart: pip install 'metarun[serve]'"
        ) from error
    model = opened(options.run, None, options.overrides) if options.run.is_file() else None
    learner = usable(options.run, options.overrides) if model is None else model.usable
    desk = Desk(learner, model, Limits())
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((_HERE, options.port))
        except OSError as error:
            raise MetarunError(
                f"--port {options.port}: {error.strerror}: type another, or 0 for any that is free"
            ) from error
        place.listen(128)  # requests from now on wait until the server is ready
        port = place.getsockname()[1]
        print(f"http://{_HERE}:{port}  (Ctrl-C stops it)", flush=True)
        app = make_app(desk, [_HERE, "localhost"])
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=16, timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after closing
            server.run(sockets=[place])
    print("stopped", file=sys.stderr)
