"""Entities that refer to each other, as an office has them."""

from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import FiniteFloat
from sqlalchemy import ColumnElement, Index, UniqueConstraint, and_
from sqlmodel import Field, SQLModel

from app.crud import verbs
from app.models.base import Access, BigId, Closed, Conflict, Entity, Line, Partial, Ref, Row, Text, listed, references
from app.models.types import Day, Instant, by_value


class CompanyBase(SQLModel):
    name: Line = Field(max_length=100, unique=True, sa_column_kwargs=listed("filter", "sort", "search"))


class CompanyCreate(Closed, CompanyBase):
    pass


class CompanyUpdate(Partial, CompanyBase):
    pass


class CompanyRead(CompanyBase, Row):
    pass


class Company(Entity, CompanyRead, table=True):
    """Everyone's."""

    __tablename__ = "scratch_companies"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


class Stage(StrEnum):
    NEW = "brand new"
    DONE = "done"


class ProjectBase(SQLModel):
    title: Line = Field(max_length=200, sa_column_kwargs=listed("filter", "sort", "search"))
    note: Text | None = Field(default=None, max_length=5000, sa_column_kwargs=listed("search"))
    due: Day | None = Field(default=None, sa_column_kwargs=listed("filter", "sort"))
    budget: Decimal = Field(
        default=Decimal(0), max_digits=12, decimal_places=2, sa_column_kwargs=listed("filter", "sort")
    )
    share: FiniteFloat = Field(default=0.5, sa_column_kwargs=listed("sort"))
    starts_at: Instant | None = Field(default=None, sa_column_kwargs=listed("filter", "sort"))
    stage: Stage = Field(default=Stage.NEW, sa_type=by_value(Stage), sa_column_kwargs=listed("filter", "sort"))
    is_open: bool = Field(default=True, sa_column_kwargs=listed("filter"))
    client_id: Ref | None = Field(
        default=None,
        foreign_key="scratch_companies.id",
        ondelete="RESTRICT",
        index=True,
        sa_type=BigId,
        sa_column_kwargs=listed("filter"),
    )
    part_of_id: Ref | None = Field(
        default=None, foreign_key="scratch_projects.id", ondelete="SET NULL", index=True, sa_type=BigId
    )


class ProjectCreate(Closed, ProjectBase):
    pass


class ProjectUpdate(Partial, ProjectBase):
    pass


class ProjectRead(ProjectBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


class Project(Entity, ProjectRead, table=True):
    """Its owner's."""

    __tablename__ = "scratch_projects"
    __table_args__ = (Index(None, "owner_id", "id"), {"sqlite_autoincrement": True})


class PairingBase(SQLModel):
    project_id: Ref = Field(
        foreign_key="scratch_projects.id",
        ondelete="CASCADE",
        index=True,
        sa_type=BigId,
        sa_column_kwargs=listed("filter"),
    )
    company_id: Ref = Field(
        foreign_key="scratch_companies.id",
        ondelete="CASCADE",
        index=True,
        sa_type=BigId,
        sa_column_kwargs=listed("filter"),
    )


class PairingCreate(Closed, PairingBase):
    pass


class PairingUpdate(Partial, PairingBase):
    pass


class PairingRead(PairingBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


class Pairing(Entity, PairingRead, table=True):
    """Many projects, many companies; each pair once."""

    __tablename__ = "scratch_pairings"
    __table_args__ = (
        UniqueConstraint(*references(PairingBase)),
        Index(None, "owner_id", "id"),
        {"sqlite_autoincrement": True},
    )


class TeamBase(SQLModel):
    name: Line = Field(max_length=100)


class TeamCreate(Closed, TeamBase):
    pass


class TeamUpdate(Partial, TeamBase):
    pass


class TeamRead(TeamBase, Row):
    pass


class Team(Entity, TeamRead, table=True):
    """Its members'."""

    __tablename__ = "scratch_teams"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.TEAM
    __team__ = "id"
    __members__ = "scratch_memberships"


class MembershipBase(SQLModel):
    team_id: Ref = Field(foreign_key="scratch_teams.id", ondelete="CASCADE", sa_type=BigId)
    user_id: Ref = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)


class MembershipCreate(Closed, MembershipBase):
    pass


class MembershipRead(MembershipBase, Row):
    pass


class Membership(Entity, MembershipRead, table=True):
    """Who is in which team. The team's members see each other."""

    __tablename__ = "scratch_memberships"
    __table_args__ = (UniqueConstraint(*references(MembershipBase)), {"sqlite_autoincrement": True})
    __access__ = Access.TEAM
    __members__ = "scratch_memberships"


def overlap(new: Any, other: Any) -> ColumnElement[bool]:
    return and_(new.room == other.room, new.starts < other.ends, other.starts < new.ends)


class MeetingBase(SQLModel):
    team_id: Ref = Field(foreign_key="scratch_teams.id", ondelete="CASCADE", index=True, sa_type=BigId)
    room: Line = Field(max_length=20)
    starts: int
    ends: int


class MeetingCreate(Closed, MeetingBase):
    pass


class MeetingUpdate(Partial, MeetingBase):
    pass


class MeetingRead(MeetingBase, Row):
    pass


class Meeting(Entity, MeetingRead, table=True):
    """The team's; and no room is taken twice at a time, by whichever team."""

    __tablename__ = "scratch_meetings"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.TEAM
    __members__ = "scratch_memberships"
    __conflicts__ = (Conflict(overlap, "That room is taken at that time."),)


TABLES = [entity.__table__ for entity in (Company, Project, Pairing, Team, Membership, Meeting)]
companies, projects, pairings = verbs(Company, CompanyRead), verbs(Project, ProjectRead), verbs(Pairing, PairingRead)
teams, memberships = verbs(Team, TeamRead), verbs(Membership, MembershipRead)
meetings = verbs(Meeting, MeetingRead)
