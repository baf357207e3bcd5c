"""A file that is sent: taken only from whom may send it, onto the disk, and never into memory."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar

from fastapi import Request

from app.engine.files.writing import Format
from app.engine.http.bodies import header, pieces
from app.errors import RequestTimeout, Unavailable, UnsupportedMediaType

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
AT_ONCE = 2  # files of one process
FOR_A_FILE = 600.0  # seconds to send it
FORMATS: dict[Format, tuple[str, ...]] = {
    "csv": ("text/csv", "application/csv", "text/tab-separated-values"),
    "jsonl": ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"),
}
taken = 0


def takes_file(endpoint: Endpoint) -> Endpoint:
    """Mark a route that takes its request's body itself, by `spool`, when it knows from whom."""
    endpoint.__dict__["takes_file"] = True
    return endpoint


@contextmanager
def spooled() -> Iterator[BinaryIO]:
    """An empty file, and one of AT_ONCE places for it. Raises Unavailable if all are taken."""
    global taken  # of the process: it has one disk
    if taken >= AT_ONCE:
        raise Unavailable(f"{AT_ONCE} files are being read already. Try again in a moment.", retry_after=10)
    taken += 1
    try:
        with TemporaryFile() as file:
            yield file
    finally:
        taken -= 1


async def spool(request: Request, most: int, file: BinaryIO) -> None:
    """The request's body into `file`.

    Raises ContentTooLarge for more than `most` bytes, RequestTimeout after FOR_A_FILE seconds, Unavailable if the disk
    is full, and what bodies.pieces() does besides.
    """
    try:
        async with asyncio.timeout(FOR_A_FILE):
            async for piece in pieces(request.scope, request.receive, most):
                file.write(piece)
    except TimeoutError:
        raise RequestTimeout("The file took too long.") from None
    except OSError as error:
        raise Unavailable("There is no room for the file just now.", retry_after=60) from error


def format_of(request: Request) -> Format:
    """By its Content-Type. Raises UnsupportedMediaType."""
    media = _content_type(request).partition(";")[0].strip().lower()
    for form, names in FORMATS.items():
        if media in names:
            return form
    raise UnsupportedMediaType("Send the file itself, as text/csv or application/x-ndjson, or say format=csv or jsonl.")


def charset_of(request: Request) -> str:
    """What its Content-Type says, or nothing."""
    found = re.search(r';\s*charset="?([\w.:-]{1,40})', _content_type(request), re.IGNORECASE)
    return found[1] if found else ""


def _content_type(request: Request) -> str:
    said = header(request.scope, b"content-type").decode("latin-1")
    if said.lower().startswith("multipart/"):
        raise UnsupportedMediaType("Send the file itself, not a form that it is in.")
    return said
