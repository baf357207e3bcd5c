"""Bodies for any entity, made from the fields that it declares: good ones, of which no two collide, and bad ones.

Values rise with the body's number, and within a body from field to field, so that what ends does so after it starts.
Two or more `examples` at a field are all that it is given. A single one serves where nothing made here is accepted.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, EmailStr, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from sqlmodel.main import FieldInfoMetadata

from tests.conftest import PASSWORD

BEGIN = datetime(2100, 1, 1, tzinfo=UTC)
LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length", "max_digits", "decimal_places")
# What values of a class must not be.
WRONG: dict[Any, list[Any]] = {
    str: [5, ["x"], "\x00", "a\x1bb"],
    EmailStr: [5, "x", "x@"],
    bool: ["perhaps", 2],
    int: ["x", 1.5, [1]],
    float: ["x", "NaN", "Infinity"],
    Decimal: ["x", "NaN", "Infinity"],
    AwareDatetime: ["x", "2100-01-01T00:00:00", "2100-13-01T00:00:00Z"],
    date: ["x", "2100-13-01"],
    time: ["x", "25:00"],
    UUID: ["x", 5],
    bytes: ["!", 5],
    Enum: ["nonsense", 77],
    dict: ["x", 5, {"a": "\x00"}],
}
Refer = Callable[[str, int], int | None]  # the id of a row of that table, for the body with that number


def nowhere(table: str, _number: int) -> int | None:
    raise AssertionError(f"It refers to one of the {table}: say which.")


def valid(model: type[BaseModel], number: int, refer: Refer = nowhere, *, whole: bool = True) -> dict[str, Any]:
    """A body that `model` accepts. With all of its fields or, not `whole`, only those that must be there."""
    fields = model.model_fields.items()
    body = {}
    for position, (name, field) in enumerate(fields):
        if whole or field.is_required():
            table, place = target(field), number * len(fields) + position
            value = refer(table, number) if table else _accepted(name, field, number, place)
            if value is not None:  # no such row, where none is needed
                body[name] = value
    return body


def invalid(model: type[BaseModel]) -> list[tuple[str, Any]]:
    """Fields, and for each of them what must be refused."""
    return [(name, value) for name, field in model.model_fields.items() for value in _refused(field)]


def is_nullable(field: FieldInfo) -> bool:
    return type(None) in _parts(field.annotation)


def target(field: FieldInfo) -> str | None:
    """The table that a field refers to."""
    key = _told(field, "foreign_key")
    return key.partition(".")[0] if key else None


def read(field: FieldInfo, value: object) -> Any:
    """What JSON's `value` stands for, as Python has it. Raises ValidationError."""
    return _reader(_Same(field)).validate_json(json.dumps(value))


class _Same:
    """A field, which has no hash: it is this one, and no other."""

    def __init__(self, field: FieldInfo) -> None:
        self.field = field

    def __hash__(self) -> int:
        return id(self.field)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.field is self.field


@lru_cache(1000)
def _reader(same: _Same) -> TypeAdapter[Any]:
    notes = [note for note in same.field.metadata if not isinstance(note, FieldInfoMetadata)]
    kind: Any = same.field.annotation
    return TypeAdapter(Annotated[kind, *notes] if notes else kind)


def _accepted(name: str, field: FieldInfo, number: int, place: int) -> Any:
    examples = [] if _told(field, "unique") else field.examples or []
    chosen = [examples[number % len(examples)]] if len(examples) > 1 else []
    for value in (*chosen, *_made(name, field, number, place), *(field.examples or [])):
        try:
            read(field, value)
        except ValidationError:
            continue
        return value
    raise AssertionError(f"What is good for {name}? Say so at the field: schema_extra={{'examples': [...]}}.")


def _made(name: str, field: FieldInfo, number: int, place: int) -> list[Any]:
    limits, (kind, *_) = _limits(field), _kinds(field)
    least = limits.get("ge", limits.get("gt", -1) + 1)
    most = limits.get("le", limits.get("lt", 2**31) - 1)
    if limits.get("max_digits"):
        most = min(most, 10 ** (limits["max_digits"] - limits["decimal_places"]) - 1)
    bounded = least + place % int(most - least + 1) if isinstance(least, int | float | Decimal) else place
    text = f"{name}-{number:06}".ljust(limits.get("min_length", 0), "x")
    if len(text) > limits.get("max_length", len(text)):
        text = str(number).rjust(limits["max_length"], "0")[-limits["max_length"] :]
    if issubclass(kind, Enum):
        members = [member.value for member in kind]
        return [members[place % len(members)]]
    if kind in (dict, list):
        return [{"number": place}, [place]]
    if issubclass(kind, datetime) or kind is AwareDatetime:
        return [f"{BEGIN + timedelta(minutes=place):%Y-%m-%dT%H:%M:%SZ}"]
    made: dict[Any, Callable[[], list[Any]]] = {
        str: lambda: [text.replace("-", " \u00c9", 1), text],  # a letter of which ASCII does not know the small one
        EmailStr: lambda: [f"new-{number}@example.com"],
        SecretStr: lambda: [PASSWORD],
        bool: lambda: [place % 2 == 0],
        int: lambda: [bounded],
        float: lambda: [bounded + 0.5, bounded],
        Decimal: lambda: [
            f"{bounded}.{'5'.ljust(limits['decimal_places'], '0')}" if limits["decimal_places"] else bounded
        ],
        date: lambda: [f"{BEGIN.date() + timedelta(days=place % 2_000_000)}"],
        time: lambda: [f"{time(place // 60 % 24, place % 60)}"],
        UUID: lambda: [str(UUID(int=place))],
        bytes: lambda: [base64.b64encode(str(place).encode()).decode()],
    }
    return made[kind]() if kind in made else []


def _refused(field: FieldInfo) -> list[Any]:
    limits, kinds = _limits(field), _kinds(field)
    enums = [Enum for kind in kinds if issubclass(kind, Enum)]
    wrong = [value for kind in enums or kinds for value in WRONG.get(kind, ())]
    if "max_length" in limits:
        text = "x" * (limits["max_length"] + 1)
        wrong.append(base64.b64encode(text.encode()).decode() if bytes in kinds else text)
    if "decimal_places" in limits:
        wrong += [f"0.{'1' * (limits['decimal_places'] + 1)}", "9" * (limits["max_digits"] + 1)]
    if {int, float, Decimal} & {*kinds}:
        beyond = {"ge": -1, "gt": 0, "le": 1, "lt": 0}
        wrong += [
            float(limits[name]) + by if float in kinds else int(limits[name]) + by
            for name, by in beyond.items()
            if name in limits
        ]
    return wrong


def _kinds(field: FieldInfo) -> list[type]:
    """The classes whose values it takes, without None."""
    return [kind for kind in _parts(field.annotation) if isinstance(kind, type) and kind is not type(None)]


def _parts(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [each for part in get_args(annotation) for each in _parts(part)]
    return [origin or annotation]


def _limits(field: FieldInfo) -> dict[str, Any]:
    notes = [*_notes(field.annotation), *field.metadata]
    notes = [each for note in notes for each in (note.metadata if isinstance(note, FieldInfo) else [note])]
    return {name: getattr(note, name) for note in notes for name in LIMITS if getattr(note, name, None) is not None}


def _notes(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return [*_notes(inner), *notes]
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return [note for part in parts for note in _notes(part)]


def _told(field: FieldInfo, name: str) -> Any:
    """What SQLModel knows of it: beside an Annotated type it keeps that among the metadata."""
    found = [getattr(each, name, None) for each in (field, *field.metadata)]
    return next((value for value in found if isinstance(value, str | bool) and value), None)
