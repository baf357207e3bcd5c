"""What a list can be asked: a typed class for each entity, derived from what its fields declare with `listed()`.

A page is found by `skip`, or at any depth as fast as the first by `cursor`: the place of the last row that was seen.
"""

from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, create_model, field_validator
from sqlalchemy import Boolean, Column, Date, DateTime, Enum, Float, Integer, Numeric, String, TypeDecorator, Uuid
from sqlalchemy.types import TypeEngine
from sqlmodel.main import FieldInfoMetadata

from app.models.base import Entity, Text

NEWEST = "-id"
PAGING = ("skip", "limit", "count")
MEMBERS = 50  # of a filter by membership
INDEXED = 500  # letters of a text that PostgreSQL's index, and a cursor, have room for
ORDERED = {"gt": "greater than", "gte": "at least", "lt": "less than", "lte": "at most"}


class Query(BaseModel):
    """Which part of a list, and in which order. Each list has a class of its own, with its filters: `query_class`."""

    model_config = ConfigDict(extra="forbid")

    sort: str = NEWEST
    skip: int = Field(0, ge=0, le=100_000, description="How many to leave out. For more use the cursor.")
    limit: int = Field(100, ge=1, le=100, description="How many at most.")
    cursor: str = Field(
        "",
        max_length=4000,
        description="Go on after this place: the Link header of the page before.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},
    )
    count: bool = Field(False, description="Whether X-Total-Count shall say how many there are: it takes a while.")

    # Told by the verb: the cursor of the next page, and the total.
    _listener: Callable[[str | None, int | None], None] | None = PrivateAttr(None)

    @field_validator("cursor")
    @classmethod
    def _fits(cls, cursor: str, info: ValidationInfo) -> str:
        if cursor and info.data.get("skip"):
            raise ValueError("must not come with skip")
        return cursor

    def asked(self) -> dict[str, Any]:
        """What was sent, but for how many rows after how many."""
        return {name: self.__dict__[name] for name in self.__pydantic_fields_set__ if name not in PAGING}

    def on_answer(self, listener: Callable[[str | None, int | None], None]) -> None:
        """Have the next page's cursor and, if it was asked for, the total told to `listener`."""
        self._listener = listener

    def tell(self, cursor: str | None, total: int | None) -> None:
        if self._listener:
            self._listener(cursor, total)


class Filter(NamedTuple):
    column: str
    how: str  # "" for equality
    size: int = 1  # of a membership; 0 stands for the database's NULL


class Shape(NamedTuple):
    """All of a list's question but the values: each shape is one statement."""

    filters: tuple[Filter, ...] = ()
    sort: str = NEWEST
    place: str = ""  # a cursor is given: after a value, or after a NULL
    searches: bool = False


def query_class(entity: type[Entity]) -> type[Query]:
    """The class of `entity`'s list. Raises TypeError for what cannot be declared, as a column that no answer shows."""
    fields: dict[str, Any] = {}
    sorts, searched = ["id"], []
    for name, uses in declared(entity).items():
        column = entity.__table__.c[name]
        if "filter" in uses:
            fields |= _filters(column, type_of(entity, name))
        sorts += [name] if "sort" in uses else []
        searched += [name] if "search" in uses else []
    choices = Literal[tuple(sign + name for name in sorts for sign in ("-", ""))]  # type: ignore[valid-type]  # computed
    fields["sort"] = (choices, Field(NEWEST, description="By which field; with a minus, the greatest first."))
    if searched:
        contained = f"A text that is in {' or '.join(searched)}; case does not matter."
        fields["q"] = (Text, Field("", max_length=100, description=contained))
    return create_model(f"{entity.__name__}Query", __base__=Query, __doc__=f"Which {entity.__table__.name}.", **fields)


def declared(entity: type[Entity]) -> dict[str, tuple[str, ...]]:
    """What lists can be asked for, by field. Raises TypeError for a column that no answer shows, or no list can use."""
    found = {}
    for column in entity.__table__.c:
        if uses := column.info.get("listed", ()):
            if column.name not in shown(entity):
                raise TypeError(f"{column.name} is in no answer, so no list may be asked for it.")
            if problem := _unfit(column, uses):
                raise TypeError(f"{column.name} {problem}.")
            found[column.name] = tuple(uses)
    return found


def shown(entity: type[Entity]) -> list[str]:
    """The columns of `entity` that answers show: those that do not stand in the table's own class."""
    fields = {name for base in entity.__mro__[1:] for name in getattr(base, "model_fields", ())}
    return [column.name for column in entity.__table__.c if column.name in fields]


def _unfit(column: Column[Any], uses: tuple[str, ...]) -> str:
    if column.name == "q" or column.name in Query.model_fields or hasattr(Query, column.name):
        return "has a name that lists need for themselves"
    kind = plain(column)
    is_text = isinstance(kind, String) and not isinstance(kind, Enum)
    if "search" in uses and not is_text:
        return "is no text to search"
    if {"filter", "sort"} & {*uses}:
        if not isinstance(kind, Boolean | Date | DateTime | Float | Integer | Numeric | String | Uuid):
            return "has a type that lists cannot be filtered or sorted by"
        if isinstance(kind, String) and is_text and (kind.length or INDEXED + 1) > INDEXED:
            return f"needs a max_length of {INDEXED} or less, so that it can have an index"
        if isinstance(kind, Numeric) and not isinstance(kind, Float) and kind.precision is None:
            return "needs max_digits and decimal_places"  # PostgreSQL takes no number of a million digits
    return ""


def _filters(column: Column[Any], kind: Any) -> dict[str, Any]:  # noqa: ANN401  # an annotation
    name, of = column.name, plain(column)
    fields: dict[str, Any] = {name: (kind, Field(None, description=f"Whose {name} is this."))}
    if isinstance(of, Date | DateTime | Float | Integer | Numeric) and not column.foreign_keys:
        for how, words in ORDERED.items():
            fields[f"{name}__{how}"] = (kind, Field(None, description=f"Whose {name} is {words} this."))
    if not isinstance(of, Boolean):
        several = Annotated[list[kind], Field(min_length=1, max_length=MEMBERS)]
        fields[f"{name}__in"] = (several, Field(None, description=f"Whose {name} is one of these: send it repeatedly."))
    if isinstance(of, String) and not isinstance(of, Enum):
        contained = f"Whose {name} holds this; case does not matter."
        fields[f"{name}__contains"] = (Text, Field(None, max_length=100, description=contained))
    if column.nullable:
        fields[f"{name}__null"] = (bool, Field(None, description=f"Whether {name} is empty."))
    return fields


def plain(column: Column[Any]) -> TypeEngine[Any]:
    """SQLAlchemy's own type: SQLModel wraps texts and instants."""
    return column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type


def type_of(entity: type[Entity], name: str) -> Any:  # noqa: ANN401  # an annotation
    """The field's type with its constraints, and without None."""
    fields: Any = entity.model_fields  # type: ignore[attr-defined]  # every entity is a SQLModel
    field = fields[name]
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = Union[tuple(each for each in get_args(kind) if each is not type(None))]  # noqa: UP007  # computed
    # SQLModel's own notes are none of pydantic's, and cannot be part of a type.
    metadata = [each for each in field.metadata if not isinstance(each, FieldInfoMetadata)]
    return Annotated[kind, *metadata] if metadata else kind
