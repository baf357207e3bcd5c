"""What has changed since: to be asked now and then, or told as it happens by server-sent events."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlmodel import SQLModel

from app.deps import Caller, Settings, reads
from app.engine.history import FULL, POSITION, Change, History
from app.engine.verbs import Read, Verbs
from app.errors import Refusal, Unavailable, documented
from app.extras.history import Limit
from app.extras.names import called, one

PAUSE = 1.0  # seconds between two looks
LASTS = 300.0  # seconds that a stream lasts: its reader comes again, and says who they are
OF_ONE_USER = 32  # streams of one process
opened: Counter[int] = Counter()  # those of this one, by the user's id
After = Annotated[
    str, Query(pattern=POSITION, description="Only what came after this `position`; `now`: only what is still to come.")
]
LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", pattern=POSITION, description="The position of the last event that came.")
]


def routes(verbs: Verbs[Read], _create: type[SQLModel], _update: type[SQLModel]) -> APIRouter:
    """Of one entity."""
    reader = Annotated[Caller, reads(verbs.entity)]
    router, history = APIRouter(), History(verbs)

    @router.get("/changes", responses=documented(410))
    @called(f"list_{one(verbs)}_changes")
    async def list_changes(
        caller: reader, request: Request, response: Response, after: After = "", limit: Limit = 100
    ) -> list[Change]:
        """What has changed since, the oldest first, deletions too. `Link` says where to go on, also when all is told.

        To mirror the rows, ask `after=now`, then read the list, then go on from there: nothing is missed.
        """
        found, position = await history.since(caller, after, limit=limit)
        response.headers["Link"] = f'<{request.scope["path"]}?after={position}&limit={limit}>; rel="next"'
        return found

    async def begin(
        caller: reader, settings: Settings, after: After = "", last_event_id: LastEventId = ""
    ) -> AsyncIterator[tuple[list[Change], str]]:
        # Before the stream begins, so that a refusal has its status.
        with _place(caller.id, settings.concurrent_requests // 2):
            yield await history.since(caller, last_event_id or after)

    @router.get("/changes/stream", response_class=EventSourceResponse, responses=documented(410))
    @called(f"stream_{one(verbs)}_changes")
    async def stream_changes(
        caller: reader, request: Request, begun: Annotated[tuple[list[Change], str], Depends(begin)]
    ) -> AsyncIterator[ServerSentEvent]:
        """The same as it happens, as server-sent events. A stream ends after five minutes: its reader comes again, with
        the last event's id as `Last-Event-ID`, as every EventSource does, and misses nothing.
        """
        (found, position), end = begun, time.monotonic() + LASTS
        yield ServerSentEvent(id=None if found else position, retry=1000, comment="Changes follow.")
        with suppress(Refusal):  # they may come again, and are told then
            while True:
                for change in found:
                    yield ServerSentEvent(data=change, id=change.position)
                is_over = time.monotonic() > end or getattr(request.state, "stopping", False)
                if is_over or request.method == "HEAD":
                    return
                if len(found) < FULL:
                    await asyncio.sleep(PAUSE)
                found, position = await history.since(caller, position)

    return router


@contextmanager
def _place(user_id: int, most: int) -> Iterator[None]:
    """For one stream. Each takes the place of a request for minutes, so `most` leave enough for others.

    Raises Unavailable if all are taken, or this user has their share.
    """
    if opened.total() >= most or opened[user_id] >= OF_ONE_USER:
        raise Unavailable("There are too many streams already. Try again in a moment.", retry_after=10)
    opened[user_id] += 1
    try:
        yield
    finally:
        opened[user_id] -= 1
