"""Jobs: what is to be done later, once, by whichever process takes it first. docs/jobs.md shows how to write one.

@job("welcome")
async def welcome(work: Work) -> None:
    await items.create(work.caller, ItemCreate(title="Look around"), owner_id=work.payload["user_id"])

await enqueue(tx, "welcome", {"user_id": user.id})  # in the transaction that causes it: both, or neither
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import JsonValue
from sqlalchemy import bindparam, delete, func, insert, null, or_, select, update
from sqlmodel import SQLModel

from app.engine.caller import Caller
from app.engine.records import jobs
from app.engine.statement import Runs, Statement, hydrator
from app.errors import Missing
from app.models.base import utcnow

#: How much longer than the handler a lease lasts: for what comes before and after it, and for clocks that differ.
SLACK = timedelta(seconds=30)
LISTED = 200


class Retry(Exception):
    """Raised by a handler: it surely did not happen, and may if it is tried again, `after` that time if it is known."""

    def __init__(self, sentence: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(sentence)
        self.after = after


class GiveUp(Exception):
    """Raised by a handler: it surely did not happen, and never will. The job is dead."""


class Lost(Exception):
    """Somebody else has the job now: its lease ran out."""


@dataclass(slots=True)
class Work:
    """A job under way, as its handler sees it."""

    job: "Job"
    caller: Caller  # the application itself; in the transaction that ends the job, unless the job is `outside`
    id: int
    payload: dict[str, Any]
    attempt: int  # 1 for the first
    lease: int
    is_handed_over: bool = False

    @property
    def until(self) -> datetime:
        """When its lease runs out, if it begins or is renewed now."""
        return utcnow() + self.job.limit + SLACK

    async def hand_over(self) -> None:
        """For an `outside` job, right before what must not happen twice: kept, before that can happen.

        After it only Retry makes another attempt: a crash, or any other exception, leaves the job dead, perhaps done.
        Raises Lost if another worker has the job.
        """
        if not self.job.outside:
            raise TypeError(f"hand_over() is for what no transaction undoes: @job({self.job.kind!r}, outside=True).")
        given = {"job": self.id, "held": self.lease, "now": utcnow(), "until": self.until}
        if not await self.caller.db.run(_HAND_OVER, given):
            raise Lost
        self.is_handed_over = True


Handler = Callable[[Work], Awaitable[None]]


class Job(NamedTuple):
    """How jobs of a kind are done."""

    kind: str
    handler: Handler
    attempts: int
    limit: timedelta
    outside: bool


#: By kind. Workers leave other kinds to those who know them.
registered: dict[str, Job] = {}
#: Rung when a job was queued, for the worker on that loop.
bells: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}


def job(kind: str, *, attempts: int = 8, limit: float = 10, outside: bool = False) -> Callable[[Handler], Handler]:
    """Jobs of that kind are done by the function below: in `limit` seconds, or it was an attempt that failed.

    In one transaction with the end of the job, so exactly once, whatever crashes. Or `outside` of one, for what reaches
    beyond our database: then the handler awaits `work.hand_over()` before that, so it is done at most once.
    """
    if kind in registered:
        raise ValueError(f"There is a job of the kind {kind} already.")

    def register(handler: Handler) -> Handler:
        registered[kind] = Job(kind, handler, attempts, timedelta(seconds=limit), outside)
        return handler

    return register


async def enqueue(
    caller: Caller, kind: str, payload: Mapping[str, JsonValue], *, after: timedelta = timedelta(0)
) -> int:
    """Queue a job, in the transaction of `caller`, to be done `after` that time at the earliest. Its id."""
    if kind not in registered:
        raise LookupError(f"There is no job of the kind {kind}: register its handler with @job.")
    now = utcnow()
    rows = await caller.db.run(_NEW, {"of_kind": kind, "given": dict(payload), "now": now, "due": now + after})
    if bell := bells.get(asyncio.get_running_loop()):
        bell.set()
    return int(rows[0][0])


class Queued(SQLModel):
    """A job that waits, is under way, or is dead. What it is about is not shown: there may be secrets in it."""

    id: int
    kind: str
    created_at: datetime
    due_at: datetime | None
    attempts: int
    lease: int | None
    handed_over_at: datetime | None
    error: str | None


async def list_jobs(db: Runs) -> tuple[list[Queued], int]:
    """The first ones, those that are due first, the dead last; and how many there are."""
    ((total,),) = await db.run(_COUNT, {})
    return hydrator(Queued, _SHOWN, db.dialect)(await db.run(_LIST, {})), total


async def retry(db: Runs, job_id: int) -> None:
    """As if it had never been tried, now. Raises Missing if it is not there, or under way."""
    if not await db.run(_REVIVE, {"job": job_id, "now": utcnow()}):
        raise Missing(f"No job {job_id} is there to be tried again, or it is under way.")


async def drop(db: Runs, job_id: int) -> None:
    """Forget a job. Raises Missing if it is not there, or under way."""
    if not await db.run(_DROP, {"job": job_id, "now": utcnow()}):
        raise Missing(f"No job {job_id} is there to be dropped, or it is under way.")


_instant = jobs.c.due_at.type
_now, _until = bindparam("now", type_=_instant), bindparam("until", type_=_instant)
_this = jobs.c.id == bindparam("job", type_=jobs.c.id.type)
_mine = _this & (jobs.c.lease == bindparam("held", type_=jobs.c.lease.type))
_free = _this & or_(jobs.c.lease.is_(None), jobs.c.due_at <= _now)

_NEW = Statement(
    insert(jobs)
    .values(
        kind=bindparam("of_kind"),
        payload=bindparam("given", type_=jobs.c.payload.type),
        created_at=_now,
        due_at=bindparam("due", type_=_instant),
        attempts=0,
    )
    .returning(jobs.c.id)
)
_HAND_OVER = Statement(update(jobs).where(_mine).values(handed_over_at=_now, due_at=_until).returning(jobs.c.id))
DONE = Statement(delete(jobs).where(_mine).returning(jobs.c.id))
_free_again = {"lease": null(), "attempts": bindparam("tried"), "error": bindparam("told")}
AGAIN = Statement(
    update(jobs)
    .where(_mine)
    .values(due_at=bindparam("due", type_=_instant), handed_over_at=null(), **_free_again)
    .returning(jobs.c.id)
)
#: What was not handed over, or surely did not happen.
BURY = Statement(
    update(jobs).where(_mine).values(due_at=null(), handed_over_at=null(), **_free_again).returning(jobs.c.id)
)
BURY_HANDED_OVER = Statement(update(jobs).where(_mine).values(due_at=null(), **_free_again).returning(jobs.c.id))

_SHOWN = [jobs.c[name] for name in Queued.model_fields]
_COUNT = Statement(select(func.count()).select_from(jobs), unbounded=True)
_LIST = Statement(select(*_SHOWN).order_by(jobs.c.due_at.is_(None), jobs.c.due_at, jobs.c.id).limit(LISTED))
_REVIVE = Statement(
    update(jobs).where(_free).values(due_at=_now, attempts=0, lease=null(), handed_over_at=null()).returning(jobs.c.id)
)
_DROP = Statement(delete(jobs).where(_free).returning(jobs.c.id))
