"""One routing table instead of a walk through nested routers: the twentieth entity answers as fast as the first.

Guards hold as declared, since the table's leaves are FastAPI's own routes, with all that was included around them.
Besides, for what is in it: both slash spellings without a redirect, HEAD beside GET, OPTIONS, a true Allow. A literal
path stands for itself: DELETE `/items/me` never reaches DELETE `/items/{id}` where `/items/me` is a route of its own.
"""

import re
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.params import Body
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette._utils import get_route_path
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.engine.http import bodies, etags, idempotency
from app.errors import Misdirected, Unavailable

PLAIN = re.compile(r"(/(\{\w+\}|[^{}/]*))+")  # every parameter is a whole segment, and none is a `{name:path}`
WILD = "{}"  # the key of a parameter's branch
BODILESS = ("GET", "HEAD", "OPTIONS")


class Limits(NamedTuple):
    """What is let in, and how much of it."""

    concurrent_requests: int = 1024
    max_body_size: int = 2**17  # bytes, for a route that has no limit of its own
    hosts: Collection[str] = ()  # `*.example.com` stands for what is below it; where none is named, any will do
    ungated: Collection[str] = ()  # paths that are answered for any host, and however many requests are under way


DEFAULT = Limits()


class Leaf(NamedTuple):
    """What answers a method of a path."""

    answer: ASGIApp
    context: RouteContext
    names: tuple[str, ...] = ()  # of the parameters in the path
    takes_json: bool = False
    takes_file: bool = False
    max_body_size: int | None = None  # the route's own
    identify: Callable[[Request], Awaitable[object]] | None = None  # where the body may be large: refuses strangers


class Node:
    """A segment of paths. Literal segments are tried before parameters, whatever the order of registration."""

    __slots__ = ("branches", "methods")

    def __init__(self) -> None:
        self.branches: dict[str, Node] = {}
        self.methods: dict[str, Leaf] = {}

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

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        self._router, self._root, self._others = app.router, Node(), list[Leaf]()
        self._limits, self._under_way = limits, 0
        for context in iter_route_contexts(app.routes):
            if isinstance(context.original_route, APIRoute) and PLAIN.fullmatch(context.path or "/"):
                self._add(context)
            else:
                self._others.append(_leaf(context, self._router.app))

    def _add(self, context: RouteContext) -> None:
        node, names = self._root, []
        for segment in _segments(context.path or ""):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                segment = WILD
            node = node.branches.setdefault(segment, Node())
        leaf = _leaf(context, context.app)._replace(names=tuple(names))
        for method in context.methods or ():
            node.methods.setdefault(method, leaf)
        if "GET" in node.methods:
            node.methods.setdefault("HEAD", node.methods["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router.app(scope, receive, send)
            return
        path, limits = get_route_path(scope), self._limits
        is_gated = path not in limits.ungated  # a health check comes by address, and when nothing else is answered
        if limits.hosts and is_gated and not _is_known(bodies.header(scope, b"host"), limits.hosts):
            raise Misdirected("This server does not answer for that host.")
        leaf = self._find(path, scope)
        if (scope["method"] not in BODILESS or bodies.is_announced(scope)) and not leaf.takes_file:
            if leaf.identify and bodies.may_exceed(scope, limits.max_body_size):
                await leaf.identify(Request(scope))  # who sends so much says first who they are
            # All of it before a place is taken: slow clients hold none.
            most = limits.max_body_size if leaf.max_body_size is None else leaf.max_body_size
            body = await bodies.read_body(scope, receive, most)
            if body is None:
                return  # the client went away
            if body and leaf.takes_json:
                bodies.check_json(scope, body)
            receive = bodies.given_back(body, receive)
        if is_gated and self._under_way >= limits.concurrent_requests:
            # Now, before any work: a queue without an end would be answered too late, all of it.
            raise Unavailable("Too many requests at once. Try again in a moment.")
        self._under_way += is_gated
        try:
            await leaf.answer(scope, receive, send)
        finally:
            self._under_way -= is_gated

    def _find(self, path: str, scope: Scope) -> Leaf:
        values: list[str] = []
        node = self._root.find(_segments(path), 0, values)
        if node is None:
            for leaf in self._others:
                if leaf.context.matches(scope)[0] is not Match.NONE:
                    return leaf
            raise HTTPException(404, "There is nothing at this address.")
        found = node.methods.get(scope["method"])
        if found is None:
            return _without_route(scope["method"], node.methods)
        context = found.context
        scope["router"], scope["route"], scope["endpoint"] = self._router, context.original_route, context.endpoint
        scope["path_params"] = dict(zip(found.names, values, strict=True))
        scope["route_path"] = context.path  # what logs call it: nobody's values are in it
        return found


def install(app: FastAPI, limits: Limits = DEFAULT) -> None:
    """Put the table in front of `app`'s routes. Call it after the last one was added.

    Before a route runs, its request's body is there, and is JSON where the route takes JSON; bodies.py says how it is
    refused else; a route that takes a file reads it itself. Raises Misdirected for a host that is not known, and
    Unavailable where too much is under way.
    """
    app.router.middleware_stack = Dispatch(app, limits)


def _leaf(context: RouteContext, answer: ASGIApp) -> Leaf:
    field = getattr(context, "body_field", None)
    takes_json = field is not None and type(field.field_info) is Body
    if etags.is_row(getattr(context, "response_model", None)):
        answer = etags.Tagged(answer)
    if idempotency.takes_key(context):
        answer = idempotency.Once(answer, context)
    size = getattr(context, "max_body_size", None)
    identify = None if size is None else idempotency.credentials(context)
    takes_file = hasattr(context.endpoint, "takes_file")
    return Leaf(answer, context, (), takes_json, takes_file, size, identify)


def _without_route(method: str, methods: dict[str, Leaf]) -> Leaf:
    """An OPTIONS that nobody wrote. Raises 405 for any other method. Both name the methods that there are."""
    allow = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if method != "OPTIONS":
        raise HTTPException(405, "This address has other methods: see Allow.", headers=allow)
    return next(iter(methods.values()))._replace(
        answer=Response(status_code=204, headers=allow), takes_json=False, takes_file=False
    )


def _is_known(host: bytes, hosts: Collection[str]) -> bool:
    found = re.fullmatch(r"(\w[\w.-]*|\[[\w:.]+\])(:\d*)?", host.decode("latin-1").lower(), re.ASCII)
    name = found[1] if found else ""
    return any(name == known or (known.startswith("*.") and name.endswith(known[1:])) for known in hosts)


def _segments(path: str) -> list[str]:
    """`/a/b` and `/a/b/` are the same; `//a/b` is not."""
    return path.removeprefix("/").removesuffix("/").split("/")
