"""Waiting has an end: for a place, for somebody else's lock, for another try. After it comes 503, never a hang."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from app.errors import Overtaken, Unavailable

PATIENCE = 5.0  # seconds
ATTEMPTS = 5
BUSY = "The database is busy. Try again in a moment."

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def place(places: asyncio.Lock | asyncio.Semaphore) -> AsyncIterator[None]:
    """One of `places`, for as long as the block lasts. Raises Unavailable if none is free within PATIENCE seconds."""
    await acquire(places)
    try:
        yield
    finally:
        places.release()


async def acquire(places: asyncio.Lock | asyncio.Semaphore) -> None:
    """One of `places`, to be released by the caller. Raises Unavailable if none is free within PATIENCE seconds."""
    if not places.locked():
        await places.acquire()  # at once: a timeout would cost more than all the rest
        return
    try:
        async with asyncio.timeout(PATIENCE):
            await places.acquire()
    except TimeoutError:
        raise Unavailable(BUSY) from None


def retried(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`work`, begun anew each time another transaction was faster (a serialization failure, a deadlock).

    Only for a function that does nothing but one statement or one transaction(): of an attempt that lost nothing was
    kept. Raises Overtaken, which is Unavailable, if the last of ATTEMPTS loses too.
    """

    @wraps(work)
    async def attempt(*args: P.args, **kwargs: P.kwargs) -> T:
        for number in range(1, ATTEMPTS):
            try:
                return await work(*args, **kwargs)
            except Overtaken:
                # By chance, or those who met would meet again.
                await asyncio.sleep(random.uniform(0, 0.01) * 2**number)  # noqa: S311  # no secret
        return await work(*args, **kwargs)

    return attempt
