"""What a request's head may be, and how one that may not is answered.

llhttp refuses most of what two servers could read in two ways; this is the rest.
"""

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.errors import Refusal

MOST_FIELDS = 100
FIELDS_SIZE = 16 * 2**10  # bytes of all fields, as they are sent
TARGET_SIZE = 8 * 2**10  # bytes of a path with its query


class NotHttp(Refusal):
    otherwise = "That is no HTTP request."


class TargetTooLong(Refusal):
    status, otherwise = 414, "The address is too long."


class FieldsTooLarge(Refusal):
    status, otherwise = 431, "The header fields are too large."


def check_head(version: str, target: bytes, fields: list[tuple[bytes, bytes]], *, may_be_large: bool) -> None:
    """Raise a Refusal unless two servers read that head in the same way (RFC 9112, 3.2 and 6.1), and it has a size.

    Names in `fields` are in small letters. `may_be_large` is False for a head that came at once: that has its size.
    """
    names = dict(fields)
    is_plain = version == "1.1" and b"host" in names and b"transfer-encoding" not in names and target[:1] == b"/"
    if is_plain and len(names) == len(fields) <= MOST_FIELDS and not may_be_large:
        return  # for speed: so are most
    if version not in ("1.1", "1.0"):
        raise Refusal("This server speaks HTTP/1.1.")
    hosts = [value.lower() for name, value in fields if name == b"host"]
    named = hosts if target[:1] in (b"/", b"*") else target.lower().split(b"/", 3)[2:3]  # http://host/path
    if named != hosts or len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Refusal("There must be one Host.")
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version != "1.1"):
        raise Refusal("The only Transfer-Encoding is chunked, in HTTP/1.1.")
    if len(fields) > MOST_FIELDS:
        raise FieldsTooLarge(f"There are more than {MOST_FIELDS} header fields.")
    if may_be_large and sum(len(name) + len(value) + len(": \r\n") for name, value in fields) > FIELDS_SIZE:
        raise FieldsTooLarge


def answer_bytes(refusal: Refusal, request_id: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """`refusal` as it goes over the wire where no request reaches the app. `headers` are those of every answer."""
    body = json.dumps(refusal.content()).encode()
    own = {
        b"content-type": refusal.media_type.encode(),
        b"content-length": b"%d" % len(body),
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
        b"x-request-id": request_id.encode(),
        b"connection": b"close",
    }
    lines = [b"%b: %b\r\n" % header for header in (*headers, *own.items())]
    return b"%b%b\r\n%b" % (STATUS_LINE[refusal.status], b"".join(lines), body)
