"""What a request's head may be. llhttp refuses most of what two servers could read in two ways; this is the rest."""

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


def check_head(version: str, fields: list[tuple[bytes, bytes]], *, may_be_large: bool) -> None:
    """Raise a Refusal unless two servers read that head in the same way (RFC 9112, 3.2 and 6.1), and it has a size.

    Names in `fields` are in small letters. `may_be_large` is False for a head that came at once: that has its size.
    """
    names = dict(fields)
    is_plain = version == "1.1" and b"host" in names and b"transfer-encoding" not in names
    if is_plain and len(names) == len(fields) <= MOST_FIELDS and not may_be_large:
        return  # for speed: so are most
    if version not in ("1.1", "1.0"):
        raise Refusal("This server speaks HTTP/1.1.")
    hosts = [name for name, _ in fields].count(b"host")
    if hosts != 1 and (hosts or version == "1.1"):
        raise Refusal("There must be one Host.")
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version != "1.1"):
        raise Refusal("The only Transfer-Encoding is chunked, in HTTP/1.1.")
    if len(fields) > MOST_FIELDS:
        raise FieldsTooLarge(f"There are more than {MOST_FIELDS} header fields.")
    if may_be_large and sum(len(name) + len(value) + len(": \r\n") for name, value in fields) > FIELDS_SIZE:
        raise FieldsTooLarge
