"""What an entity's rows are called in the names and sentences of its routes."""

import re

from app.engine.verbs import Read, Verbs


def one(verbs: Verbs[Read]) -> str:
    """`machine_token`"""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", verbs.entity.__name__).lower()


def many(verbs: Verbs[Read]) -> str:
    """`machine_tokens`: its table's name."""
    return verbs.entity.__table__.name
