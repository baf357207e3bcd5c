"""What an entity's rows are called, in addresses and in the OpenAPI document."""

import re

from app.engine.verbs import Read, Verbs


def one(verbs: Verbs[Read]) -> str:
    """`item`, `purchase_order`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", verbs.entity.__name__).lower()


def many(verbs: Verbs[Read]) -> str:
    """`items`, `purchase_orders`."""
    name: str = verbs.entity.__table__.name
    return name
