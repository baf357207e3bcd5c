"""Rows out as a file, and in again: CSV for spreadsheets, JSON Lines for programs, of any length."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import SQLModel

from app.deps import Caller, Settings
from app.engine.files.importing import Import
from app.engine.files.report import Asked as HowToImport
from app.engine.files.report import Report, import_class
from app.engine.files.writing import MEDIA_TYPES, Asked, Export, Format, export_class
from app.engine.http.bodies import header, spool, takes_file
from app.engine.http.queries import Options
from app.engine.verbs import Read, Verbs
from app.errors import Unavailable, UnsupportedMediaType
from app.extras.names import many

KNOWN: dict[Format, tuple[str, ...]] = {
    "csv": ("text/csv", "application/csv", "text/tab-separated-values"),
    "jsonl": ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/ndjson"),
}
AT_ONCE = 2  # imports of one process
under_way = {"imports": 0}
FILE = {"type": "string", "format": "binary"}
MEDIA = ("text/csv", "application/x-ndjson")
BODY = {"required": True, "content": {media: {"schema": FILE} for media in MEDIA}}


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

    importer = Import(verbs, create, update)
    how_to = Annotated[HowToImport, Depends(Options(import_class(verbs.entity, create)))]

    @router.post("/import", name=f"import_{rows}", openapi_extra={"requestBody": BODY})
    @takes_file
    async def import_rows(request: Request, caller: Caller, settings: Settings, how: how_to) -> Report:
        """Create a row for each line of a file, or change the row that is there. All of them, or those that are good.

        In CSV the first line names the columns. What was exported can be imported as it is.
        """
        how.format = how.format or format_of(request)
        how.encoding = how.encoding or charset_of(request)
        await verbs.page(caller, limit=0)  # whoever is nobody any more shall not send gigabytes
        with place(), TemporaryFile() as file:
            await spool(request.scope, request.receive, settings.max_import_size, file)
            return await importer.run(caller, file, how)

    return router


@contextmanager
def place() -> Iterator[None]:
    """One of AT_ONCE. Raises Unavailable if all are taken."""
    if under_way["imports"] >= AT_ONCE:
        raise Unavailable(f"{AT_ONCE} files are being imported already. Try again in a moment.", retry_after=10)
    under_way["imports"] += 1
    try:
        yield
    finally:
        under_way["imports"] -= 1


def format_of(request: Request) -> Format:
    """By its Content-Type. Raises UnsupportedMediaType."""
    media, _, _ = header(request.scope, b"content-type").decode("latin-1").lower().partition(";")
    for form, names in KNOWN.items():
        if media.strip() in names:
            return form
    raise UnsupportedMediaType("Send the file itself, as text/csv or application/x-ndjson, or say format=csv or jsonl.")


def charset_of(request: Request) -> str:
    found = re.search(
        r'charset="?([\w.:-]{1,40})', header(request.scope, b"content-type").decode("latin-1"), re.IGNORECASE
    )
    return found[1] if found else ""


async def nothing() -> AsyncIterator[bytes]:
    """The body of an answer to HEAD."""
    return
    yield b""
