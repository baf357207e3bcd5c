"""ETags of single rows: who has a row already is not sent it again (304), and who changes an old one is told (412).

A tag is the row's version and a hash of the answer. The hash is for reading: a user's version stays when one of the
items shown with them changes. The version is for changing: the verb's one statement asks for it.
"""

import re
from hashlib import blake2b
from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator, WithJsonSchema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.models.base import Row

TAG = r'(?:W/)?"[!#-~\x80-\xff]*"'
TAGS = rf"^(?:[ \t]*\*[ \t]*|[ \t,]*{TAG}(?:[ \t]*,[ \t,]*{TAG})*[ \t,]*)$"  # RFC 9110, 8.8.3 and 13.1.1
OURS = re.compile(r'(?<!W/)"([1-9]\d{0,17})-[0-9a-f]{16}"', re.ASCII)
# That of the outermost object. A Row's own fields come first, so before it stand numbers and instants; the "version" in
# a JSON column comes later, and one in a text would have a backslash before its quote.
VERSION = re.compile(rb'\{(?:"\w+":(?:\d+|"[^"\\]*"),)*?"version":(\d+)[,}]')
NEVER = 0  # no row's version
OF_A_BODY = (b"content-type", b"content-length")


def is_row(model: object) -> bool:
    """Whether an answer of that response model is a single row, and so has a tag."""
    return isinstance(model, type) and issubclass(model, Row)


def tag_of(body: bytes) -> bytes | None:
    """The tag of a row in JSON."""
    found = VERSION.match(body)
    return b'"%b-%b"' % (found[1], blake2b(body, digest_size=8).hexdigest().encode()) if found else None


class Tagged:
    """Answers as `app` does, which answers with a single row."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] in (200, 201):
                start = message  # held back until the body is there to be hashed
                return
            if start:
                tag = None if message.get("more_body") else tag_of(message.get("body", b""))
                if tag and scope["method"] in ("GET", "HEAD") and _has(scope, tag):
                    start["status"], message = 304, {**message, "body": b""}
                    start["headers"] = [field for field in start["headers"] if field[0] not in OF_A_BODY]
                if tag:
                    start["headers"] = [*start["headers"], (b"etag", tag)]
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_tagged)


def _has(scope: Scope, tag: bytes) -> bool:
    """Whether If-None-Match names `tag`, weak or not: a proxy that compresses answers makes a tag weak."""
    for name, value in scope["headers"]:
        if name == b"if-none-match" and (value.strip() == b"*" or tag in re.findall(rb'"[^"]*"', value)):
            return True
    return False


def _checked(fields: list[str] | None) -> list[str] | None:
    if fields and not re.fullmatch(TAGS, ", ".join(fields)):
        raise ValueError("must be an ETag as it was sent, in quotes, or *")
    return fields


async def read_if_match(
    fields: Annotated[
        list[str] | None,
        AfterValidator(_checked),
        Header(
            alias="If-Match",
            description="The `ETag` of what you read. If the row was changed since, nothing happens: 412.",
        ),
        WithJsonSchema({"type": "string", "pattern": TAGS, "examples": ['"3-0123456789abcdef"']}),
    ] = None,
) -> int | None:
    """The version that a change asks for. None: whichever there is. A tag that is weak, or none of ours, never matches.

    Of several the highest, since versions only grow. What is no tag at all is a mistake in the request, so 422: after
    a 412 a client would read the row again, send the same, and so on for ever.
    """
    if not fields:
        return None
    condition = ", ".join(fields)
    return None if condition.strip() == "*" else max(map(int, OURS.findall(condition)), default=NEVER)
