"""One routing table instead of a walk through nested routers: the twentieth entity answers as fast as the first.

Guards hold as declared, since the table's leaves are FastAPI's own routes, with all that was included around them.
Besides, for what is in it: both slash spellings without a redirect, HEAD beside GET, a true Allow. A literal path
stands for itself: DELETE `/items/me` never reaches DELETE `/items/{id}` where `/items/me` is a route of its own.
"""

import json
import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette._utils import get_route_path
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.errors import Unavailable

PLAIN = re.compile(r"(/(\{\w+\}|[^{}/]*))+")  # every parameter is a whole segment, and none is a `{name:path}`
WILD = "{}"  # the key of a parameter's branch


class Node:
    """A segment of paths. Literal segments are tried before parameters, whatever the order of registration."""

    __slots__ = ("branches", "methods")

    def __init__(self) -> None:
        self.branches: dict[str, Node] = {}
        self.methods: dict[str, tuple[RouteContext, tuple[str, ...]]] = {}

    def find(self, segments: list[str], at: int, values: list[str]) -> "Node | None":
        """The node for `segments` from `at`; `values` of the parameters on the way are appended."""
        if at == len(segments):
            return self if self.methods else None
        segment = segments[at]
        literal = self.branches.get(segment) if segment != WILD else None
        if literal and (found := literal.find(segments, at + 1, values)):
            return found
        wild = self.branches.get(WILD)
        if wild and segment:
            values.append(segment)
            if found := wild.find(segments, at + 1, values):
                return found
            values.pop()
        return None


class Dispatch:
    """The table, and FastAPI's router behind it for what no table can hold: mounts and `{name:path}`."""

    def __init__(self, app: FastAPI, at_once: int, ungated: Collection[str]) -> None:
        self._router, self._root, self._others = app.router, Node(), []
        self._at_once, self._ungated, self._under_way = at_once, ungated, 0
        for context in iter_route_contexts(app.routes):
            if isinstance(context.original_route, APIRoute) and PLAIN.fullmatch(context.path or "/"):
                self._add(context)
            else:
                self._others.append(context)

    def _add(self, context: RouteContext) -> None:
        node, names = self._root, []
        for segment in _segments(context.path or ""):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                segment = WILD
            node = node.branches.setdefault(segment, Node())
        leaf = context, tuple(names)
        for method in context.methods or ():
            node.methods.setdefault(method, leaf)
        if "GET" in node.methods:
            node.methods.setdefault("HEAD", node.methods["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router.app(scope, receive, send)
            return
        path = get_route_path(scope)
        if path in self._ungated:
            await self._answer(path, scope, receive, send)
            return
        if self._under_way >= self._at_once:
            # Now, before any work: a queue without an end would be answered too late, all of it.
            raise Unavailable("Too many requests at once. Try again in a moment.")
        self._under_way += 1
        try:
            await self._answer(path, scope, receive, send)
        finally:
            self._under_way -= 1

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        values: list[str] = []
        node = self._root.find(_segments(path), 0, values)
        if node is None:
            await self._elsewhere(scope, receive, send)
            return
        found = node.methods.get(scope["method"])
        if found is None:
            raise HTTPException(
                405, "This address has other methods: see Allow.", headers={"Allow": ", ".join(sorted(node.methods))}
            )
        context, names = found
        scope["router"], scope["route"], scope["endpoint"] = (self._router, context.original_route, context.endpoint)
        scope["path_params"] = dict(zip(names, values, strict=True))
        await context.app(scope, receive, send)

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        if all(other.matches(scope)[0] is Match.NONE for other in self._others):
            raise HTTPException(404, "There is nothing at this address.")
        await self._router.app(scope, receive, send)


def install(app: FastAPI, *, at_once: int = 1024, ungated: Collection[str] = ()) -> None:
    """Put the table in front of `app`'s routes. Call it after the last one was added.

    Of more than `at_once` requests under way the rest is refused with Unavailable, except at the paths in `ungated`.
    """
    app.router.middleware_stack = Dispatch(app, at_once, ungated)


def _segments(path: str) -> list[str]:
    """`/a/b` and `/a/b/` are the same; `//a/b` is not."""
    return path.removeprefix("/").removesuffix("/").split("/")


class StrictRequest(Request):
    """JSON is UTF-8 and has no NaN (RFC 8259). Python would guess UTF-16 from the bytes, and read NaN."""

    async def json(self) -> object:
        return json.loads((await self.body()).decode(), parse_constant=_refuse_constant)


class StrictRoute(APIRoute):
    """What every router is made of: `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)
