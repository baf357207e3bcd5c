"""Sessions: where you are logged in, and the power to end each. One ends with its tokens, at the very next request."""

from typing import Annotated

from fastapi import APIRouter

from app import accounts, crud
from app.accounts import MySession
from app.deps import Caller, RowId, reads, writes
from app.errors import documented
from app.models import LoginSession

router = APIRouter(tags=["sessions"])
SessionReader = Annotated[Caller, reads(LoginSession)]
SessionWriter = Annotated[Caller, writes(LoginSession)]


@router.get("/sessions")
async def list_sessions(caller: SessionReader) -> list[MySession]:
    """Where you are logged in, newest first."""
    return await accounts.list_sessions(caller)


@router.delete("/sessions", status_code=204)
async def log_out_everywhere(caller: SessionWriter) -> None:
    """Log out everywhere, here too. Machine tokens stay."""
    await accounts.log_out_everywhere(caller)


@router.delete("/sessions/{session_id}", status_code=204)
async def end_session(caller: SessionWriter, session_id: RowId) -> None:
    """End one of your sessions. Superusers end anybody's."""
    await crud.sessions.delete(caller, session_id)


@router.post("/logout", status_code=204, responses=documented(403, description="A machine token is no login"))
async def log_out(caller: Caller) -> None:
    """Log out: the session that your token belongs to ends, and its refresh token with it."""
    await accounts.log_out(caller)
