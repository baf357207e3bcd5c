"""What one row of an entity is called, and several: in addresses and in the names of operations."""

import re
from typing import Any

from app.engine.verbs import Verbs


def one(verbs: Verbs[Any]) -> str:
    """`item`, `purchase_order`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", verbs.entity.__name__).lower()


def many(verbs: Verbs[Any]) -> str:
    """`items`, `purchase_orders`: the table's name."""
    return verbs.entity.__table__.name
