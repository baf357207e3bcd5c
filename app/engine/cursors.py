"""Where a page ends and the next begins: the place of a row in an order. Whoever has it has seen all that is in it."""

import base64
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from app.engine.queries import type_of
from app.errors import Invalid
from app.models.base import Entity

_ADAPTERS: dict[tuple[type[Entity], str], TypeAdapter[Any]] = {}


def cursor_of(entity: type[Entity], sort: str, row: Any) -> str:  # noqa: ANN401  # a Read model
    """The place of `row` in the order `sort`."""
    name = sort.removeprefix("-")
    place = [sort, row.id, adapter(entity, name).dump_python(getattr(row, name), mode="json")]
    return base64.urlsafe_b64encode(to_json(place)).decode().rstrip("=")


def place_in(entity: type[Entity], sort: str, cursor: str) -> tuple[int, Any]:
    """The id and the value that `cursor` stands for. Raises Invalid if it is none of this list in this order."""
    try:
        said, row_id, value = from_json(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        column = entity.__table__.c[sort.removeprefix("-")]
        if said != sort or type(row_id) is not int or not 0 < row_id < 2**63 or (value is None and not column.nullable):
            raise ValueError
        return row_id, adapter(entity, column.name).validate_python(value)
    except (ValueError, TypeError):  # not base64, not JSON, not of three, not of this column
        raise Invalid("That cursor is none of this list in this order.") from None


def adapter(entity: type[Entity], name: str) -> TypeAdapter[Any]:
    """Reads and writes a field's values, also an empty one, as the API does."""
    if (entity, name) not in _ADAPTERS:
        _ADAPTERS[entity, name] = TypeAdapter(type_of(entity, name) | None)
    return _ADAPTERS[entity, name]
