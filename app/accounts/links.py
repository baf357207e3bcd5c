"""The links in mails. A link is good for its purpose, for its hours, and once: to use it is to delete it."""

import json
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Text, and_, bindparam, cast, delete, insert, select

from app.engine.caller import Caller
from app.engine.expiring import Expiring
from app.engine.statement import Statement
from app.errors import InvalidField
from app.models import Link, Purpose
from app.models.base import utcnow
from app.security import LINK, hashed, new_secret

LIVES = {
    Purpose.RESET: timedelta(minutes=30),
    Purpose.SIGN_UP: timedelta(hours=24),
    Purpose.VERIFY: timedelta(hours=24),
    Purpose.INVITE: timedelta(hours=72),
}

_link = Link.__table__.c
_purposes = _link.purpose.in_([bindparam("purpose"), bindparam("or_purpose")])
_holds = and_(_link.hashed_secret == bindparam("secret"), _purposes, _link.expires_at > bindparam("now"))
_told = _link.user_id, _link.email, cast(_link.data, Text)
_LOOK = Statement(select(*_told).where(_holds))
# One statement finds it and uses it up: of two who come with it, one finds nothing.
_TAKE = Statement(delete(Link.__table__).where(_holds).returning(*_told))
_NEW = Statement(
    insert(Link.__table__).values(
        {column: bindparam(f"new_{column.name}", type_=column.type) for column in _link if column.name != "id"}
    )
)
_FORGET = Statement(delete(Link.__table__).where(_link.user_id == bindparam("user"), _purposes).returning(_link.id))
_LINKS = Expiring(Link.__table__)


class Ended(InvalidField):
    """There is no such link, or no longer: nothing tells which."""

    def __init__(self) -> None:
        super().__init__("token", "That link is not valid, or no longer. Ask for a new one.")


class Found(NamedTuple):
    """What a link stands for: whose it is, where it was sent, and of a sign-up what the account will be."""

    user_id: int | None
    email: str
    data: dict[str, Any]


async def make(
    tx: Caller, purpose: Purpose, email: str, *, user_id: int | None = None, data: dict[str, Any] | None = None
) -> str:
    """The secret of a new link, to be sent to `email` and nowhere else. It takes the place of that user's older one."""
    if user_id is not None:
        await forget(tx, user_id, purpose)
    secret, now = new_secret(LINK), utcnow()
    new: dict[str, Any] = {
        "purpose": purpose,
        "user_id": user_id,
        "email": email,
        "data": data,
        "hashed_secret": hashed(secret),
    }
    new |= {"created_at": now, "expires_at": now + LIVES[purpose]}
    await tx.db.run(_NEW, {f"new_{name}": value for name, value in new.items()})
    return secret


async def look(caller: Caller, secret: str, *purposes: Purpose) -> Found:
    """What a link of one of these two `purposes` stands for, without using it up. Raises Ended."""
    return _found(await caller.db.run(_LOOK, _asked(secret, *purposes)))


async def take(tx: Caller, secret: str, *purposes: Purpose) -> Found:
    """The same, and from now on it stands for nothing. Raises Ended."""
    return _found(await tx.db.run(_TAKE, _asked(secret, *purposes)))


async def forget(tx: Caller, user_id: int, *purposes: Purpose) -> None:
    """A user's links of one or two `purposes` stand for nothing from now on."""
    await tx.db.run(_FORGET, {"user": user_id, "purpose": purposes[0], "or_purpose": purposes[-1]})


async def forget_expired_links(application: Caller) -> None:
    """Delete those that have expired."""
    await _LINKS.forget(application.db, utcnow())


def _asked(secret: str, *purposes: Purpose) -> dict[str, Any]:
    return {"secret": hashed(secret), "purpose": purposes[0], "or_purpose": purposes[-1], "now": utcnow()}


def _found(rows: list[tuple[Any, ...]]) -> Found:
    if not rows:
        raise Ended
    user_id, email, data = rows[0]
    return Found(user_id, email, json.loads(data or "{}"))
