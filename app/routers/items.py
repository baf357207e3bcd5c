"""Items belong to a user. Someone else's item does not exist: 404, never 403. A superuser sees all."""

from typing import Annotated

from fastapi import APIRouter, Response

from app.crud import verbs
from app.deps import Caller, IfMatch, Query, RowId, created, query_of, reads, writes
from app.errors import documented
from app.extras import extras
from app.models.item import Item, ItemCreate, ItemRead, ItemUpdate

router = APIRouter(prefix="/items", tags=["items"])
items = verbs(Item, ItemRead)
ItemQuery = Annotated[Query, query_of(Item)]
ItemReader = Annotated[Caller, reads(Item)]
ItemWriter = Annotated[Caller, writes(Item)]


@router.get("")
async def list_items(caller: ItemReader, query: ItemQuery) -> list[ItemRead]:
    """Your items, newest first. For superusers everybody's."""
    return await items.page(caller, query)


@router.post("", status_code=201, responses=documented(409))
async def create_item(caller: ItemWriter, data: ItemCreate, response: Response) -> ItemRead:
    """Create an item. It belongs to you."""
    return created(response, "items", await items.create(caller, data))


@router.get("/{item_id}")
async def read_item(caller: ItemReader, item_id: RowId) -> ItemRead:
    """One item."""
    return await items.get(caller, item_id)


@router.patch("/{item_id}", responses=documented(409))
async def update_item(caller: ItemWriter, item_id: RowId, changes: ItemUpdate, version: IfMatch) -> ItemRead:
    """Change what you send, and nothing else."""
    return await items.update(caller, item_id, changes, version=version)


@router.delete("/{item_id}", status_code=204, responses=documented(409))
async def delete_item(caller: ItemWriter, item_id: RowId, version: IfMatch) -> None:
    """Delete an item, for good."""
    await items.delete(caller, item_id, version=version)


router.include_router(extras(items, ItemCreate, ItemUpdate))
