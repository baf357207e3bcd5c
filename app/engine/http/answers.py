"""Answers in the one shape of every refusal, also where FastAPI's handlers do not reach."""

import logging

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Refusal
from app.errors import problem as content

log = logging.getLogger("app")
# What a page of another origin may read of an answer.
EXPOSED = ["Content-Disposition", "ETag", "Idempotency-Replayed", "Link", "Location", "Retry-After", "X-Process-Time"]
EXPOSED += ["X-Request-Id", "X-Total-Count"]


def problem(status: int, detail: object, headers: dict[str, str] | None = None) -> Response:
    """Problem details (RFC 9457)."""
    return JSONResponse(content(status, detail), status, headers=headers, media_type=Refusal.media_type)


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
