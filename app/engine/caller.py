"""Standing comes from the database: every statement asks, in itself, whether its caller may still act."""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Boolean, ColumnElement, bindparam, exists
from sqlmodel import select

from app.engine import logs
from app.engine.statement import Runs, Statement
from app.errors import Unauthenticated
from app.models.base import BigId, Entity
from app.security import Identity

ME = bindparam("me_id", type_=BigId)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, and where their statements run. Without an identity the application itself, which may do all."""

    db: Runs
    identity: Identity | None = None
    # In whose name the application itself does something, for the history.
    acts_for: int | None = None

    @property
    def id(self) -> int:
        """The caller's user id. The application itself has none: TypeError."""
        if self.identity is None:
            raise TypeError("The application itself owns nothing: say owner_id.")
        return self.identity.user_id

    @property
    def role(self) -> str:
        return "application" if self.identity is None else "superuser" if self.identity.is_superuser else "user"

    @property
    def binds(self) -> dict[str, Any]:
        me = self.identity
        if me is None:
            return {"acting": acting_as(self.acts_for)}
        return {
            "me_id": me.user_id,
            "me_is_superuser": me.is_superuser,
            "me_stamp": me.security_stamp,
            "acting": acting_as(me.user_id),
        }

    def as_application(self) -> "Caller":
        """The application itself, in the same transaction: for what you allow after a check of your own."""
        return replace(self, identity=None, acts_for=self.identity.user_id if self.identity else self.acts_for)


def acting_as(user_id: int | None) -> str:
    """Who acts, and in which request, as recording.py tells it to the database."""
    return f"{user_id or ''} {logs.request_id.get() or ''}"


class Standing:
    """The table that callers stand in: any with id, is_active, is_superuser and security_stamp."""

    def __init__(self, table: type[Entity]) -> None:
        # An alias: the statement around it may be about accounts itself.
        me = table.__table__.alias("me")
        #: Still there, active, and in the role and with the stamp that the token claims.
        self.holds: ColumnElement[bool] = exists().where(
            me.c.id == ME,
            me.c.is_active,
            me.c.is_superuser == bindparam("me_is_superuser", type_=Boolean()),
            me.c.security_stamp == bindparam("me_stamp", type_=BigId),
        )
        self._read = Statement(select(me.c.is_superuser, me.c.security_stamp).where(me.c.id == ME, me.c.is_active))

    async def recognise(self, caller: Caller) -> Caller:
        """The caller in the role they have now. Raises Unauthenticated if their token no longer holds."""
        if caller.identity is None:
            return caller
        rows = await caller.db.run(self._read, caller.binds)
        if not rows or rows[0][1] != caller.identity.security_stamp:
            raise Unauthenticated("That token is not valid, or no longer.")
        is_superuser, stamp = rows[0]
        return Caller(caller.db, Identity(caller.identity.user_id, bool(is_superuser), stamp))
