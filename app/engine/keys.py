"""The answers to requests that may be sent again, each under its key and in the transaction of what was done.

So there is no moment in which one is kept without the other: not for a crash, nor for another process.
"""

import asyncio
import json
import zlib
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, LargeBinary, bindparam, null, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.engine.expiring import Expiring
from app.engine.records import keys
from app.engine.statement import Runs, Statement
from app.errors import Invalid
from app.models.base import utcnow

LARGE = 2**16  # bytes that the loop compresses or unpacks in a millisecond; more in a thread


class Answer(NamedTuple):
    """What was sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


async def claim(db: Runs, user_id: int, key: str, fingerprint: str, *, hours: int) -> Answer | None:
    """None if nobody has used the key within the last `hours`: now it is this transaction's. Else the kept answer.

    Waits for the end of another transaction that has claimed it. Raises Invalid for a key of another request, which is
    one with another `fingerprint`.
    """
    now = utcnow()
    mine = {"whose": user_id, "which": key}
    new = {**mine, "asked": fingerprint, "now": now, "until": now + timedelta(hours=hours)}
    if await db.run(_CLAIM[db.dialect.name], new):
        return None
    ((asked, status, headers, packed),) = await db.run(_READ, mine)
    if asked != fingerprint:
        raise Invalid("That Idempotency-Key was used for another request. Take a new one.")
    pairs = json.loads(headers) if isinstance(headers, str) else headers  # SQLite has no JSON of its own
    return Answer(status, [(name, value) for name, value in pairs], await _unpack(packed))


async def keep(db: Runs, user_id: int, key: str, answer: Answer) -> None:
    """`answer` is what the claimed key stands for from now on."""
    told: dict[str, Any] = {"told_status": answer.status, "told_headers": answer.headers}
    packed = await _pack(answer.body)
    await db.run(_KEEP, {"whose": user_id, "which": key, **told, "told_body": packed})


async def prune(db: Runs, now: datetime) -> int:
    """Delete the keys that have expired by `now`; how many it were."""
    return await _KEYS.forget(db, now)


async def _pack(body: bytes) -> bytes:
    return await asyncio.to_thread(zlib.compress, body, 1) if len(body) > LARGE else zlib.compress(body)


async def _unpack(packed: bytes) -> bytes:
    return await asyncio.to_thread(zlib.decompress, packed) if len(packed) > LARGE // 8 else zlib.decompress(packed)


def _claim(insert: Any) -> Statement:  # noqa: ANN401  # each dialect has its own
    """A new row, or an expired one as if it were new. No row comes back if the key is in use."""
    given = {"user_id": "whose", "key": "which", "fingerprint": "asked", "expires_at": "until"}
    new = {name: bindparam(bind, type_=keys.c[name].type) for name, bind in given.items()}
    blank = {"status": null(), "headers": null(), "body": null()}
    row = insert(keys).values({**new, **blank})
    again = {name: row.excluded[name] for name in ("fingerprint", "expires_at")}
    return Statement(
        row.on_conflict_do_update(
            index_elements=[keys.c.user_id, keys.c.key], set_={**again, **blank}, where=_has_expired()
        ).returning(keys.c.user_id)
    )


def _has_expired() -> ColumnElement[bool]:
    return keys.c.expires_at <= bindparam("now", type_=keys.c.expires_at.type)


_MINE = (
    keys.c.user_id == bindparam("whose", type_=keys.c.user_id.type),
    keys.c.key == bindparam("which", type_=keys.c.key.type),
)
_CLAIM = {"sqlite": _claim(sqlite.insert), "postgresql": _claim(postgresql.insert)}
_READ = Statement(select(keys.c.fingerprint, keys.c.status, keys.c.headers, keys.c.body).where(*_MINE))
_KEEP = Statement(
    update(keys)
    .where(*_MINE)
    .values(
        status=bindparam("told_status", type_=Integer()),
        headers=bindparam("told_headers", type_=keys.c.headers.type),
        body=bindparam("told_body", type_=LargeBinary()),
    )
    .returning(keys.c.user_id)
)
_KEYS = Expiring(keys)
