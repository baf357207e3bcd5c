"""Accounts: who may log in, as whom, and until when.

- `logins.py`: logging in, staying logged in, logging out.
- `machines.py`: tokens for programs.
- `profile.py`: what people do about their own account.
- `administration.py`: what superusers do about others'.
- `finding.py`: what all of these ask of the database.
"""

from app.accounts.administration import (
    Counts,
    count,
    create_account,
    create_first_superuser,
    delete_account,
    delete_own_account,
    new_password,
    require_superuser,
    reset_account,
    set_active,
    set_superuser,
)
from app.accounts.finding import identify
from app.accounts.logins import (
    Client,
    LoggedIn,
    MySession,
    list_sessions,
    log_in,
    log_out,
    log_out_everywhere,
    refresh,
    revoke,
)
from app.accounts.machines import create_machine_token, create_machine_token_for, identify_machine
from app.accounts.profile import change_password, confirm_password, register, set_password, update_account
