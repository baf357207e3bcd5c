"""What every answer carries: how long it took, a request id, and headers that keep a browser careful."""

import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine import logs

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
# Only where the request came over TLS: the server's own, or that of a proxy named in PROXIES.
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
CLIENT_GONE = 499  # nginx's word in a log for a request that nobody waited for


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
                logs.note_request(scope, status, time.perf_counter() - start)
