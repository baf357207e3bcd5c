"""Entities of every kind that a team may add, so that the contract's tests are proven before it has any of its own.

Theirs are Sample (owned, a field of every type), and beside it: shared, restricted and a team's; references that
restrict, cascade and let go; pairs; rules across fields and over rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Response
from sqlalchemy import ColumnElement, Index, UniqueConstraint, and_
from sqlmodel import Field, SQLModel

from app.crud import transaction, verbs
from app.deps import Caller, Query, RowId, created, query_of
from app.engine.caller import Caller as AnyCaller
from app.engine.http import dispatch
from app.errors import documented
from app.main import create_app
from app.models.base import Access, BigId, Closed, Conflict, Entity, Line, Partial, Ref, Row, listed, references, rule
from app.models.types import Instant
from app.settings import Settings
from tests.samples import Sample
from tests.samples import router as samples
from tests.scratch import tables


class Owned(Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


def refer(table: str, ondelete: str, **more: Any) -> Any:
    kept = {"index": True, "sa_type": BigId, "sa_column_kwargs": listed("filter")}
    return Field(foreign_key=f"{table}.id", ondelete=ondelete, **kept, **more)


class TopicBase(SQLModel):
    name: Line = Field(max_length=40, unique=True, sa_column_kwargs=listed("filter", "sort", "search"))
    rank: int = Field(default=3, ge=1, le=5, index=True, sa_column_kwargs=listed("filter", "sort"))
    under_id: Ref | None = refer("scratch_topics", "SET NULL", default=None)


class TopicCreate(Closed, TopicBase):
    pass


class TopicUpdate(Partial, TopicBase):
    pass


class TopicRead(TopicBase, Row):
    pass


class Topic(Entity, TopicRead, table=True):
    """Everyone's."""

    __tablename__ = "scratch_topics"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


class NoteBase(SQLModel):
    title: Line = Field(max_length=200, sa_column_kwargs=listed("search"))
    topic_id: Ref = refer("scratch_topics", "RESTRICT")
    sample_id: Ref | None = refer("scratch_samples", "SET NULL", default=None)


class NoteCreate(Closed, NoteBase):
    pass


class NoteUpdate(Partial, NoteBase):
    pass


class NoteRead(NoteBase, Owned):
    pass


class Note(Entity, NoteRead, table=True):
    """Its owner's, about a topic."""

    __tablename__ = "scratch_notes"
    __table_args__ = (Index(None, "owner_id", "id"), {"sqlite_autoincrement": True})


class LabelingBase(SQLModel):
    note_id: Ref = refer("scratch_notes", "CASCADE")
    topic_id: Ref = refer("scratch_topics", "CASCADE")


class LabelingCreate(Closed, LabelingBase):
    pass


class LabelingUpdate(Partial, LabelingBase):
    pass


class LabelingRead(LabelingBase, Owned):
    pass


class Labeling(Entity, LabelingRead, table=True):
    """Notes have many topics, and topics many notes; each pair once."""

    __tablename__ = "scratch_labelings"
    __table_args__ = (
        UniqueConstraint(*references(LabelingBase)),
        Index(None, "owner_id", "id"),
        {"sqlite_autoincrement": True},
    )


def overlap(new: Any, other: Any) -> ColumnElement[bool]:
    return and_(new.room == other.room, new.starts_at < other.ends_at, other.starts_at < new.ends_at)


class StayBase(SQLModel):
    room: Line = Field(max_length=40, schema_extra={"examples": ["Blue", "Red"]})
    starts_at: Instant = Field(index=True, sa_column_kwargs=listed("filter", "sort"))
    ends_at: Instant


class StayCreate(Closed, StayBase):
    pass


class StayUpdate(Partial, StayBase):
    pass


class StayRead(StayBase, Owned):
    pass


class Stay(Entity, StayRead, table=True):
    """No two in one room at a time."""

    __tablename__ = "scratch_stays"
    __table_args__ = (
        rule("stay_ends", "ends_at > starts_at", "A stay must end after it starts."),
        Index(None, "owner_id", "id"),
        {"sqlite_autoincrement": True},
    )
    __conflicts__ = (Conflict(overlap, "That room is taken at that time."),)


class VerdictBase(SQLModel):
    words: Line = Field(max_length=80)
    topic_id: Ref | None = refer("scratch_topics", "CASCADE", default=None)


class VerdictCreate(Closed, VerdictBase):
    pass


class VerdictUpdate(Partial, VerdictBase):
    pass


class VerdictRead(VerdictBase, Row):
    pass


class Verdict(Entity, VerdictRead, table=True):
    """For superusers only."""

    __tablename__ = "scratch_verdicts"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.RESTRICTED


class CrewBase(SQLModel):
    name: Line = Field(max_length=80)


class CrewCreate(Closed, CrewBase):
    pass


class CrewUpdate(Partial, CrewBase):
    pass


class CrewRead(CrewBase, Row):
    pass


class Crew(Entity, CrewRead, table=True):
    """A team."""

    __tablename__ = "scratch_crews"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.TEAM
    __team__ = "id"
    __members__ = "scratch_memberships"


class MembershipBase(SQLModel):
    team_id: Ref = refer("scratch_crews", "CASCADE")
    user_id: Ref = refer("users", "CASCADE")


class MembershipCreate(Closed, MembershipBase):
    pass


class MembershipUpdate(Partial, MembershipBase):
    pass


class MembershipRead(MembershipBase, Row):
    pass


class Membership(Entity, MembershipRead, table=True):
    """Who is in which team."""

    __tablename__ = "scratch_memberships"
    __table_args__ = (UniqueConstraint(*references(MembershipBase)), {"sqlite_autoincrement": True})
    __access__ = Access.TEAM
    __members__ = "scratch_memberships"


class TaskBase(SQLModel):
    title: Line = Field(max_length=80, sa_column_kwargs=listed("search"))
    team_id: Ref = refer("scratch_crews", "CASCADE")


class TaskCreate(Closed, TaskBase):
    pass


class TaskUpdate(Partial, TaskBase):
    pass


class TaskRead(TaskBase, Row):
    pass


class Task(Entity, TaskRead, table=True):
    """A team's."""

    __tablename__ = "scratch_tasks"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.TEAM
    __members__ = "scratch_memberships"


async def create_crew(caller: AnyCaller, data: CrewCreate) -> CrewRead:
    """A crew begins with one member: whoever made it."""
    async with transaction(caller) as tx:
        crew = await verbs(Crew, CrewRead).create(tx, data)
        first = MembershipCreate(team_id=crew.id, user_id=caller.id)
        await verbs(Membership, MembershipRead).create(AnyCaller(tx.db), first)
        return crew


def routes(entity: Any, new: Any, changed: Any, shown: Any) -> APIRouter:
    """Its five, as its own file would have them."""
    nouns, noun, rows = entity.__tablename__, f"scratch_{entity.__name__.lower()}", verbs(entity, shown)
    restricted = documented(403) if entity.__access__ is Access.RESTRICTED else {}
    router = APIRouter(prefix=f"/api/v1/{nouns}", tags=[nouns], responses=restricted)

    @router.get("", name=f"list_{nouns}")
    async def list_them(caller: Caller, query: Annotated[Query, query_of(entity)]) -> list[shown]:
        """Those that you see, newest first."""
        return await rows.page(caller, query)

    @router.post("", name=f"create_{noun}", status_code=201, responses=documented(409))
    async def create_one(caller: Caller, data: new, response: Response) -> shown:
        """A new one."""
        make = create_crew if entity is Crew else rows.create
        return created(response, nouns, await make(caller, data))

    @router.get("/{row_id}", name=f"read_{noun}")
    async def read_one(caller: Caller, row_id: RowId) -> shown:
        """One of them."""
        return await rows.get(caller, row_id)

    @router.patch("/{row_id}", name=f"update_{noun}", responses=documented(409))
    async def update_one(caller: Caller, row_id: RowId, changes: changed) -> shown:
        """Change what you send, and nothing else."""
        return await rows.update(caller, row_id, changes)

    @router.delete("/{row_id}", name=f"delete_{noun}", status_code=204, responses=documented(409))
    async def delete_one(caller: Caller, row_id: RowId) -> None:
        """Delete it, for good."""
        await rows.delete(caller, row_id)

    return router


ROUTED = [
    *((Topic, TopicCreate, TopicUpdate, TopicRead), (Note, NoteCreate, NoteUpdate, NoteRead)),
    *((Labeling, LabelingCreate, LabelingUpdate, LabelingRead), (Stay, StayCreate, StayUpdate, StayRead)),
    *((Verdict, VerdictCreate, VerdictUpdate, VerdictRead), (Crew, CrewCreate, CrewUpdate, CrewRead)),
    *((Membership, MembershipCreate, MembershipUpdate, MembershipRead), (Task, TaskCreate, TaskUpdate, TaskRead)),
]
TABLES = [Sample.__table__, *(entity.__table__ for entity, *_ in ROUTED)]


def app_with_all(settings: Settings) -> FastAPI:
    """The app, and all of these in it."""
    app = create_app(settings)
    app.include_router(samples)
    for each in ROUTED:
        app.include_router(routes(*each))
    dispatch.install(app)
    return app


@contextmanager
def all_tables(url: str) -> Iterator[None]:
    with tables(url, TABLES):
        yield
