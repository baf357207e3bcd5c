"""Accounts: who may log in, as whom, and until when.

- `logins.py`: logging in, staying logged in, logging out.
- `machines.py`: tokens for programs.
- `profile.py`: what people do about their own account.
- `administration.py`: what superusers do about others'.
- `addresses.py`: what takes a mail: confirming an address, choosing a forgotten password.
- `links.py`, `letters.py`: what such mails hold.
- `passwords.py`: which ones are good.
- `limits.py`: how many wrong ones a minute, and how many accounts.
- `finding.py`: what all of these ask of the database.
"""

from app.accounts.addresses import Sent, ask_for_account, ask_for_reset, ask_for_verification, confirm, reset_password
from app.accounts.administration import (
    Counts,
    count,
    create_account,
    create_first_superuser,
    delete_account,
    delete_own_account,
    invite_account,
    new_password,
    require_superuser,
    reset_account,
    set_active,
    set_superuser,
)
from app.accounts.finding import identify
from app.accounts.limits import count_reset, count_sign_up
from app.accounts.links import forget_expired_links
from app.accounts.logins import (
    Client,
    MySession,
    forget_expired,
    list_sessions,
    log_in,
    log_out,
    log_out_everywhere,
    refresh,
    revoke,
)
from app.accounts.machines import create_machine_token, create_machine_token_for, identify_machine
from app.accounts.profile import change_password, register, set_password, update_account
