"""A machine token lets a program act as a user, within its scope, until it expires or is revoked.

It is shown once. Only its hash is stored, and its first letters, by which a leaked one is recognised.
"""

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import StringConstraints
from sqlmodel import Field, SQLModel

from app.models.base import BigId, Closed, Entity, Line, Row

# As RFC 6749 writes it (section 3.3).
Scope = Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]+( [!#-\[\]-~]+)*$")]


class MachineTokenBase(SQLModel):
    name: Line = Field(max_length=64, schema_extra={"examples": ["backups"]})


class MachineTokenCreate(Closed, MachineTokenBase):
    scope: Scope | None = Field(
        default=None,
        max_length=2000,
        description="What it may do, separated by spaces. None: all that you may.",
        schema_extra={"examples": ["items:read"]},
    )
    days: int | None = Field(90, ge=1, le=3650, description="How long it is valid. None: until it is revoked.")


class MachineTokenRead(MachineTokenBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)
    scope: str | None = Field(default=None, max_length=2000, description="What it may do. None: all that you may.")
    prefix: str = Field(default="", max_length=16, description="How it begins.")
    expires_at: datetime | None = Field(default=None, description="None: it does not.")
    last_used_at: datetime | None = Field(default=None, description="To the minute. None: never.")


class MachineToken(Entity, MachineTokenRead, table=True):
    __tablename__ = "machine_tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __recorded__: ClassVar = ("INSERT", "DELETE")  # not each use

    hashed_token: str = Field(max_length=64, unique=True)


class NewMachineToken(MachineTokenRead):
    """Shown this once."""

    token: str = Field(description="To send as `X-Token`.")
