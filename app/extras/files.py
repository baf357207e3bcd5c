"""Rows out as a file, and in again: CSV for spreadsheets, JSON Lines for programs, of any length."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import SQLModel

from app.deps import Caller, Settings, reads, writes
from app.engine.files.importing import LIMIT, Import
from app.engine.files.report import Asked as HowToImport
from app.engine.files.report import Report, import_class
from app.engine.files.writing import MEDIA_TYPES, Asked, Export, export_class
from app.engine.http.idempotency import IDEMPOTENT_LATER, begin_now, refuse_key
from app.engine.http.queries import Options
from app.engine.http.uploads import charset_of, format_of, spool, spooled, takes_file
from app.engine.verbs import Read, Verbs
from app.errors import Unavailable
from app.extras.names import called, many

AT_ONCE = 16  # files that one process sends: who reads slowly shall hold no place of others
sending = 0
FILE = {"type": "string", "format": "binary"}
MEDIA = ("text/csv", "application/x-ndjson")
BODY = {"required": True, "content": {media: {"schema": FILE} for media in MEDIA}}


def routes(verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> APIRouter:
    """Export and import."""
    reader = Annotated[Caller, reads(verbs.entity)]
    writer = Annotated[Caller, writes(verbs.entity)]
    router, rows = APIRouter(), many(verbs)
    words = rows.replace("_", " ")
    export = Export(verbs)
    asked_of = Annotated[Asked, Depends(Options(export_class(verbs.entity)))]

    @router.get(
        "/export",
        summary=f"Export {words.title()}",
        response_class=Response,
        responses={200: {"content": {media: {"schema": FILE} for media in MEDIA}}},
    )
    @called(f"export_{rows}")
    async def export_rows(request: Request, caller: reader, asked: asked_of, _place: Place) -> Response:
        """All the rows that the list would show, as a file. It is sent while it is read, so it may have any length."""
        pieces = await export.begin(caller, asked)
        name = f"{rows}-{datetime.now(UTC):%Y-%m-%d}.{asked.format_}"
        return StreamingResponse(
            nothing() if request.method == "HEAD" else pieces,
            media_type=MEDIA_TYPES[asked.format_],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    importer = Import(verbs, create, update)
    how_to = Annotated[HowToImport, Depends(Options(import_class(verbs.entity, create)))]

    @router.post("/import", summary=f"Import {words.title()}", openapi_extra={"requestBody": BODY, **IDEMPOTENT_LATER})
    @takes_file
    @called(f"import_{rows}")
    async def import_rows(request: Request, caller: writer, settings: Settings, how: how_to) -> Report:
        """Create a row for each line of a file, or change the row that is there. All of them, or those that are good.

        In CSV the first line names the columns. What was exported can be imported as it is.
        """
        how.encoding = how.encoding or charset_of(request)
        how.format = how.format or format_of(request)
        await verbs.page(caller, limit=0)  # whoever is nobody any more shall not send gigabytes
        with spooled() as file:
            await spool(request, settings.max_import_size, file)
            if how.mode == "good" or how.dry_run:
                refuse_key(request.scope)  # what is kept bit by bit, or not at all, has no one answer
            begin = partial(begin_now, request.scope, partial(caller.db.transaction, limit=LIMIT))
            return await importer.run(caller, file, how, begin=begin)

    return router


async def a_place() -> AsyncIterator[None]:
    """One of AT_ONCE, until all of the answer is sent. Raises Unavailable if all are taken."""
    global sending  # of the process: so are its places for requests
    if sending >= AT_ONCE:
        raise Unavailable(f"{AT_ONCE} files are being sent already. Try again in a moment.", retry_after=10)
    sending += 1
    try:
        yield
    finally:
        sending -= 1


Place = Annotated[None, Depends(a_place)]


async def nothing() -> AsyncIterator[bytes]:
    """The body of an answer to HEAD."""
    return
    yield b""
