"""How a refusal is answered: problem details (RFC 9457), the same for every error, and none repeats what was sent."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app import errors
from app.engine import logs
from app.engine.http.answers import problem
from app.engine.violations import explain
from app.engine.waiting import BUSY

log = logging.getLogger("app")
MOST = 20  # how many errors of one request are listed


async def on_refusal(_request: Request, error: Exception) -> Response:
    """A Refusal, or what stands for one: verbs explain what the database said themselves, a Session does not."""
    refusal = error if isinstance(error, errors.Refusal) else _refusal_of(error)
    if refusal is None:
        raise error
    cause = refusal.__cause__ or refusal.__context__
    if refusal.status >= 500 and cause:  # not when there are just too many: then a line each would make it worse
        log.warning("%s (%s)", refusal.detail, logs.tell(cause))
    return JSONResponse(refusal.content(), refusal.status, headers=refusal.headers, media_type=refusal.media_type)


async def on_http_exception(_request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
    """FastAPI's own would repeat the input, passwords included, and fail over a NaN in it."""
    found = [
        {"loc": [_short(part) for part in wrong["loc"]], "msg": _short(wrong["msg"]), "type": wrong["type"]}
        for wrong in error.errors()[:MOST]
    ]
    return problem(422, found)


def install(app: FastAPI) -> None:
    """Answer every refusal of `app` like this."""
    for kind in (errors.Refusal, DBAPIError, StaleDataError, PoolTimeout):
        app.add_exception_handler(kind, on_refusal)
    app.add_exception_handler(HTTPException, on_http_exception)  # type: ignore[arg-type]  # as Starlette types it
    app.add_exception_handler(RequestValidationError, on_invalid)  # type: ignore[arg-type]  # as Starlette types it


def _refusal_of(error: Exception) -> errors.Refusal | None:
    if isinstance(error, StaleDataError):
        return errors.Clash("Somebody changed it at the same moment. Read it again.")
    if isinstance(error, PoolTimeout):
        return errors.Unavailable(BUSY)
    driver_error = getattr(error, "orig", None)
    return explain(driver_error) if isinstance(driver_error, Exception) else None


def _short(part: object) -> object:
    """`part`, so that it can be sent: a client chose the names of unknown fields, and their length."""
    return part if isinstance(part, int) else str(part).encode(errors="replace").decode()[:200]
