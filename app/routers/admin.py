"""For superusers. The guard stands on the router, so that no route here can forget it."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response

from app import accounts, crud
from app.accounts import Counts
from app.deps import Administrator, Caller, Hasher, Query, RowId, created, query_of, reads, require_superuser, writes
from app.engine.http.idempotency import NOT_IDEMPOTENT
from app.errors import Forbidden, documented
from app.extras.history import everything
from app.models import AccountCreate, AccountReset, Invitation, User, UserRead, UserWithPassword

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


@router.post("/users", status_code=201, openapi_extra=NOT_IDEMPOTENT, responses=documented(409))
async def create_account(
    caller: UserWriter, hasher: Hasher, data: AccountCreate, response: Response
) -> UserWithPassword:
    """Create an account for somebody. Without a password one is generated, and shown only this once."""
    return created(response, "users", await accounts.create_account(caller, hasher, data))


@router.post("/invitations", status_code=201, responses=documented(409))
async def invite_account(caller: UserWriter, data: Invitation, response: Response) -> UserRead:
    """Create an account, and mail its user a link to choose the password. 409 where no mails are sent."""
    return created(response, "users", await accounts.invite_account(caller, data))


@router.post("/users/{user_id}/reset", openapi_extra=NOT_IDEMPOTENT, responses=documented(409))
async def reset_account(
    caller: UserWriter,
    hasher: Hasher,
    user_id: RowId,
    data: Annotated[AccountReset, Body(default_factory=AccountReset)],
) -> UserWithPassword:
    """Give somebody a new password, shown only this once. Their sessions and machine tokens end.

    For who has lost the password, or the account to a thief. Not for yourself: that takes your current password.
    """
    _refuse_own(caller, user_id, "Change your own password at /users/me/password.")
    return await accounts.reset_account(caller, hasher, user_id, data.email)


@router.delete("/users/{user_id}", status_code=204, responses=documented(409))
async def delete_account(caller: UserWriter, user_id: RowId) -> None:
    """Delete an account, and what is theirs. Not your own: that takes your password, at /users/me/delete.

    409 for the last active superuser, and while something of theirs must not go.
    """
    _refuse_own(caller, user_id, "Delete your own account at /users/me/delete.")
    await accounts.delete_account(caller, user_id)


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
    _refuse_own(caller, user_id, "You cannot demote yourself. Ask another superuser.")
    return await accounts.set_superuser(caller, user_id, False)


def _refuse_own(caller: Caller, user_id: int, sentence: str) -> None:
    if user_id == caller.id:
        raise Forbidden(sentence)
