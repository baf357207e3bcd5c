"""Users sign up and look after themselves. Only superusers see others."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app import accounts, crud
from app.accounts import Sent
from app.deps import (
    Application,
    Caller,
    Client,
    Hasher,
    IfMatch,
    Query,
    RowId,
    Settings,
    created,
    query_of,
    reads,
    require_superuser,
    writes,
)
from app.errors import Forbidden, documented
from app.models import (
    Item,
    ItemCreate,
    ItemRead,
    PasswordChange,
    PasswordProof,
    User,
    UserCreate,
    UserRead,
    UserUpdate,
    UserWithItems,
)

router = APIRouter(prefix="/users", tags=["users"])
UserQuery = Annotated[Query, query_of(User)]
UserReader = Annotated[Caller, reads(User)]
UserWriter = Annotated[Caller, writes(User)]
UserWithItemsReader = Annotated[Caller, reads(User, Item)]
ItemQuery = Annotated[Query, query_of(Item)]
ItemReader = Annotated[Caller, reads(Item)]
ItemWriter = Annotated[Caller, writes(Item)]


@router.post("", status_code=201, responses=documented(403, 409, 429) | {202: {"model": Sent, "description": "Mailed"}})
async def create_user(
    application: Application, hasher: Hasher, settings: Settings, client: Client, data: UserCreate, response: Response
) -> UserRead | Sent:
    """Sign up. Anybody may, unless registration is closed.

    Where MAIL_URL is set, the answer is 202, and the account is there once the link in the mail was opened.
    """
    if not settings.registration_open:
        raise Forbidden("Registration is closed. Ask a superuser for an account.")
    await accounts.count_sign_up(application, hasher, client.address, settings.sign_up_attempts)
    if settings.mail_url:
        response.status_code = 202
        return await accounts.ask_for_account(application, hasher, data)
    return created(response, "users", await accounts.register(application, hasher, data))


@router.get("", dependencies=[Depends(require_superuser)], responses=documented(403))
async def list_users(caller: UserReader, query: UserQuery) -> list[UserRead]:
    """Every user, newest first. For superusers."""
    return await crud.users.page(caller, query)


@router.get("/me")
async def read_me(caller: UserReader) -> UserRead:
    """Who you are."""
    return await crud.users.get(caller, caller.id)


@router.patch("/me", responses=documented(403, 409, 429))
async def update_me(caller: UserWriter, hasher: Hasher, changes: UserUpdate, version: IfMatch) -> UserRead:
    """Change what you send, and nothing else. A new e-mail takes the current password."""
    return await accounts.update_account(caller, hasher, changes, version=version)


@router.patch("/me/password", status_code=204, responses=documented(403, 429))
async def update_my_password(caller: UserWriter, hasher: Hasher, data: PasswordChange) -> None:
    """Change your password. Every login ends, this one too: log in again. Machine tokens stay."""
    await accounts.change_password(caller, hasher, data)


@router.post("/me/delete", status_code=204, responses=documented(403, 409, 429))
async def delete_me(caller: UserWriter, hasher: Hasher, proof: PasswordProof) -> None:
    """Delete your account, and what is yours. Nothing brings it back.

    Not as the last active superuser, and not while something of yours must not go: 409.
    """
    await accounts.delete_own_account(caller, hasher, proof.current_password.get_secret_value())


@router.get("/me/items")
async def list_my_items(caller: ItemReader, query: ItemQuery) -> list[ItemRead]:
    """Your own items, newest first."""
    return await crud.items.page(caller, query, owner_id=caller.id)


@router.get("/{user_id}")
async def read_user(caller: UserWithItemsReader, user_id: RowId) -> UserWithItems:
    """A user and the newest 100 of their items. Yourself, or for superusers anybody."""
    return await crud.read_user_with_items(caller, user_id)


@router.post("/{user_id}/items", status_code=201, dependencies=[reads(User)], responses=documented(409))
async def create_user_item(caller: ItemWriter, user_id: RowId, data: ItemCreate, response: Response) -> ItemRead:
    """Create an item that belongs to that user. For yourself, or for superusers anybody."""
    return created(response, "items", await crud.create_item_for(caller, user_id, data))
