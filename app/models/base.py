"""What every entity has: an id never given twice, two instants, a version that grows with each change, and manners.

An entity is one file: its fields once in a Base, and by inheritance the table, Create, Read and Update.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import MISSING, AfterValidator, ConfigDict
from pydantic import Field as Constraint
from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, Index, Integer, Table, text
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel

# Named, so that migrations can find them again and a violation can be told in a sentence.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# 64 bits on PostgreSQL; SQLite's row id wants the very word INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")


def clean(value: str) -> str:
    """`value`, if both databases can keep it: no control character but tab and line break, no lone surrogate."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n\r" for letter in value):
        raise ValueError("must not hold control characters")
    return value


def single(value: str) -> str:
    """`value`, if it can stand on one line by itself: not blank, no line break."""
    if not value.replace("\ufeff", "").strip() or any(letter in value for letter in "\t\n\r\u2028\u2029"):
        raise ValueError("must be one line, and not blank")
    return value


# The same, told in the OpenAPI document. A pattern alone would be refused in words that no person understands.
CLEAN = {"pattern": r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"}
LETTER = r"\x00-\x1f\x7f-\x9f\u2028\u2029"  # and what is none
SINGLE = {"pattern": rf"^[^{LETTER}]*[^\s\ufeff{LETTER}][^{LETTER}]*$"}

# The text types of every entity. Give each field its own max_length.
Text = Annotated[str, AfterValidator(clean), Constraint(json_schema_extra=CLEAN)]
Line = Annotated[Text, AfterValidator(single), Constraint(json_schema_extra=SINGLE)]

# The id of another row. Up to 2^53-1, which JavaScript can hold.
Ref = Annotated[int, Constraint(ge=1, le=2**53 - 1)]


def listed(*uses: Literal["filter", "sort", "search"]) -> dict[str, Any]:
    """What a list can be asked for by this field. Goes into its `sa_column_kwargs`.

    Filters and sorting come with their index, so with a migration. docs/lists.md shows what can be asked.
    """
    return {"info": {"listed": uses}}


class Access(Enum):
    """Who sees an entity's rows; somebody else's do not exist for them. A superuser sees every row.

    The verbs put it into every statement's WHERE, so that no route can forget it.
    """

    OWNED = "the user whose id stands in the owner's column"
    SHARED = "everyone signed in"
    RESTRICTED = "superusers only"
    TEAM = "the members of the team whose id stands in the team's column"


def utcnow() -> datetime:
    return datetime.now(UTC)


def _without_defaults(schema: dict[str, Any]) -> None:
    # What is read has every field: a default would only say how the database came by it.
    for field in schema["properties"].values():
        field.pop("default", None)


class Row(SQLModel):
    """What the database adds to every row, and every answer shows."""

    model_config = ConfigDict(  # type: ignore[assignment]  # SQLModel adds keys that we do not use
        json_schema_serialization_defaults_required=True, json_schema_extra=_without_defaults
    )

    id: int = Field(default=None, primary_key=True, sa_type=BigId)
    created_at: datetime = Field(default_factory=utcnow)
    updated_at: datetime = Field(default_factory=utcnow, sa_column_kwargs={"onupdate": utcnow})
    version: int = Field(default=1, sa_column_kwargs={"onupdate": text("version + 1")})


class Entity:
    """Mixed into every table class: `class Item(Entity, ItemRead, table=True)`."""

    __access__: ClassVar[Access] = Access.OWNED
    __owner__: ClassVar[str] = "owner_id"
    __team__: ClassVar[str] = "team_id"  # where Access.TEAM looks for the team; for the team itself, "id"
    __members__: ClassVar[str] = "memberships"  # the table that says who is in it: team_id, user_id
    __conflicts__: ClassVar[tuple["Conflict", ...]] = ()
    __recorded__: ClassVar[tuple[str, ...]] = ("INSERT", "UPDATE", "DELETE")  # what the history tells of it
    __table__: ClassVar[Table]

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805  # SQLAlchemy calls it with the class
        cls._index_what_is_listed()
        # A Session that saves what somebody else changed meanwhile is refused, and not the last to win.
        return {"version_id_col": cls.__table__.c.version}

    @classmethod
    def _index_what_is_listed(cls) -> None:
        """By whose the rows are, then by the field, and in its order: so a page is read from the index."""
        columns, there = cls.__table__.c, [[*index.columns.keys()] for index in cls.__table__.indexes]
        whose = {Access.OWNED: cls.__owner__, Access.TEAM: cls.__team__}.get(cls.__access__, "id")
        for column in columns:
            names = [name for name in dict.fromkeys((whose, column.name)) if name != "id"] + ["id"]
            if {"filter", "sort"} & {*column.info.get("listed", ())} and not column.unique and names not in there:
                Index(None, *(columns[name] for name in names))


class Closed(SQLModel):
    """What a client may send. A key that is not declared is refused, so none sets `owner_id`, and no typo is lost."""

    model_config = ConfigDict(extra="forbid")  # type: ignore[assignment]  # SQLModel adds keys that we do not use


class Partial(Closed):
    """What a client may change: every field of its Base, each optional. Absent means unchanged; null is not absent."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            field.default, field.default_factory = MISSING, None
            field.annotation = field.annotation | MISSING  # type: ignore[assignment]  # a sentinel in a union
        cls.model_rebuild(force=True)


def rule(name: str, condition: str | ColumnElement[bool], sentence: str) -> CheckConstraint:
    """A rule across fields, kept by the database and answered 422 with its sentence. Goes into `__table_args__`.

    Migrations compare names: give a rule that you change a new one.
    """
    return CheckConstraint(condition, name=name, info={"sentence": sentence})


@dataclass(frozen=True)
class Conflict:
    """A rule over rows: no other row may stand against a new or changed one. Answered 409 with its sentence.

    `between` is given two rows' columns, and says when they clash: `new.room == other.room`. Nothing slips in between:
    it is asked after the write, in its transaction, while nobody else writes to the table.
    """

    between: Callable[[Any, Any], ColumnElement[bool]]
    sentence: str


def references(base: type[SQLModel]) -> list[str]:
    """The fields of `base` that refer to other rows: `UniqueConstraint(*references(LabelingBase))`, each pair once."""
    # Beside an Annotated type SQLModel keeps what it knows among the field's metadata.
    notes = {name: (field, *field.metadata) for name, field in base.model_fields.items()}
    return [name for name, of in notes.items() if any(isinstance(getattr(n, "foreign_key", None), str) for n in of)]
