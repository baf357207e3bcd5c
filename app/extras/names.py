"""What an entity's rows are called in the names and sentences of its routes."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from app.engine.verbs import Read, Verbs

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def one(verbs: Verbs[Read]) -> str:
    """`machine_token`"""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", verbs.entity.__name__).lower()


def many(verbs: Verbs[Read]) -> str:
    """`machine_tokens`: its table's name."""
    return verbs.entity.__table__.name


def called(name: str) -> Callable[[Endpoint], Endpoint]:
    """Gives an endpoint its name, which only the entity knows."""

    def say(endpoint: Endpoint) -> Endpoint:
        endpoint.__name__ = name
        return endpoint

    return say
