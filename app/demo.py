"""Believable people and items, to try things with. Only in development."""

from pydantic import SecretStr

from app import accounts
from app.crud import items, transaction, users
from app.engine.caller import Caller
from app.engine.hashing import Hasher
from app.errors import Clash
from app.models import ItemCreate, UserCreate

PEOPLE = {
    "johndoe": ("John Doe", ["Order the paint", "Call the surveyor", "Book the van for Friday"]),
    "alice": ("Alice Wonderson", ["Hand over the keys"]),
    "mgarcia": ("María García", ["Translate the leaflet", "Reply to the school"]),
    "tomek": ("Tomasz Wójcik", ["Replace the router", "Back up the laptops", "Cancel the old contract"]),
    "yuki": ("鈴木 由紀", ["Draw the floor plan"]),
}
DEACTIVATED = "alice"


async def fill(application: Caller, hasher: Hasher) -> str:
    """Create PEOPLE with their items, all or none. Says what there is now, and once the password that all share."""
    password = accounts.new_password()
    hashed = await hasher.hash(password)
    try:
        async with transaction(application) as tx:
            for username, (full_name, titles) in PEOPLE.items():
                email = f"{username}@example.com"
                data = UserCreate(username=username, email=email, full_name=full_name, password=SecretStr(password))
                user = await users.create(tx, data, hashed_password=hashed, is_active=username != DEACTIVATED)
                for title in titles:
                    await items.create(tx, ItemCreate(title=title), owner_id=user.id)
    except Clash:
        return "The demo people are there already. Delete the database file to begin anew."
    return f"{', '.join(PEOPLE)} ({DEACTIVATED} is deactivated) are there, with the password {password}"
