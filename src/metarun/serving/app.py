"""The page and its one endpoint: labelled and unlabelled images go in, answers come out; nothing is kept."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from metarun.errors import MetarunError, in_one_line
from metarun.evaluation.prediction.own_examples import Labelled, Notes
from metarun.evaluation.prediction.task_model import TaskModel
from metarun.evaluation.prediction.usable import Usable
from metarun.tasks.given import as_numbers
from metarun.tasks.images.decoding import LeftOutError
from metarun.tasks.reading import ImageReading

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_NEIGHBOURS = 3
_SUPPORT, _QUERY = "support:", "query"
# The page's own script and style, and nothing from elsewhere.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src blob:; connect-src 'self'; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What one request may have.

    Attributes:
        files: how many.
        file_bytes: of one file.
        bytes: of all together.
    """

    files: int = 500
    file_bytes: int = 2**24
    bytes: int = 2**27


class TooLargeError(Exception):
    """A request with more bytes than allowed."""


class LimitedSize:
    """Refuses a request as soon as it has more bytes than allowed."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its bytes."""
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise TooLargeError
            return message

        await self._app(scope, counted, send)


class OwnPages:
    """Refuses what a page from elsewhere sends: a browser says where a page is from."""

    def __init__(self, app: Any, hosts: list[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that it is from elsewhere."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).hostname not in self._hosts:
            answer = JSONResponse({"error": "this page is from elsewhere"}, 403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Desk:
    """Answers requests with one learner.

    Args:
        usable: a learner of images with classes, to be shown labelled ones by each request.
        model: one that has seen them; None: see above.
        limits: of a request.
    """

    def __init__(self, usable: Usable, model: TaskModel | None, limits: Limits) -> None:
        if not isinstance(usable.reading, ImageReading) or usable.facts.targets == "values":
            raise MetarunError("metarun serve is for images of classes, and this run has other data")
        self.usable, self.model, self.limits = usable, model, limits
        self.reading = usable.reading
        self._lock = Lock()  # one task at a time

    def about(self) -> dict[str, Any]:
        """Return what the page must know."""
        return {
            "classes": [] if self.model is None else self.model.classes,
            "hasSeen": self.model is not None,
            "most": self.usable.limit,
            "size": self.reading.look.size,
            "files": self.limits.files,
            "fileBytes": self.limits.file_bytes,
        }

    def answer(self, support: list[tuple[str, str, bytes]], query: list[tuple[str, bytes]]) -> dict[str, Any]:
        """Return the answers: images are told apart by their places among those that were sent.

        Args:
            support: class, name and content of each labelled image.
            query: name and content of the others.

        Raises:
            MetarunError: they do not make a task.
        """
        left_out: list[dict[str, Any]] = []
        with self._lock:
            model, places = self._model(support, left_out)
            contents = [(name, content) for name, content in query]
            kept, images = self._read("query", contents, left_out)
            found: dict[str, Any] = {"answers": [], "leftOut": left_out, "classes": model.classes}
            if not images:
                return found
            x = torch.stack(images)
            probabilities = model.probabilities(x)
            near = self._neighbours(model, x)
        best = probabilities.topk(2, dim=1)
        columns = (kept, best.values.tolist(), best.indices.tolist(), near.tolist())
        for place, values, classes, others in zip(*columns, strict=True):
            answer = {
                "place": place,
                "name": query[place][0],
                "class": model.classes[classes[0]],
                "probability": values[0],
                "runnerUp": model.classes[classes[1]],
                "margin": values[0] - values[1],
                "neighbours": [places[other] for other in others],
                "neighbourNames": [model.support.names[other] for other in others],
            }
            found["answers"].append(answer)
        return found

    def _model(
        self, support: list[tuple[str, str, bytes]], left_out: list[dict[str, Any]]
    ) -> tuple[TaskModel, list[int | None]]:
        """Return the learner, and the place of each of its examples among those that were sent."""
        if self.model is not None:
            if support:
                raise MetarunError("this learner has seen its examples: drop unlabelled images alone")
            return self.model, [None] * len(self.model.support.names)
        kept, images = self._read("support", [(name, content) for _, name, content in support], left_out)
        if not images:
            raise MetarunError("no labelled image can be read: drop some of each class")
        labels, names = [support[place][0] for place in kept], [support[place][1] for place in kept]
        return TaskModel(self.usable, Labelled(torch.stack(images), labels, names, Notes())), list(kept)

    def _read(
        self, part: str, files: list[tuple[str, bytes]], left_out: list[dict[str, Any]]
    ) -> tuple[list[int], list[Tensor]]:
        """Return the places of those that can be read, and their images."""
        kept, images = [], []
        for place, (name, content) in enumerate(files):
            why = f"larger than {self.limits.file_bytes / 2**20:.0f} MB"
            try:
                if len(content) <= self.limits.file_bytes:
                    images.append(self.reading.read(content))
                    kept.append(place)
                    continue
            except LeftOutError as reason:
                why = str(reason)
            left_out.append({"part": part, "place": place, "name": name, "why": why})
        return kept, images

    def _neighbours(self, model: TaskModel, x: Tensor) -> Tensor:
        """Return the places of the nearest labelled images, [n, 3]: by embeddings, where there are some."""
        scaled = as_numbers(x, self.usable.dtype).to(self.usable.device)
        learner: Any = self.usable.learner
        embeddings = getattr(learner, "embeddings", None)
        with torch.no_grad(), learner.evaluating():
            ours, theirs = scaled.flatten(1), model.x.flatten(1)
            if embeddings is not None and not learner.is_transductive:
                ours, theirs = embeddings(scaled[None])[0], embeddings(model.x[None])[0]
        return (
            torch.cdist(ours.double(), theirs.double())
            .topk(min(_NEIGHBOURS, len(theirs)), dim=1, largest=False)
            .indices
        )


def make_app(desk: Desk, hosts: list[str]) -> Starlette:
    """Return the web application.

    Args:
        desk: answers.
        hosts: host names that a request may have; others are refused, as those of foreign pages.
    """

    async def page(request: Request) -> Response:  # noqa: ARG001
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(_static("page.html"), headers=headers)

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        kinds = {"page.js": "text/javascript", "page.css": "text/css"}
        if name not in kinds:
            raise HTTPException(404, "there is no such page")
        return Response(_static(name), media_type=kinds[name])

    async def about(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(desk.about())

    async def predict(request: Request) -> Response:
        support: list[tuple[str, str, bytes]] = []
        query: list[tuple[str, bytes]] = []
        async with request.form(max_files=desk.limits.files, max_fields=0) as form:
            for key, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    continue
                name, content = plain_name(value.filename), await value.read()
                if key.startswith(_SUPPORT) and len(key) > len(_SUPPORT):
                    support.append((key.removeprefix(_SUPPORT), name, content))
                elif key == _QUERY:
                    query.append((name, content))
        try:
            return JSONResponse(await run_in_threadpool(desk.answer, support, query))
        except MetarunError as error:
            return JSONResponse({"error": str(error)}, 400)

    async def refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": " ".join(str(error.detail).split())}, error.status_code)

    async def failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return JSONResponse({"error": f"the server failed: {in_one_line(error)[:200]}"}, 500)

    async def too_large(request: Request, error: Exception) -> Response:  # noqa: ARG001
        most = math.floor(desk.limits.bytes / 2**20)
        return JSONResponse({"error": f"more than {most} MB together: drop fewer images"}, 413)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/about", about),
            Route("/predict", predict, methods=["POST"]),
            Route("/{name}", part),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(OwnPages, hosts=hosts),
            Middleware(LimitedSize, most=desk.limits.bytes),
        ],
        exception_handlers={HTTPException: refused, TooLargeError: too_large, Exception: failed},
    )


def plain_name(name: str | None) -> str:
    """Return the last part of a file's name, of any system: it is shown, and never opened."""
    return PureWindowsPath(PurePosixPath(name or "image").name).name[:200] or "image"


def _static(name: str) -> str:
    return (files("metarun.serving") / name).read_text(encoding="utf-8")
