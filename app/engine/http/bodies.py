"""A request's body: all of it there before anything is done for it, bounded while it streams in; then strict JSON.

How long it may take is for wire.py to say: a timer for each body would cost more than all the rest.
"""

from collections.abc import AsyncIterator

from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.types import Message, Receive, Scope

from app.errors import ContentTooLarge, Refusal, UnsupportedMediaType

MOST_KEYS = (
    1000  # of an object: each that is unknown costs an error, and ten thousand of them 0.1 s of everybody's time
)
# In all, those in texts too: lists and objects take two microseconds of everybody's time each, and a large body that is
# nothing but `[]` five seconds.
MOST_BRACKETS = 2**18


def is_announced(scope: Scope) -> bool:
    """Whether the request has a body (RFC 9112, 6.3)."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def may_exceed(scope: Scope, size: int) -> bool:
    """Whether the body may have more bytes: it is announced to have, or comes in pieces without a word of its size."""
    announced = header(scope, b"content-length")
    return is_announced(scope) and not (announced.isdigit() and int(announced[:16]) <= size)


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """All of it, or None if the client went away meanwhile. Raises what `pieces` does."""
    body = bytearray()
    try:
        async for piece in pieces(scope, receive, most):
            body += piece
    except Gone:
        return None
    return bytes(body)


class Gone(Refusal):
    otherwise = "The client went away."  # told to nobody


async def pieces(scope: Scope, receive: Receive, most: int) -> AsyncIterator[bytes]:
    """As they come in.

    Raises ContentTooLarge for more than `most` bytes as soon as they are announced or counted, UnsupportedMediaType
    for a compressed body (what is small here may be huge unpacked), and Gone.
    """
    announced = header(scope, b"content-length") or b"0"
    if not announced.isdigit() or len(announced) > 15 or int(announced) > most:
        raise _too_large(scope, most)
    if header(scope, b"content-encoding").lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("Send it as it is, not compressed.", headers={"Accept-Encoding": "identity"})
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size > most:
            raise _too_large(scope, most)
        yield piece
        if not message.get("more_body"):
            return


def given_back(body: bytes, receive: Receive) -> Receive:
    """What gives `body` in one piece, and then what comes after it: the client's going away."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return whole.pop() if whole else await receive()

    return receive_again


def check_json(scope: Scope, body: bytes) -> None:
    """Raise unless `body` is JSON as RFC 8259 has it, and is called so. Python would take NaN, UTF-16 and any depth."""
    if not is_json(header(scope, b"content-type")):
        # Not merely wrong: a web page anywhere may send a form or text/plain without asking first.
        raise UnsupportedMediaType("Send JSON, with Content-Type: application/json.")
    if len(body) > MOST_BRACKETS and body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise _invalid("too_many", f"More than {MOST_BRACKETS} opening brackets are too many. Send it in parts.")
    try:
        parsed = from_json(body, allow_inf_nan=False, cache_strings=False)  # at most 200 levels deep
    except ValueError:
        raise _invalid("json_invalid", "That is no JSON, or too deep.") from None
    parts = parsed if isinstance(parsed, list) else [parsed]
    if any(isinstance(part, dict) and len(part) > MOST_KEYS for part in parts):
        raise _invalid("too_many", f"More than {MOST_KEYS} keys are too many.")


def is_json(content_type: bytes) -> bool:
    """Whether that names JSON in UTF-8: `application/json`, or `application/*+json` (RFC 6839)."""
    if content_type == b"application/json":
        return True
    media, *parameters = (part.strip() for part in content_type.decode("latin-1").lower().split(";"))
    kind, _, subtype = media.partition("/")
    charsets = {parameter.removeprefix("charset=").strip('"') for parameter in parameters if "charset" in parameter}
    return kind == "application" and (subtype == "json" or subtype.endswith("+json")) and charsets <= {"utf-8", "utf8"}


def header(scope: Scope, wanted: bytes) -> bytes:
    """The first header of that name (in small letters), or nothing."""
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value)
    return b""


def _invalid(kind: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("body",), "msg": message, "type": kind}])


def _too_large(scope: Scope, most: int) -> ContentTooLarge:
    # Who asks whether to send it (RFC 9110, 10.1.1) may not send it now: what comes next would be taken for it.
    closing = {"Connection": "close"} if header(scope, b"expect") else None
    return ContentTooLarge(f"More than {most} bytes are too many.", headers=closing)
