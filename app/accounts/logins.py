"""Logging in, staying logged in, and every way in which that ends. A login that lasts is a session (models/)."""

import logging
import secrets
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, literal, select, update

from app.accounts.finding import find, find_login
from app.accounts.limits import try_login
from app.accounts.machines import revoke_machine_token
from app.crud import sessions, standing
from app.engine import scopes
from app.engine.caller import ME, Caller
from app.engine.expiring import Expiring
from app.engine.hashing import Hasher
from app.engine.recording import acting
from app.engine.statement import Statement
from app.errors import Forbidden, Invalid, NoToken, Unauthenticated, Unavailable
from app.models import LoginSession, SessionRead, User
from app.models.base import utcnow
from app.security import MACHINE, REFRESH, Identity, hashed, new_stamp, read_access_token

WRONG = "Wrong username or password."
ENDED = "That refresh token is not valid, or no longer. Log in again."

_user, _session = User.__table__.c, LoginSession.__table__.c
_NEW = (
    *("created_at", "updated_at", "last_used_at", "expires_at", "client", "address", "scope"),
    *("stamp", "hashed_family", "hashed_refresh"),
)
# Only for who is active, and while the password is still the one that was checked. Locked: who changes it meanwhile
# ends this session too.
_BEGIN = Statement(
    insert(LoginSession.__table__)
    .from_select(
        ("owner_id", "version", *_NEW),
        select(_user.id, literal(1), *(bindparam(f"new_{name}", type_=_session[name].type) for name in _NEW))
        .where(_user.id == bindparam("value"), _user.is_active, _user.hashed_password == bindparam("seen"))
        .with_for_update(read=True),
        include_defaults=False,
    )
    .returning(_session.id)
)
_family = _session.hashed_family == bindparam("family")
# One statement spends the old token: of two that come with it, one finds nothing.
_ROTATE = Statement(
    update(LoginSession.__table__)
    .where(_family, _session.hashed_refresh == bindparam("spent"), _session.expires_at > bindparam("now"))
    .values(hashed_refresh=bindparam("next"), last_used_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(_session.id, _session.owner_id, _session.stamp, _session.scope)
)
_END_FAMILY = Statement(delete(LoginSession.__table__).where(_family).returning(_session.id))
_END = Statement(
    delete(LoginSession.__table__)
    .where(_session.id == bindparam("session"), _session.stamp == bindparam("stamp"))
    .returning(_session.id)
)
_END_ALL = Statement(
    delete(LoginSession.__table__).where(_session.owner_id == bindparam("value")).returning(_session.id)
)
_END_OWN = Statement(
    delete(LoginSession.__table__).where(_session.owner_id == ME, standing.holds).returning(_session.id)
)
# Not if the password was changed meanwhile. It is no change of the row: its version stays.
_KEEP_BETTER_HASH = Statement(
    update(User.__table__)
    .where(_user.id == bindparam("value"), _user.hashed_password == bindparam("seen"), acting())
    .values(hashed_password=bindparam("better"), updated_at=_user.updated_at, version=_user.version)
    .returning(_user.id)
)
_SESSIONS = Expiring(LoginSession.__table__)


class Client(NamedTuple):
    """Where somebody logs in from, and with what, as far as that can be known."""

    address: str | None = None
    name: str | None = None


class LoggedIn(NamedTuple):
    """What a token is made of, and the refresh token, which nobody can be told again."""

    identity: Identity
    refresh_token: str


class MySession(SessionRead):
    """One of the caller's."""

    is_current: bool


async def log_in(
    application: Caller,
    hasher: Hasher,
    login: str,
    password: str,
    *,
    scope: str = "",
    days: int = 30,
    client: Client = Client(),  # noqa: B008  # it never changes
) -> LoggedIn:
    """A new session of whoever has that username or e-mail.

    Raises NoToken, alike and in like time whatever was wrong, and TooMany. An outdated hash is replaced.
    """
    with hasher.place():
        async with try_login(application, login, client.address, hasher.attempts):
            account = await find_login(application, login)
            right, better = await hasher.verify(password, account and account.hashed_password)
            if not account or not right:
                raise NoToken("invalid_grant", WRONG)
    granted = _granted(scope, is_superuser=account.is_superuser)
    now, stamp, (token, family, refresh) = utcnow(), new_stamp(), _new_refresh_token()
    new = {
        **{"created_at": now, "updated_at": now, "last_used_at": now, "expires_at": now + timedelta(days=days)},
        **{"client": client.name, "address": client.address, "scope": scopes.written(granted)},
        **{"stamp": stamp, "hashed_family": hashed(family), "hashed_refresh": hashed(refresh)},
    }
    values = {"value": account.id, "seen": account.hashed_password} | {f"new_{name}": new[name] for name in new}
    rows = await application.db.run(_BEGIN, values)
    if not rows:
        raise NoToken("invalid_grant", WRONG)
    if better:
        # It can wait for the next login.
        with suppress(Unavailable):
            this = {"value": account.id, "seen": account.hashed_password, "better": better}
            await application.db.run(_KEEP_BETTER_HASH, {**this, "acting": application.acting})
    return LoggedIn(Identity(account.id, bool(account.is_superuser), rows[0][0], stamp, scopes=granted), token)


async def refresh(application: Caller, token: str, *, scope: str = "") -> LoggedIn:
    """The next tokens of a session. What is used twice ends it: one of the two is a thief's. Raises NoToken.

    RFC 9700, section 4.14.2. `scope` may ask for less than the session has (RFC 6749, section 6).
    """
    # Not counted, nor is what comes to revoke(): nobody guesses 256 random bits, and nothing slow is done with them.
    family, spent = _parts(token)
    new, _, following = _new_refresh_token(family)
    given = {"family": hashed(family), "spent": hashed(spent), "next": hashed(following), "now": utcnow()}
    async with application.db.transaction() as db:
        rows = await db.run(_ROTATE, given)
        account = await find(replace(application, db=db), "id", rows[0][1]) if rows else None
        if account and account.is_active:
            session_id, _, stamp, had = rows[0]
            # Within: a token that asks for too much is not spent with that.
            granted = _granted(scope, is_superuser=account.is_superuser, within=scopes.read(had))
            return LoggedIn(Identity(account.id, bool(account.is_superuser), session_id, stamp, scopes=granted), new)
    if await application.db.run(_END_FAMILY, given):
        logging.getLogger("app").warning("A refresh token came twice, or too late: its session has ended")
    raise NoToken("invalid_grant", ENDED)


async def revoke(application: Caller, token: str, *, keys: tuple[str, ...]) -> None:
    """End what `token` belongs to: the session of an access or refresh token, or a machine token. RFC 7009.

    A token that is none, or has ended, is no error: it does not hold, and that was asked.
    """
    if token.startswith(REFRESH):
        with suppress(NoToken):
            await application.db.run(_END_FAMILY, {"family": hashed(_parts(token)[0])})
    elif token.startswith(MACHINE):
        await revoke_machine_token(application, token)
    else:
        with suppress(Unauthenticated):
            identity = read_access_token(token, keys=keys)
            await application.db.run(_END, {"session": identity.session_id, "stamp": identity.stamp})


async def list_sessions(caller: Caller) -> list[MySession]:
    """The caller's, newest first; a hundred at most."""
    own = await sessions.page(caller, owner_id=caller.id, limit=100)
    current = caller.identity.session_id if caller.identity else None
    return [MySession.model_construct(**dict(each), is_current=each.id == current) for each in own]


async def log_out(caller: Caller) -> None:
    """End the session that the caller's token belongs to. Raises Forbidden for a machine token, which is revoked."""
    if caller.identity is None or caller.identity.session_id is None:
        raise Forbidden("That is no login, but a machine token: revoke it.")
    # Whatever the scope: to end itself, a token need not be allowed anything.
    await standing.recognise(caller)
    await caller.db.run(_END, {"session": caller.identity.session_id, "stamp": caller.identity.stamp})


async def log_out_everywhere(caller: Caller) -> None:
    """End every session of the caller, this one too."""
    scopes.require(caller.identity, scopes.writing(LoginSession.__table__.name))
    if not await caller.db.run(_END_OWN, caller.binds):
        known = await standing.recognise(caller)
        if known.identity != caller.identity:  # they have another role by now
            await log_out_everywhere(known)


async def end_sessions(tx: Caller, user_id: int) -> None:
    """Of that user, all: after a change of password, or when they are shut out. In the transaction of that."""
    await tx.db.run(_END_ALL, {"value": user_id})


async def forget_expired(application: Caller) -> None:
    """Delete the sessions that have expired."""
    await _SESSIONS.forget(application.db, utcnow())


def _granted(scope: str, *, is_superuser: bool, within: frozenset[str] | None = None) -> frozenset[str] | None:
    try:
        # Sent without a value counts as not sent (RFC 6749, section 3.1).
        return scopes.granted(scope or None, is_superuser=is_superuser, within=within)
    except Invalid as refusal:
        raise NoToken("invalid_scope", refusal.detail) from None


def _new_refresh_token(family: str = "") -> tuple[str, str, str]:
    """A token, its family's part, and the part that is spent with it."""
    family, once = family or secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    return f"{REFRESH}{family}.{once}", family, once


def _parts(token: str) -> tuple[str, str]:
    family, dot, once = token.removeprefix(REFRESH).partition(".")
    if not (token.startswith(REFRESH) and dot):
        raise NoToken("invalid_grant", ENDED)
    return family, once
