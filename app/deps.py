"""What a route can ask for by type. Asking for `caller` is what makes a route ask for a token."""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Request, Response, Security
from fastapi.security import OAuth2PasswordBearer
from fastapi.security.base import SecurityBase
from pydantic import BeforeValidator
from sqlmodel import Session

from app import accounts, crud
from app.engine import caller as engine
from app.engine import scopes
from app.engine.hashing import Hasher as PasswordHasher
from app.engine.http import etags, idempotency
from app.engine.http.addresses import address_of
from app.engine.http.queries import ListQuery
from app.engine.queries import Query as Query
from app.engine.queries import query_class
from app.engine.sessions import open_session
from app.engine.waiting import place
from app.errors import Unauthenticated, Unavailable
from app.models import User, UserRead
from app.models.base import Access, Entity, Ref, Row
from app.security import read_access_token
from app.settings import Settings as AllSettings

Created = TypeVar("Created", bound=Row)

bearer = OAuth2PasswordBearer(
    "/api/v1/token",
    scheme_name="Login",
    description="Tick what the token may do. Without a tick it is all that you may.",
    auto_error=False,
)


async def get_settings(request: Request) -> AllSettings:
    settings: AllSettings = request.app.state.settings
    return settings


async def get_hasher(request: Request) -> PasswordHasher:
    hasher: PasswordHasher = request.app.state.hasher
    return hasher


async def get_application(request: Request) -> engine.Caller:
    return engine.Caller(idempotency.shared(request.scope, request.app.state.database))


async def get_client(request: Request) -> accounts.Client:
    name = re.sub(r"[^ -~]", "", request.headers.get("User-Agent", ""))[:200].strip()
    # A proxy may hand on whatever it was sent; PostgreSQL would refuse the session.
    return accounts.Client((address_of(request) or "")[:45] or None, name or None)


class Credentials(SecurityBase):
    """The verified token, which costs no SQL: whether it still holds, each verb's statement asks for itself.

    One dependency for both kinds of token: FastAPI takes 20 us to solve one. A token that lacks one of the scopes is
    refused.
    """

    model, scheme_name = bearer.model, bearer.scheme_name

    def __init__(self, *scopes: str) -> None:
        self._scopes = scopes

    async def __call__(self, request: Request) -> engine.Caller:
        # A route may ask twice, by a guard of its own or of its router.
        caller: engine.Caller = request.scope.get("caller") or await self._identify(request)
        scopes.require(caller.identity, *self._scopes)
        return await idempotency.begin(request.scope, caller, crud.standing)

    async def _identify(self, request: Request) -> engine.Caller:
        state = request.app.state
        if token := await bearer(request):
            identity = read_access_token(token, keys=state.settings.keys)
        elif machine_token := request.headers.get("X-Token"):
            identity = await accounts.identify_machine(engine.Caller(state.database), machine_token)
        else:
            raise Unauthenticated("Log in first: send a token.", error=None)
        request.scope["user_id"] = identity.user_id  # for the log
        caller = request.scope["caller"] = engine.Caller(state.database, identity)
        return caller


Settings = Annotated[AllSettings, Depends(get_settings)]
Hasher = Annotated[PasswordHasher, Depends(get_hasher)]
Client = Annotated[accounts.Client, Depends(get_client)]
Application = Annotated[engine.Caller, Depends(get_application)]  # for routes that anybody may call
Caller = Annotated[engine.Caller, Depends(Credentials())]


@lru_cache  # one and the same for all: a request asks it once
def may(*names: str) -> Any:  # noqa: ANN401  # what FastAPI's Security says it returns
    """Who is calling, if their token has these scopes: `Auditor = Annotated[Caller, may("audit")]`."""
    for name in names:
        scopes.known.setdefault(name, name)
    return Security(Credentials(*names), scopes=names)


def reads(*entities: type[Entity]) -> Any:  # noqa: ANN401  # as above
    """Who is calling, to read: `ItemReader = Annotated[Caller, reads(Item)]`."""
    return may(*_for(entities, scopes.reading))


def writes(*entities: type[Entity]) -> Any:  # noqa: ANN401  # as above
    """Who is calling, to create, change or delete."""
    return may(*_for(entities, scopes.writing))


def _for(entities: Iterable[type[Entity]], scope: Callable[[str], str]) -> list[str]:
    needed = {scope(entity.__table__.name) for entity in entities}
    if any(entity.__access__ is Access.RESTRICTED for entity in entities):
        needed.add(scopes.ADMIN)
    return sorted(needed)


Administrator = Annotated[Caller, may(scopes.ADMIN)]


async def get_current_user(caller: Annotated[Caller, reads(User)]) -> UserRead:
    return await crud.users.get(caller, caller.id)


CurrentUser = Annotated[UserRead, Depends(get_current_user)]


async def require_superuser(caller: Administrator) -> None:
    """A guard for a route or a router: `dependencies=[Depends(require_superuser)]`."""
    await accounts.require_superuser(caller)


LOGINS = {"log_in", "revoke_token", "log_out", "log_out_everywhere", "end_session"}


async def require_writable(request: Request) -> None:
    """The global guard while READ_ONLY is set: whatever writes is answered 503. Logging in and out goes on."""
    if request.method not in ("GET", "HEAD") and request.scope["route"].name not in LOGINS:
        raise Unavailable("Cadre is read-only for a while. Reading works.", retry_after=60)


def _plain(value: object) -> object:
    # Python reads "1_0", "+1", " 1 " and full-width digits as numbers: a second address of the same thing.
    if not re.fullmatch(r"[1-9][0-9]{0,15}", str(value)):
        raise ValueError("must be a positive whole number, without leading zeros")
    return value


RowId = Annotated[Ref, Path(), BeforeValidator(_plain)]
# For a verb's `version`. None if the client does not mind which.
IfMatch = Annotated[int | None, Depends(etags.read_if_match)]


def query_of(entity: type[Entity]) -> Any:  # noqa: ANN401  # what FastAPI's Depends says it returns
    """A list's question: `Annotated[Query, query_of(Item)]`. Which filters it has, the entity's fields declare."""
    return Depends(ListQuery(query_class(entity)))


def created(response: Response, path: str, row: Created) -> Created:
    """`row`, and in the response where it can be read from now on."""
    response.headers["Location"] = f"/api/v1/{path}/{row.id}"
    return row


async def get_session_place(request: Request) -> AsyncIterator[None]:
    idempotency.refuse_key(request.scope)
    async with place(request.app.state.session_places):
        yield


def get_session(
    request: Request, _place: Annotated[None, Depends(get_session_place, scope="function")]
) -> Iterator[Session]:
    writes = request.method not in ("GET", "HEAD")
    state, scope = request.app.state, request.scope
    with open_session(
        state.session_engine, writes=writes, acting=lambda: engine.acting_as(scope.get("user_id"))
    ) as session:
        yield session


# For plain `def` routes, as in SQLModel's tutorial; docs/routes.md shows one. Closed before the response leaves, and
# never more at once than the pool has connections: a request waits outside the thread pool, where it blocks nobody.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
