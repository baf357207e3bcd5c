"""What the links in mails are for: to confirm an address, to choose a password. To ask for one tells nothing."""

from typing import Annotated

from fastapi import APIRouter

from app import accounts
from app.accounts import Sent
from app.deps import Application, Caller, Client, Hasher, Settings, writes
from app.errors import documented
from app.models import Confirmation, PasswordReset, ResetRequest, User, UserRead

router = APIRouter(prefix="/users", tags=["users"])
UserWriter = Annotated[Caller, writes(User)]


@router.post("/confirm", responses=documented(409))
async def confirm(application: Application, data: Confirmation) -> UserRead:
    """Use the link of a sign-up, which makes the account, or of a verification, which confirms its address."""
    return await accounts.confirm(application, data.token.get_secret_value())


@router.post("/me/verification", status_code=202, responses=documented(409, 429))
async def verify_my_address(caller: UserWriter) -> Sent:
    """Get a mail with a link that confirms your address. 409 where no mails are sent."""
    return await accounts.ask_for_verification(caller)


@router.post("/password-reset", status_code=202, responses=documented(409, 429))
async def ask_for_reset(application: Application, settings: Settings, client: Client, data: ResetRequest) -> Sent:
    """Forgot your password? Get a mail with a link to choose a new one. 409 where no mails are sent."""
    await accounts.count_reset(application, client.address, settings.sign_up_attempts)
    return await accounts.ask_for_reset(application, data.email)


@router.post("/password-reset/confirm", status_code=204)
async def reset_password(application: Application, hasher: Hasher, data: PasswordReset) -> None:
    """Choose a new password, by the link of a reset or an invitation. Every login of yours ends."""
    secret, password = data.token.get_secret_value(), data.new_password.get_secret_value()
    await accounts.reset_password(application, hasher, secret, password)
