"""Standing comes from the database: every statement asks, in itself, whether its caller may still act."""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Boolean, ColumnElement, bindparam, exists, or_
from sqlmodel import select

from app.engine import logs, scopes
from app.engine.statement import Runs, Statement
from app.errors import Forbidden, Unauthenticated
from app.models.base import BigId, Entity
from app.security import Identity

ME, SESSION, STAMP, MACHINE = (bindparam(f"me_{part}", type_=BigId) for part in ("id", "session", "stamp", "machine"))


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
        if self.identity is None:
            return "application"
        # Without the scope `admin` a superuser's token is an ordinary user's.
        return "superuser" if self.identity.is_superuser and scopes.covers(self.identity, scopes.ADMIN) else "user"

    def require_superuser(self) -> None:
        """Raise Forbidden unless the role is enough for what is for superusers. `recognise` first: roles change."""
        if self.identity is not None and self.identity.is_superuser:
            scopes.require(self.identity, scopes.ADMIN)
        elif self.role == "user":
            raise Forbidden("That is for superusers.")

    @property
    def binds(self) -> dict[str, Any]:
        if self.identity is None:
            return {}
        me = self.identity
        return {
            "me_id": me.user_id,
            "me_is_superuser": me.is_superuser,
            "me_session": me.session_id,
            "me_stamp": me.stamp,
            "me_machine": me.machine_token_id,
        }

    @property
    def acting(self) -> str:
        """Who acts, and in which request, as recording.py tells it to the database."""
        return acting_as(self.identity.user_id if self.identity else self.acts_for)

    def as_application(self) -> "Caller":
        """The application itself, in the same transaction: for what you allow after a check of your own."""
        return replace(self, identity=None, acts_for=self.identity.user_id if self.identity else self.acts_for)


def acting_as(user_id: int | None) -> str:
    """Who acts, and in which request, as recording.py tells it to the database."""
    return f"{user_id or ''} {logs.request_id.get() or ''}"


class Standing:
    """The tables that callers stand in: users, and what they come with, a session or a machine token."""

    def __init__(self, users: type[Entity], sessions: type[Entity], machine_tokens: type[Entity]) -> None:
        # Aliases: the statement around it may be about accounts itself.
        me, session = users.__table__.alias("me"), sessions.__table__.alias("my_session")
        machine = machine_tokens.__table__.alias("my_machine_token")
        there = me.c.id == ME, me.c.is_active
        comes = or_(
            exists().where(session.c.id == SESSION, session.c.stamp == STAMP, session.c.owner_id == ME),
            exists().where(machine.c.id == MACHINE, machine.c.owner_id == ME),
            # What our own code vouches for: security.py lets no token come without either.
            SESSION.is_(None) & MACHINE.is_(None),
        )
        #: Still there, active, in the role that the token claims, and the token has not ended.
        self.holds: ColumnElement[bool] = exists().where(
            *there, me.c.is_superuser == bindparam("me_is_superuser", type_=Boolean()), comes
        )
        self._read = Statement(select(me.c.is_superuser).where(*there, comes))

    async def recognise(self, caller: Caller) -> Caller:
        """The caller in the role they have now. Raises Unauthenticated if their token no longer holds."""
        if caller.identity is None:
            return caller
        rows = await caller.db.run(self._read, caller.binds)
        if not rows:
            raise Unauthenticated("That token is not valid, or no longer.")
        return replace(caller, identity=replace(caller.identity, is_superuser=bool(rows[0][0])))
