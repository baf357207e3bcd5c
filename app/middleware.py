"""What every answer carries: how long it took, a request id, and headers that keep a browser careful."""

import logging
import secrets
import time

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine import logs
from app.problems import problem

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# Only where the request came over TLS: the server's own, or that of a proxy named in PROXIES.
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
CLIENT_GONE = 499  # nginx's word in a log for a request that nobody waited for
log = logging.getLogger("app")


class Envelope:
    """The outermost layer, around CORS too, so that preflights and errors carry the same headers, and are logged."""

    def __init__(self, app: ASGIApp, log_requests: bool = True) -> None:
        self._app, self._log_requests = app, log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, method, status = time.perf_counter(), scope["method"], CLIENT_GONE
        # Always our own: one from the client could forge another request's lines in the log.
        request_id = scope["request_id"] = secrets.token_hex(8)
        logs.request_id.set(request_id)
        own = [*SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        if scope.get("scheme") == "https":
            own.append(STRICT_TRANSPORT)

        async def send_stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
                present = {name for name, _ in headers}
                if status == 204:
                    headers = [header for header in headers if header[0] != b"content-type"]
                headers = [*headers, *own, (b"x-process-time", b"%.6f" % (time.perf_counter() - start))]
                if b"cache-control" not in present:
                    headers.append(
                        (b"cache-control", b"private, no-cache" if method in ("GET", "HEAD") else b"no-store")
                    )
                if NO_PAGE[0] not in present:
                    headers.append(NO_PAGE)
                message["headers"] = headers
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_stamped)
        finally:
            if self._log_requests:
                logs.write_request(scope, status, time.perf_counter() - start)


class Cors(CORSMiddleware):
    """Starlette's, which refuses a preflight in plain text; here in the shape of every refusal."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return problem(400, "That origin, method or header is none that other pages may use here.", headers)


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
            log.exception("A request failed")
            response = problem(500, "Something went wrong on our side. The request id is in X-Request-Id.")
            await response(scope, receive, send)
