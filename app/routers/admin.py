"""For superusers. The guard stands on the router, so that no route here can forget it."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app import accounts, crud
from app.accounts import Counts
from app.deps import Administrator, Caller, Query, RowId, query_of, reads, require_superuser, writes
from app.errors import Forbidden, documented
from app.extras.history import everything
from app.models import User, UserRead

router = APIRouter(
    prefix="/admin", tags=["admin"], dependencies=[Depends(require_superuser)], responses=documented(403)
)
router.include_router(everything())
UserQuery = Annotated[Query, query_of(User)]
UserReader = Annotated[Caller, reads(User)]
UserWriter = Annotated[Caller, writes(User)]


@router.get("/counts")
async def read_counts(caller: Administrator) -> Counts:
    """How many there are of what."""
    return await accounts.count(caller)


@router.get("/users")
async def list_accounts(caller: UserReader, query: UserQuery) -> list[UserRead]:
    """Every account, newest first."""
    return await crud.users.page(caller, query)


@router.post("/users/{user_id}/activate")
async def activate_user(caller: UserWriter, user_id: RowId) -> UserRead:
    """Let somebody in again. They log in anew."""
    return await accounts.set_active(caller, user_id, True)


@router.post("/users/{user_id}/deactivate", responses=documented(409))
async def deactivate_user(caller: UserWriter, user_id: RowId) -> UserRead:
    """Shut somebody out, from their very next request on. What is theirs stays."""
    return await accounts.set_active(caller, user_id, False)


@router.post("/users/{user_id}/promote")
async def promote_user(caller: UserWriter, user_id: RowId) -> UserRead:
    """Make somebody a superuser."""
    return await accounts.set_superuser(caller, user_id, True)


@router.post(
    "/users/{user_id}/demote",
    tags=["superusers"],
    responses=documented(409) | documented(403, description="You cannot demote yourself"),
)
async def demote_user(caller: UserWriter, user_id: RowId) -> UserRead:
    """Make a superuser an ordinary user. Not yourself: another superuser must agree that you go."""
    if user_id == caller.id:
        raise Forbidden("You cannot demote yourself. Ask another superuser.")
    return await accounts.set_superuser(caller, user_id, False)
