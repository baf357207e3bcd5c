"""Every entity, so that one import knows all tables: a new entity is registered by a line here."""

from app.models.item import Item, ItemCreate, ItemRead, ItemUpdate, UserWithItems
from app.models.link import Confirmation, Link, PasswordReset, Purpose, ResetRequest
from app.models.machine_token import MachineToken, MachineTokenCreate, MachineTokenRead, NewMachineToken
from app.models.session import LoginSession, SessionRead
from app.models.user import (
    AccountCreate,
    AccountReset,
    Invitation,
    PasswordChange,
    PasswordProof,
    User,
    UserCreate,
    UserRead,
    UserUpdate,
    UserWithPassword,
)
