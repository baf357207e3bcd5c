"""Machine tokens: what a program sends to act as a user. models/machine_token.py says what one is."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import bindparam, delete, or_, select, update

from app.accounts.finding import identify
from app.crud import machine_tokens, standing, transaction
from app.engine import scopes
from app.engine.caller import Caller
from app.engine.recording import acting
from app.engine.statement import Statement
from app.engine.waiting import retried
from app.errors import Unauthenticated, Unavailable
from app.models import MachineToken, MachineTokenCreate, MachineTokenRead, NewMachineToken, User
from app.models.base import utcnow
from app.security import MACHINE, Identity, hashed, new_secret

SHOWN = len(MACHINE) + 6  # characters
PRECISION = timedelta(minutes=1)

_user, _token = User.__table__.c, MachineToken.__table__.c
_FIND = Statement(
    select(
        _user.id,
        _user.is_superuser,
        _token.id,
        _token.scope,
        _token.last_used_at.is_(None) | (_token.last_used_at <= bindparam("before")),
    )
    .join_from(MachineToken, User)
    .where(
        _token.hashed_token == bindparam("value"),
        or_(_token.expires_at.is_(None), _token.expires_at > bindparam("now")),
        _user.is_active,
    )
)
# It is no change of the row: its version stays.
_USED = Statement(
    update(MachineToken.__table__)
    .where(_token.id == bindparam("value"))
    .values(last_used_at=bindparam("now"), updated_at=_token.updated_at, version=_token.version)
    .returning(_token.id)
)
# Whoever ends what the caller may do waits until their new token is there, and ends it too; or was faster: then the
# statement that creates it finds out.
_HOLD = Statement(select(_user.id).where(_user.id == bindparam("value")).with_for_update(read=True))
_REVOKE, _REVOKE_ALL = (
    Statement(delete(MachineToken.__table__).where(which == bindparam("value"), acting()).returning(_token.id))
    for which in (_token.hashed_token, _token.owner_id)
)


async def identify_machine(application: Caller, token: str) -> Identity:
    """Whom a machine token belongs to, and what it may do. Raises Unauthenticated if nobody active, or it expired."""
    now = utcnow()
    rows = await application.db.run(_FIND, {"value": hashed(token), "now": now, "before": now - PRECISION})
    if not rows:
        raise Unauthenticated("That X-Token is not valid, or no longer.")
    user_id, is_superuser, token_id, scope, is_to_note = rows[0]
    if is_to_note:
        with suppress(Unavailable):  # a note, and not worth a refusal
            await application.db.run(_USED, {"value": token_id, "now": now})
    return Identity(user_id, bool(is_superuser), machine_token_id=token_id, scopes=scopes.read(scope))


async def create_machine_token(caller: Caller, data: MachineTokenCreate) -> NewMachineToken:
    """A token for a program that acts as the caller, shown here and never again.

    Raises Invalid for a scope that is none, or that the caller's own token does not have.
    """
    token = new_secret(MACHINE)
    row = await _create(caller, data, hashed_token=hashed(token), prefix=token[:SHOWN])
    return NewMachineToken.model_construct(**dict(row), token=token)


@retried
async def _create(caller: Caller, data: MachineTokenCreate, **more: object) -> MachineTokenRead:
    async with transaction(caller) as tx:
        await tx.db.run(_HOLD, {"value": caller.id})
        tx = await standing.recognise(tx)  # who was demoted must not keep `admin` in a token for later
        own, is_superuser = (tx.identity.scopes if tx.identity else None), tx.role == "superuser"
        granted = scopes.granted(data.scope, is_superuser=is_superuser, within=own)
        ends = [utcnow() + timedelta(days=data.days)] if data.days else []
        if tx.identity and tx.identity.machine_token_id:
            # It does not live on in those that it makes.
            own_end = (await machine_tokens.get(tx, tx.identity.machine_token_id)).expires_at
            ends += [own_end] if own_end else []
        return await machine_tokens.create(
            tx, data, scope=scopes.written(granted), expires_at=min(ends, default=None), **more
        )


async def create_machine_token_for(application: Caller, username: str, data: MachineTokenCreate) -> NewMachineToken:
    """The same for somebody else, from the command line. Raises Missing."""
    owner = await identify(application, username)
    return await create_machine_token(replace(application, identity=owner), data)


async def revoke_machine_token(application: Caller, token: str) -> None:
    """That one, by whoever has it. One that is none is no error."""
    await application.db.run(_REVOKE, {"value": hashed(token), "acting": application.acting})


async def revoke_machine_tokens(tx: Caller, user_id: int) -> None:
    """Of that user, all: after an account was taken over. In the transaction that changes the account."""
    await tx.db.run(_REVOKE_ALL, {"value": user_id, "acting": tx.acting})
