"""Machine tokens: what your programs send as X-Token. Each does what its scope says, until it expires or is revoked."""

from typing import Annotated

from fastapi import APIRouter, Response

from app import accounts, crud
from app.deps import Caller, Query, RowId, created, query_of, reads, writes
from app.engine.http.idempotency import NOT_IDEMPOTENT
from app.models import MachineToken, MachineTokenCreate, MachineTokenRead, NewMachineToken

router = APIRouter(prefix="/machine_tokens", tags=["machine_tokens"])
TokenQuery = Annotated[Query, query_of(MachineToken)]
TokenReader = Annotated[Caller, reads(MachineToken)]
TokenWriter = Annotated[Caller, writes(MachineToken)]


@router.get("")
async def list_machine_tokens(caller: TokenReader, query: TokenQuery) -> list[MachineTokenRead]:
    """Your machine tokens, newest first. For superusers everybody's."""
    return await crud.machine_tokens.page(caller, query)


@router.post("", status_code=201, openapi_extra=NOT_IDEMPOTENT)
async def create_machine_token(caller: TokenWriter, data: MachineTokenCreate, response: Response) -> NewMachineToken:
    """Create a machine token. It is shown only this once. It may do no more than the token that you send."""
    return created(response, "machine_tokens", await accounts.create_machine_token(caller, data))


@router.get("/{token_id}")
async def read_machine_token(caller: TokenReader, token_id: RowId) -> MachineTokenRead:
    """One machine token: when it was last used, until when it is valid."""
    return await crud.machine_tokens.get(caller, token_id)


@router.delete("/{token_id}", status_code=204)
async def revoke_machine_token(caller: TokenWriter, token_id: RowId) -> None:
    """Revoke a machine token, from its very next request on."""
    await crud.machine_tokens.delete(caller, token_id)
