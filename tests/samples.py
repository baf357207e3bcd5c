"""An entity with a field of every type that docs/types.md promises, once required and once optional."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import FiniteFloat
from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from app.crud import verbs
from app.deps import Caller, IfMatch, Query, RowId, created, query_of, reads, writes
from app.errors import documented
from app.extras import extras
from app.models.base import Access, BigId, Closed, Entity, Partial, Row, Text, listed
from app.models.types import Base64, Day, Instant, Int64, Json, JsonColumn, by_value


class Kind(StrEnum):
    """The names are not the values: what is stored must be told apart."""

    OPEN = "still open"
    CLOSED = "geschlossen \U0001f512"


ASKED = listed("filter", "sort")


class SampleBase(SQLModel):
    yes: bool
    at: Instant
    day: Day
    price: Decimal = Field(max_digits=15, decimal_places=2)
    key: UUID
    kind: Kind = Field(sa_type=by_value(Kind))
    json_: Json = Field(sa_type=JsonColumn)
    data: Base64 = Field(max_length=1000)
    number: Int64 = Field(sa_type=BigInteger)
    ratio: FiniteFloat
    words: Text = Field(max_length=1000)

    maybe_yes: bool | None = Field(default=None, sa_column_kwargs=ASKED)
    maybe_at: Instant | None = Field(default=None, sa_column_kwargs=ASKED)
    maybe_day: Day | None = Field(default=None, sa_column_kwargs=ASKED)
    maybe_price: Decimal | None = Field(default=None, max_digits=15, decimal_places=2, sa_column_kwargs=ASKED)
    maybe_key: UUID | None = Field(default=None, sa_column_kwargs=ASKED)
    maybe_kind: Kind | None = Field(default=None, sa_type=by_value(Kind), sa_column_kwargs=ASKED)
    maybe_json_: Json | None = Field(default=None, sa_type=JsonColumn)
    maybe_data: Base64 | None = Field(default=None, max_length=1000)
    maybe_number: Int64 | None = Field(default=None, sa_type=BigInteger, sa_column_kwargs=ASKED)
    maybe_ratio: FiniteFloat | None = None
    maybe_words: Text | None = Field(default=None, max_length=1000, sa_column_kwargs=listed("search"))


class SampleCreate(Closed, SampleBase):
    pass


class SampleUpdate(Partial, SampleBase):
    pass


class SampleRead(SampleBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


class Sample(Entity, SampleRead, table=True):
    __tablename__ = "scratch_samples"
    __table_args__ = (Index(None, "owner_id", "id"), {"sqlite_autoincrement": True})
    __access__ = Access.OWNED


samples = verbs(Sample, SampleRead)
router = APIRouter(prefix="/api/v1/scratch_samples", tags=["scratch_samples"])
SampleQuery = Annotated[Query, query_of(Sample)]
SampleReader = Annotated[Caller, reads(Sample)]
SampleWriter = Annotated[Caller, writes(Sample)]


@router.get("")
async def list_scratch_samples(caller: SampleReader, query: SampleQuery) -> list[SampleRead]:
    """Your samples, newest first."""
    return await samples.page(caller, query)


@router.post("", status_code=201, responses=documented(409))
async def create_scratch_sample(caller: SampleWriter, data: SampleCreate, response: Response) -> SampleRead:
    """A new sample."""
    return created(response, "scratch_samples", await samples.create(caller, data))


@router.get("/{sample_id}")
async def read_scratch_sample(caller: SampleReader, sample_id: RowId) -> SampleRead:
    """One sample."""
    return await samples.get(caller, sample_id)


@router.patch("/{sample_id}", responses=documented(409))
async def update_scratch_sample(
    caller: SampleWriter, sample_id: RowId, changes: SampleUpdate, version: IfMatch
) -> SampleRead:
    """Change what you send, and nothing else."""
    return await samples.update(caller, sample_id, changes, version=version)


@router.delete("/{sample_id}", status_code=204, responses=documented(409))
async def delete_scratch_sample(caller: SampleWriter, sample_id: RowId, version: IfMatch) -> None:
    """Delete a sample, for good."""
    await samples.delete(caller, sample_id, version=version)


router.include_router(extras(samples, SampleCreate, SampleUpdate))
