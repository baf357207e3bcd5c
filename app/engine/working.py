"""Works on jobs: takes one under a lease, does it, and says what became of it, while other processes do the same.

Whatever is said of a job carries the lease, a random number in its row. Who was away for too long has lost it to
another worker, and can neither end the job nor hand it over. A job in a transaction begins with its own deletion: until
that is committed or undone nobody else can take it, and what it did is never there without the end of the job.
"""

import asyncio
import json
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import bindparam, case, false, or_, select, update

from app.engine import logs
from app.engine.caller import Caller
from app.engine.jobs import AGAIN, BURY, BURY_HANDED_OVER, DONE, SLACK, GiveUp, Lost, Retry, Work, bells, registered
from app.engine.records import jobs
from app.engine.statement import Statement
from app.engine.waiting import retried
from app.errors import Refusal, Unavailable
from app.models.base import utcnow

LANES = 4  # jobs that one process works on at once: some wait for somebody else's server
SOON, LATER = 0.02, 1.0  # seconds to the next look, after a job was queued here, and when there is nothing to do
GRACE = 2.0  # seconds for what is under way when the worker stops; and then as long to say what became of it
FIRST, LONGEST = 5, 3600  # seconds from an attempt that failed to the next: four times as many each time
PAUSES = (0.1, 0.5, 2, 5)  # seconds between attempts to say what became of a job

log = logging.getLogger("app")


class Stopped(Exception):
    """The worker is stopping, and this job took too long to wait for it."""


class Vanished(Exception):
    """A lease ran out, and nobody has said what became of the job: a crash."""


@asynccontextmanager
async def working(application: Caller, *, grace: float = GRACE) -> AsyncIterator[None]:
    """Queued jobs are done, for as long as the block lasts, if they are of a kind that is registered.

    Jobs that are under way then have `grace` seconds. What does not end is left to others, as if it had not begun; what
    was handed over is dead, perhaps done.
    """
    if not registered:
        yield
        return
    worker = Worker(application)
    loop, running = asyncio.get_running_loop(), asyncio.create_task(worker.run())
    bells[loop] = worker.bell
    try:
        yield
    finally:
        await worker.stop(running, grace)
        bells.pop(loop, None)


async def work_off(application: Caller, *, now: datetime | None = None) -> int:
    """Do what is due, as if it were that instant, one job after the other. How many it were. For tests."""
    worker, done = Worker(application, lambda: now or utcnow()), 0
    while work := await worker.take():
        await worker.do(work)
        done += 1
    return done


class Worker:
    """Does jobs of the kinds that are registered when it is made."""

    def __init__(self, application: Caller, clock: Callable[[], datetime] = utcnow) -> None:
        self._application, self._jobs, self._clock = application, dict(registered), clock
        self._places, self._tasks = asyncio.Semaphore(LANES), set[asyncio.Task[None]]()
        self._stops, self._is_stopping = set[asyncio.Timeout](), False
        self.bell = asyncio.Event()
        instant = jobs.c.due_at.type
        of_ours = or_(false(), *(jobs.c.kind == kind for kind in self._jobs))
        due = of_ours & (jobs.c.due_at <= bindparam("now", type_=instant))
        following = select(jobs.c.id).where(due).order_by(jobs.c.due_at, jobs.c.id).limit(1)
        until = {kind: bindparam(f"until_{number}", type_=instant) for number, kind in enumerate(self._jobs)}
        self._look = Statement(following)
        self._take = Statement(
            update(jobs)
            .where(jobs.c.id == following.with_for_update(skip_locked=True).scalar_subquery())
            .values(
                lease=bindparam("held", type_=jobs.c.lease.type),
                due_at=case(until, value=jobs.c.kind),
                attempts=jobs.c.attempts + 1,
            )
            .returning(jobs.c.id, jobs.c.kind, jobs.c.payload, jobs.c.attempts, jobs.c.handed_over_at)
        )

    async def run(self) -> None:
        """Until stop(). Whatever happens: the next look may find what this one did not."""
        pause, is_away = SOON, False
        while True:
            await self._places.acquire()
            if self._is_stopping:
                return
            work = None
            try:
                work = await self.take()
                if is_away:
                    log.info("Jobs are worked on again")
                is_away = False
            except Exception as error:
                if not is_away:
                    log.warning("Jobs wait: %s", logs.tell(error), exc_info=not isinstance(error, Unavailable))
                is_away = True
            if work:
                task = asyncio.create_task(self.do(work))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
                pause = SOON
                continue
            self._places.release()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.bell.wait()
            # It is rung before the transaction that queues a job is committed: so look again, less and less often.
            pause = SOON if self.bell.is_set() else min(2 * pause, LATER)
            self.bell.clear()

    async def stop(self, running: asyncio.Task[None], grace: float) -> None:
        """Take no other job; wait for what is under way, but not for long."""
        self._is_stopping = True
        self.bell.set()
        await self._wait(running, grace)
        for stop in self._stops:
            stop.reschedule(0)
        await self._wait(running, GRACE)
        for task in (running, *self._tasks):
            task.cancel()

    async def _wait(self, running: asyncio.Task[None], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while pending := [task for task in (running, *self._tasks) if not task.done()]:
                    await asyncio.wait(pending)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()

    async def take(self) -> Work | None:
        """The next job that is due, if there is one: this worker's, until its lease runs out."""
        db, lease, now = self._application.db, secrets.randbits(62), self._clock()
        if not await db.run(self._look, {"now": now}):  # to look takes no lock
            return None
        limits = enumerate(job.limit for job in self._jobs.values())
        until = {f"until_{number}": now + limit + SLACK for number, limit in limits}
        rows = await db.run(self._take, {"now": now, "held": lease, **until})
        if not rows:
            return None
        job_id, kind, payload, attempts, handed_over_at = rows[0]
        payload = json.loads(payload) if isinstance(payload, str) else payload  # SQLite has no JSON of its own
        is_handed_over = handed_over_at is not None
        attempt = attempts - is_handed_over  # then this is none
        return Work(self._jobs[kind], self._application, job_id, payload, attempt, lease, is_handed_over)

    async def do(self, work: Work) -> None:
        """The job, once, and what became of it. Raises nothing for what its handler raises."""
        try:
            async with asyncio.timeout(None) as stop:
                self._stops.add(stop)
                try:
                    await self._perform(work)
                finally:
                    self._stops.discard(stop)
        except Lost:
            log.warning("Job %d (%s) took too long, and another worker has it now", work.id, work.job.kind)
        except Exception as error:
            await self._say_why(work, Stopped("Stopped in the middle of it.") if stop.expired() else error)
        else:
            if work.job.outside:
                await self._say(DONE, work)

    async def _perform(self, work: Work) -> None:
        if work.is_handed_over:
            raise Vanished("Its process ended in the middle of it: perhaps it was done.")
        if work.attempt > work.job.attempts:
            raise GiveUp("Its process ended in the middle of it, each time.")
        if work.job.outside:
            async with asyncio.timeout(work.job.limit.total_seconds()):
                await work.job.handler(work)
        else:
            await self._perform_in_transaction(work)

    @retried
    async def _perform_in_transaction(self, work: Work) -> None:
        async with self._application.db.transaction(limit=work.job.limit.total_seconds()) as db:
            if not await db.run(DONE, {"job": work.id, "held": work.lease}):
                raise Lost
            await work.job.handler(replace(work, caller=replace(self._application, db=db)))

    async def _say_why(self, work: Work, error: Exception) -> None:
        """Whether another attempt comes, and when."""
        name, told, tried = f"Job {work.id} ({work.job.kind})", _told(error), min(work.attempt, work.job.attempts)
        if work.is_handed_over and not isinstance(error, Retry | GiveUp):
            log.error("%s is dead, and was perhaps done: %s", name, told, exc_info=_without_words(error))
            await self._say(BURY_HANDED_OVER, work, tried=tried, told=told)
        elif isinstance(error, Stopped):
            await self._say(AGAIN, work, tried=tried - 1, told=told, due=self._clock())
        elif isinstance(error, GiveUp) or work.attempt >= work.job.attempts:
            log.error("%s is dead: %s", name, told, exc_info=_without_words(error))
            await self._say(BURY, work, tried=tried, told=told)
        else:
            pause = _pause(work.attempt, error)
            where = _without_words(error) if work.attempt == 1 else None
            log.warning("%s failed: %s; again in %d s", name, told, pause.total_seconds(), exc_info=where)
            await self._say(AGAIN, work, tried=tried, told=told, due=self._clock() + pause)

    async def _say(self, statement: Statement, work: Work, **values: object) -> None:
        for pause in PAUSES:
            with suppress(Unavailable):
                if not await self._application.db.run(statement, {"job": work.id, "held": work.lease, **values}):
                    log.warning("Another worker has job %d (%s) now", work.id, work.job.kind)
                return
            await asyncio.sleep(pause)
        log.error("Nobody could be told what became of job %d (%s)", work.id, work.job.kind)


def _pause(attempt: int, error: Exception) -> timedelta:
    """Longer and longer, and by chance: what failed together shall not come again together."""
    if isinstance(error, Retry) and error.after is not None:
        return error.after
    seconds = min(FIRST * 4 ** (attempt - 1), LONGEST)
    return timedelta(seconds=seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret


def _told(error: Exception) -> str:
    """For whoever looks at the job. Only what is written for a person: other messages may repeat what it is about."""
    is_sentence = isinstance(error, Refusal | Retry | GiveUp | Stopped | Vanished)
    return logs.safe((is_sentence and str(error)) or type(error).__name__)[:1000]


def _without_words(error: Exception) -> BaseException | None:
    """Where a defect is, without its message; nothing for what says itself what is wrong."""
    if isinstance(error, Refusal | Retry | GiveUp | Stopped | Vanished):
        return None
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)
