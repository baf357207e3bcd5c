"""What every answer carries: how long it took, a request id, and headers that keep a browser careful."""

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
log = logging.getLogger("app")


class Envelope:
    """The outermost layer, around CORS too, so that preflights and errors carry the same headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        # Always our own: one from the client could forge another request's lines in the log.
        request_id = scope["request_id"] = secrets.token_hex(8)
        cache = b"private, no-cache" if scope["method"] in ("GET", "HEAD") else b"no-store"

        async def send_stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *SECURITY_HEADERS,
                    (b"x-request-id", request_id.encode()),
                    (b"x-process-time", b"%.6f" % (time.perf_counter() - start)),
                ]
                if b"cache-control" not in present:
                    message["headers"].append((b"cache-control", cache))
                if NO_PAGE[0] not in present:
                    message["headers"].append(NO_PAGE)
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, send_stamped)


class CatchAll:
    """The innermost layer: a defect of ours is logged, and answered without a word about what is inside.

    Inside CORS, so that a browser may read that answer; Starlette's own stands outside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_noted(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted if scope["type"] == "http" else send)
        except Exception:
            if scope["type"] != "http" or has_started:
                raise  # too late for another answer: the server closes the connection
            log.exception("Request %s failed", scope.get("request_id"))
            response = problem(500, "Something went wrong on our side. The request id is in X-Request-Id.")
            await response(scope, receive, send)
