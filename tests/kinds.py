"""Entities of every kind that a team may add, so that the contract's tests are proven before it has any of its own.

Sample has a field of every type, those of tests/office.py refer to each other and belong to teams; the rest is here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Response
from sqlmodel import Field, SQLModel

from app.crud import transaction, verbs
from app.deps import Caller, IfMatch, Query, RowId, created, query_of, reads, writes
from app.engine.caller import Caller as AnyCaller
from app.engine.http import dispatch
from app.errors import documented
from app.extras import extras
from app.main import create_app
from app.models.base import Access, BigId, Closed, Entity, Line, Partial, Ref, Row, listed, rule
from app.settings import Settings
from tests import office
from tests.samples import Sample
from tests.samples import router as samples
from tests.scratch import tables


class VerdictBase(SQLModel):
    words: Line = Field(max_length=80, schema_extra={"examples": ["Go on", "Stop"]})
    rank: int = Field(default=3, ge=1, le=5, sa_column_kwargs=listed("filter", "sort"))
    low: int = Field(ge=0)
    high: int = Field(ge=0)
    project_id: Ref | None = Field(
        default=None, foreign_key="scratch_projects.id", ondelete="SET NULL", index=True, sa_type=BigId
    )


class VerdictCreate(Closed, VerdictBase):
    pass


class VerdictUpdate(Partial, VerdictBase):
    pass


class VerdictRead(VerdictBase, Row):
    pass


class Verdict(Entity, VerdictRead, table=True):
    """For superusers only."""

    __tablename__ = "scratch_verdicts"
    __table_args__ = (
        rule("verdict_has_a_range", "high > low", "A verdict's range must begin before it ends."),
        {"sqlite_autoincrement": True},
    )
    __access__ = Access.RESTRICTED


class MembershipUpdate(Partial, office.MembershipBase):
    pass


async def create_team(caller: AnyCaller, data: office.TeamCreate) -> office.TeamRead:
    """A team begins with one member: whoever made it."""
    async with transaction(caller) as tx:
        team = await office.teams.create(tx, data)
        first = office.MembershipCreate(team_id=team.id, user_id=caller.id)
        await office.memberships.create(AnyCaller(tx.db), first)
        return team


def routes(entity: Any, new: Any, changed: Any, shown: Any) -> APIRouter:
    """Its five, as its own file would have them."""
    nouns, noun, rows = entity.__tablename__, f"scratch_{entity.__name__.lower()}", verbs(entity, shown)
    reader, writer = Annotated[Caller, reads(entity)], Annotated[Caller, writes(entity)]
    router = APIRouter(prefix=f"/api/v1/{nouns}", tags=[nouns])

    @router.get("", name=f"list_{nouns}")
    async def list_them(caller: reader, query: Annotated[Query, query_of(entity)]) -> list[shown]:
        """Those that you see, newest first."""
        return await rows.page(caller, query)

    @router.post("", name=f"create_{noun}", status_code=201, responses=documented(409))
    async def create_one(caller: writer, data: new, response: Response) -> shown:
        """A new one."""
        make = create_team if entity is office.Team else rows.create
        return created(response, nouns, await make(caller, data))

    @router.get("/{row_id}", name=f"read_{noun}")
    async def read_one(caller: reader, row_id: RowId) -> shown:
        """One of them."""
        return await rows.get(caller, row_id)

    @router.patch("/{row_id}", name=f"update_{noun}", responses=documented(409))
    async def update_one(caller: writer, row_id: RowId, changes: changed, version: IfMatch) -> shown:
        """Change what you send, and nothing else."""
        return await rows.update(caller, row_id, changes, version=version)

    @router.delete("/{row_id}", name=f"delete_{noun}", status_code=204, responses=documented(409))
    async def delete_one(caller: writer, row_id: RowId, version: IfMatch) -> None:
        """Delete it, for good."""
        await rows.delete(caller, row_id, version=version)

    router.include_router(extras(rows, new, changed))
    return router


ROUTED = [
    (office.Company, office.CompanyCreate, office.CompanyUpdate, office.CompanyRead),
    (office.Project, office.ProjectCreate, office.ProjectUpdate, office.ProjectRead),
    (office.Pairing, office.PairingCreate, office.PairingUpdate, office.PairingRead),
    (office.Team, office.TeamCreate, office.TeamUpdate, office.TeamRead),
    (office.Membership, office.MembershipCreate, MembershipUpdate, office.MembershipRead),
    (office.Meeting, office.MeetingCreate, office.MeetingUpdate, office.MeetingRead),
    (Verdict, VerdictCreate, VerdictUpdate, VerdictRead),
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
