"""What one row of an entity is called, and several: in addresses and in the names of operations."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from app.engine.verbs import Verbs

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def one(verbs: Verbs[Any]) -> str:
    """`item`, `purchase_order`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", verbs.entity.__name__).lower()


def many(verbs: Verbs[Any]) -> str:
    """`items`, `purchase_orders`: the table's name."""
    return verbs.entity.__table__.name


def called(name: str) -> Callable[[Endpoint], Endpoint]:
    """Gives an endpoint its name, which only the entity knows."""

    def say(endpoint: Endpoint) -> Endpoint:
        endpoint.__name__ = name
        return endpoint

    return say
