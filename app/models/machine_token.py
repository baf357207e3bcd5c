"""A machine token lets a program act as a user. `python3 -m app token` makes one and shows it, once.

Only its hash is stored.
"""

from sqlmodel import Field, SQLModel

from app.models.base import BigId, Closed, Entity, Line, Row


class MachineTokenBase(SQLModel):
    name: Line = Field(max_length=64)


class MachineTokenCreate(Closed, MachineTokenBase):
    pass


class MachineTokenRead(MachineTokenBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", index=True, sa_type=BigId)


class MachineToken(Entity, MachineTokenRead, table=True):
    __tablename__ = "machine_tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)

    hashed_token: str = Field(max_length=64, unique=True)
