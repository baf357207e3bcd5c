"""An item belongs to a user. The example to copy for an entity of your own."""

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from app.models.base import Access, BigId, Closed, Entity, Line, Partial, Row, Text, listed
from app.models.user import UserRead


class ItemBase(SQLModel):
    title: Line = Field(
        max_length=255, sa_column_kwargs=listed("search"), schema_extra={"examples": ["Order the paint"]}
    )
    description: Text | None = Field(
        default=None,
        max_length=1000,
        sa_column_kwargs=listed("search"),
        schema_extra={"examples": ["Two tins, white."]},
    )


class ItemCreate(Closed, ItemBase):
    pass


class ItemUpdate(Partial, ItemBase):
    pass


class ItemRead(ItemBase, Row):
    owner_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BigId)


class Item(Entity, ItemRead, table=True):
    __tablename__ = "items"
    __table_args__ = (Index(None, "owner_id", "id"), {"sqlite_autoincrement": True})
    __access__ = Access.OWNED


class UserWithItems(UserRead):
    """A user and the newest of their items."""

    items: list[ItemRead]
