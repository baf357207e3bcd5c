"""Rows out as a file, and in again: CSV for spreadsheets, JSON Lines for programs, of any length."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import SQLModel

from app.deps import Caller
from app.engine.files.writing import MEDIA_TYPES, Asked, Export, export_class
from app.engine.http.queries import Options
from app.engine.verbs import Read, Verbs
from app.extras.names import many

FILE = {"type": "string", "format": "binary"}
MEDIA = ("text/csv", "application/x-ndjson")


def routes(verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> APIRouter:
    """Export and import."""
    router, rows = APIRouter(), many(verbs)
    export = Export(verbs)
    asked_of = Annotated[Asked, Depends(Options(export_class(verbs.entity)))]

    @router.get(
        "/export",
        name=f"export_{rows}",
        response_class=Response,
        responses={200: {"content": {media: {"schema": FILE} for media in MEDIA}}},
    )
    async def export_rows(request: Request, caller: Caller, asked: asked_of) -> Response:
        """All the rows that the list would show, as a file. It is sent while it is read, so it may have any length."""
        pieces = await export.begin(caller, asked)
        name = f"{rows}-{datetime.now(UTC):%Y-%m-%d}.{asked.format}"
        return StreamingResponse(
            nothing() if request.method == "HEAD" else pieces,
            media_type=MEDIA_TYPES[asked.format],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    return router


async def nothing() -> AsyncIterator[bytes]:
    """The body of an answer to HEAD."""
    return
    yield b""
