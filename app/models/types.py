"""Field types that both databases keep exactly and refuse alike. docs/types.md shows how to declare each of them."""

import base64
import math
import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, JsonValue, PlainSerializer, WithJsonSchema
from sqlalchemy import JSON, Enum
from sqlalchemy.dialects.postgresql import JSONB

from app.models.base import clean


def written(value: object) -> object:
    """A text that is no number, or what is a date already: pydantic would take `5` for five seconds after 1970."""
    if isinstance(value, int | float | str) and not re.match(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError("must be written like 2026-11-24, or 2026-11-24T12:00:00Z")
    return value


FIRST, LAST = (end.replace(tzinfo=UTC) for end in (datetime.min, datetime.max))
DAY = timedelta(days=1)

# A day away from either end of the calendar, so that it can be told in every time zone.
Instant = Annotated[AwareDatetime, BeforeValidator(written), Field(ge=FIRST + DAY, le=LAST - DAY)]
Day = Annotated[date, BeforeValidator(written)]

# With sa_type=BigInteger: a plain int is a column of 32 bits.
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # two bounds that a float, which OpenAPI has, tells exactly


def decode(value: object) -> object:
    """JSON has no bytes, so a text is base64; what is bytes already stays as it is."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(decode),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


def clean_json(value: JsonValue) -> JsonValue:
    """`value`, if both databases can keep every text in it, and JSON every number."""
    if isinstance(value, str):
        clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not hold a number beyond all bounds")
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        clean_json(part)
    return value


# With sa_type=JsonColumn. None is the database's NULL. JSONB, since PostgreSQL cannot compare plain JSON.
Json = Annotated[dict[str, JsonValue] | list[JsonValue], AfterValidator(clean_json)]
JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def by_value(kind: type[StrEnum]) -> Enum:
    """The sa_type of a StrEnum. Stored as text, so that a new member needs no migration.

    SQLModel's own would store the member's name, in an ENUM type that PostgreSQL keeps when the table is long gone.
    """
    return Enum(kind, native_enum=False, length=64, values_callable=lambda kind: [member.value for member in kind])
