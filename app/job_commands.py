"""The commands about queued jobs: `worker` does them, beside the servers or in their place; `jobs` shows them."""

import asyncio
import logging
import signal
from datetime import datetime
from typing import Annotated

import typer

from app.engine import jobs, logs
from app.engine.jobs import Queued
from app.engine.working import working
from app.errors import CannotStart
from app.models.base import utcnow
from app.settings import get_settings
from app.start import answer, opened, prepare, say

commands = typer.Typer()
GRACE = 8  # seconds to finish what is under way: Docker kills at 10
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@commands.command()
def worker() -> None:
    """Do queued jobs, until it is stopped. For JOBS_IN_SERVER=false, or when there is more than the servers can do."""
    from app import routers  # noqa: F401  # late: with them come the jobs, and the web framework

    settings = get_settings()
    logs.configure(for_people=settings.environment == "development")
    if settings.read_only:
        raise CannotStart("READ_ONLY is set, and jobs write: start the worker when it is not.")
    asyncio.run(prepare(settings))
    if not jobs.registered:
        raise CannotStart("There are no jobs to do: register one with @job, as docs/jobs.md shows.")

    async def work() -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(told.set))
        log = logging.getLogger("app")
        async with opened(settings) as (application, _hasher), working(application, grace=GRACE):
            log.info("Doing jobs: %s", ", ".join(sorted(jobs.registered)))
            await told.wait()
            log.info("Stopping: what is under way has %d seconds", GRACE)
        log.info("Stopped")

    answer(work())


@commands.command("jobs")
def show_jobs(
    retry: Annotated[int | None, typer.Option(help="Try that one again now, as if for the first time.")] = None,
    drop: Annotated[int | None, typer.Option(help="Forget that one.")] = None,
) -> None:
    """Show the jobs that wait, are under way, or are dead: those are tried again only by `--retry`."""

    async def work() -> None:
        async with opened(get_settings()) as (application, _hasher):
            if retry is not None:
                await jobs.retry(application.db, retry)
                say(f"Job {retry} is due now.")
            if drop is not None:
                await jobs.drop(application.db, drop)
                say(f"Job {drop} is forgotten.")
            if retry is None and drop is None:
                queued, total = await jobs.list_jobs(application.db)
                say("\n".join(told(each, utcnow()) for each in queued) or "No jobs are queued.")
                if total > len(queued):
                    say(f"and {total - len(queued)} more.")

    answer(work())


def told(job: Queued, now: datetime) -> str:
    """Its line: `7  mail  dead, perhaps done  attempts: 3  queued 2 h ago  TimeoutError`."""
    if job.due_at is None:
        state = "dead, perhaps done" if job.handed_over_at else "dead"
    elif job.due_at <= now:
        state = "due"
    else:
        state = "under way" if job.lease else f"due in {span(job.due_at, now)}"
    columns = f"{job.id:>6}", job.kind.ljust(16), state.ljust(18), f"attempts: {job.attempts:<3}"
    return "  ".join([*columns, f"queued {span(now, job.created_at)} ago", job.error or ""]).rstrip()


def span(later: datetime, earlier: datetime) -> str:
    seconds = max(int((later - earlier).total_seconds()), 0)
    size, unit = next((each for each in UNITS if seconds >= each[0]), UNITS[-1])
    return f"{seconds // size} {unit}"
