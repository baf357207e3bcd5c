"""Accounts: who may log in, as whom, and until when.

- `logins.py`: logging in, staying logged in, logging out.
- `machines.py`: tokens for programs.
- `profile.py`: what people do about their own account.
- `administration.py`: what superusers do about others'.
- `passwords.py`: which ones are good.
- `limits.py`: how many wrong ones a minute, and how many accounts.
- `finding.py`: what all of these ask of the database.
"""

from app.accounts.administration import (
    Counts,
    count,
    create_first_superuser,
    create_superuser,
    new_password,
    require_superuser,
    set_active,
    set_superuser,
)
from app.accounts.finding import identify
from app.accounts.limits import count_sign_up
from app.accounts.logins import (
    Client,
    LoggedIn,
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
from app.accounts.profile import change_password, confirm_password, register, set_password, update_account
