"""Every entity, so that one import knows all tables: a new entity is registered by a line here."""

from app.models.item import Item, ItemCreate, ItemRead, ItemUpdate, UserWithItems
from app.models.machine_token import MachineToken, MachineTokenCreate, MachineTokenRead
from app.models.user import PasswordChange, User, UserCreate, UserRead, UserUpdate
