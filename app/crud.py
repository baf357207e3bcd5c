"""The one write path. Every door (API, command line, worker) uses these verbs, so no rule can be forgotten at one.

async with transaction(caller) as tx:
    await items.create(tx, first)
    await items.create(tx, second)  # refused? Then nothing of the first remains

When two requests change one row: an update is one statement that counts the version up, so changes of different fields
both survive. With `version=` the slower one is Stale (412). After a deletion there is nothing to change: Missing (404).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from app.engine.caller import Caller, Standing
from app.engine.verbs import Verbs
from app.engine.waiting import retried
from app.models import (
    Item,
    ItemCreate,
    ItemRead,
    LoginSession,
    MachineToken,
    MachineTokenRead,
    SessionRead,
    User,
    UserRead,
    UserWithItems,
)
from app.models.base import Entity, Row

# Each statement below also asks that its caller is still there, active, and what their token says; and, where the model
# says OWNED, that the row is theirs.
standing = Standing(User, LoginSession, MachineToken)

Read = TypeVar("Read", bound=Row)


def verbs(entity: type[Entity], read: type[Read]) -> Verbs[Read]:
    """The verbs of `entity`, answered as `read`: `projects = verbs(Project, ProjectRead)`, in any file you like."""
    return Verbs(entity, read, standing)


users = verbs(User, UserRead)
items = verbs(Item, ItemRead)
machine_tokens = verbs(MachineToken, MachineTokenRead)
sessions = verbs(LoginSession, SessionRead)


@asynccontextmanager
async def transaction(caller: Caller) -> AsyncIterator[Caller]:
    """All the verbs called with what this yields, or none of them. Committed when the block ends without an exception.

    Keep it short: on SQLite others wait to write meanwhile. Raises Unavailable, and keeps nothing, after 10 seconds, or
    if another transaction was faster: see `retried`, which begins anew then.
    """
    async with caller.db.transaction() as db:
        yield replace(caller, db=db)


async def read_user_with_items(caller: Caller, user_id: int) -> UserWithItems:
    """A user and the newest 100 of their items. Raises Missing."""
    user = await users.get(caller, user_id)
    return UserWithItems.model_construct(**dict(user), items=await items.page(caller, owner_id=user_id))


@retried
async def create_item_for(caller: Caller, user_id: int, data: ItemCreate) -> ItemRead:
    """An item that belongs to `user_id`. Raises Missing if the caller cannot see that user."""
    async with transaction(caller) as tx:
        await users.get(tx, user_id)
        return await items.create(tx, data, owner_id=user_id)
