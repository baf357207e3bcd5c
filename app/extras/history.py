"""What a row was, by whom it was changed, and its way back when it is deleted."""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlmodel import SQLModel

from app.deps import Administrator, Caller, RowId, reads, writes
from app.engine.history import NEWEST, Change, History, PastChange, overall
from app.engine.restoring import restore
from app.engine.verbs import Read, Verbs
from app.errors import documented
from app.extras.names import called, one
from app.models.base import Ref

Before = Annotated[int, Query(ge=1, le=NEWEST, description="Only what has a lower id: go on after the last one told.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]


def routes(verbs: Verbs[Read], _create: type[SQLModel], _update: type[SQLModel]) -> APIRouter:
    """Of one entity."""
    reader = Annotated[Caller, reads(verbs.entity)]
    writer = Annotated[Caller, writes(verbs.entity)]
    router, history = APIRouter(), History(verbs)

    @router.get("/{row_id}/history")
    @called(f"read_{one(verbs)}_history")
    async def read_history(
        caller: reader, row_id: RowId, before: Before = NEWEST, limit: Limit = 100
    ) -> list[PastChange]:
        """What it became with each change, by whom, and what differs. The newest first; also when it is deleted."""
        return await history.of_row(caller, row_id, before=before, limit=limit)

    @router.post("/{row_id}/restore", response_model=verbs.read, responses=documented(409))
    @called(f"restore_{one(verbs)}")
    async def restore_row(caller: writer, row_id: RowId) -> Read:
        """Bring it back when it is deleted, with all that went with it."""
        return await restore(verbs, caller, row_id)

    return router


def everything() -> APIRouter:
    """Of all entities, for the administration."""
    router = APIRouter()

    @router.get("/history", tags=["history"])
    async def list_history(
        caller: Administrator,
        before: Before = NEWEST,
        limit: Limit = 100,
        entity: Annotated[str | None, Query(max_length=64, description="Only of this table.")] = None,
        row_id: Annotated[Ref | None, Query(description="Only of rows with this id.")] = None,
        user_id: Annotated[Ref | None, Query(description="Only what this user did.")] = None,
        request_id: Annotated[str | None, Query(max_length=32, description="Only what this request did.")] = None,
    ) -> list[Change]:
        """What anybody did to anything, the newest first."""
        asked = {"entity": entity, "row_id": row_id, "user_id": user_id, "request_id": request_id}
        return await overall(caller, before=before, limit=limit, **asked)

    return router
