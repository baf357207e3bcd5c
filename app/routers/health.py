"""For load balancers and whoever is on call. No token, and no gate: they answer when nothing else does."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.engine import migrations
from app.errors import Unavailable

PATHS = ("/health", "/ready")
READY_LIMIT = 2.0  # seconds
router = APIRouter()


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health")
async def read_health() -> Health:
    """The process is alive. It says nothing of the database: a restart of the process would not mend that."""
    return Health()


@router.get("/ready")
async def read_readiness(request: Request) -> Health:
    """The database answers, and its schema is the newest: send requests. Takes two seconds at most."""
    try:
        async with asyncio.timeout(READY_LIMIT):
            ready = await migrations.is_current(request.app.state.probe)
    except TimeoutError:
        raise Unavailable("The database does not answer.") from None
    if not ready:
        raise Unavailable("The database is not at the newest migration. Run: python3 -m app migrate", retry_after=10)
    return Health()
