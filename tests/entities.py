"""Every entity that the app has five routes for, and a world to walk them in: people, and rows made on demand.

Whatever is asked there is held against the OpenAPI document, so that no answer is another than it says.
"""

import inspect
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema_rs
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.testclient import TestClient
from sqlmodel import SQLModel

from app.crud import users
from app.engine.caller import Caller
from app.engine.visibility import entities
from app.models.base import Access, Entity
from app.security import create_access_token, read_access_token
from tests import bodies
from tests.conftest import Person, sign_up

NOBODY_HAS = 2**53 - 1  # the greatest id that an address can have
VERBS = {"list": ("GET", ""), "create": ("POST", ""), "read": ("GET", "/{}"), "update": ("PATCH", "/{}")}
VERBS |= {"delete": ("DELETE", "/{}")}


@dataclass(frozen=True)
class Kind:
    """An entity with its five routes."""

    entity: type[Entity]
    routes: dict[str, RouteContext] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.table.name

    @property
    def table(self) -> Any:
        return self.entity.__table__

    @property
    def access(self) -> Access:
        return self.entity.__access__

    @property
    def path(self) -> str:
        """Beneath /api/v1."""
        return str(self.routes["list"].path).removeprefix("/api/v1")

    @property
    def create(self) -> type[SQLModel]:
        return self._body_of("create")

    @property
    def update(self) -> type[SQLModel]:
        return self._body_of("update")

    @property
    def read(self) -> type[SQLModel]:
        model: type[SQLModel] = self.routes["read"].response_model  # type: ignore[attr-defined]  # an APIRoute's
        return model

    @property
    def references(self) -> dict[str, str]:
        """The tables that its fields refer to."""
        told = {name: bodies.target(of) for name, of in self.create.model_fields.items()}
        return {name: table for name, table in told.items() if table}

    @property
    def nullable(self) -> list[str]:
        return [name for name, of in self.create.model_fields.items() if bodies.is_nullable(of)]

    @property
    def unique(self) -> list[list[str]]:
        """Fields that no two rows have alike, alone or together."""
        found = [[*each.columns.keys()] for each in self.table.constraints if type(each).__name__ == "UniqueConstraint"]
        found += [[*each.columns.keys()] for each in self.table.indexes if each.unique]
        return [names for names in found if {*names} <= {*self.create.model_fields, self.entity.__owner__}]

    @property
    def rules(self) -> list[str]:
        """The sentences that refuse what is well-formed."""
        checks = [each.info["sentence"] for each in self.table.constraints if "sentence" in each.info]
        return checks + [rule.sentence for rule in self.entity.__conflicts__]

    @property
    def files(self) -> list[Path]:
        """Its model's and its router's."""
        return [Path(inspect.getfile(each)) for each in (self.entity, self.routes["list"].endpoint)]  # type: ignore[arg-type]

    def listed(self, use: str) -> list[str]:
        return [column.name for column in self.table.columns if use in column.info.get("listed", ())]

    def _body_of(self, verb: str) -> type[SQLModel]:
        model: type[SQLModel] = self.routes[verb].body_field.field_info.annotation  # type: ignore[attr-defined]
        return model


def kinds(app: FastAPI) -> list[Kind]:
    """Every entity of `app` that has the five routes; those that others refer to come first."""
    routes: dict[tuple[str, str], RouteContext] = {}
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            routes[method, re.sub(r"{\w+}", "{}", context.path or "")] = context
    found = {}
    for name, entity in entities().items():
        for path in (f"/api/v1/{name}", f"/api/v1/{name.replace('_', '-')}"):
            own = {verb: routes.get((method, f"{path}{rest}")) for verb, (method, rest) in VERBS.items()}
            if all(own.values()):
                found[name] = Kind(entity, own)  # type: ignore[arg-type]  # none of them is None
    order = [table.name for table in SQLModel.metadata.sorted_tables]
    return sorted(found.values(), key=lambda kind: order.index(kind.table.name))


class World:
    """The running app, its people, and rows. No two bodies made here collide."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.document: dict[str, Any] = client.app.openapi()  # type: ignore[attr-defined]
        self.kinds = {str(kind): kind for kind in kinds(client.app)}  # type: ignore[arg-type]
        self.ann, self.bob = sign_up(client, "ann"), sign_up(client, "bob")
        self.root = sign_up(client, "root", is_superuser=True)
        self.nobody = Person(client, "nobody")
        self.gone = sign_up(client, "gone")
        assert client.portal is not None
        application = Caller(client.app.state.database)  # type: ignore[attr-defined]
        # By hand, so that the token is still what it was: every statement must ask.
        client.portal.call(partial(users.update, application, self.gone.id, is_active=False))
        self._numbers, self._validators = itertools.count(1), dict[tuple[str, str], Any]()

    def ask(self, who: Person, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer, which is as the document says."""
        headers = {**(who.headers or {}), **options.pop("headers", {})}
        answer = self.client.request(method, f"/api/v1{path}", json=body, headers=headers, **options)
        self._assert_documented(method, f"/api/v1{path}".partition("?")[0], answer)
        return answer

    def owner(self, kind: Kind) -> Person:
        """Who makes rows of it: Ann, unless only a superuser can, or sees what it needs."""
        members = {each.entity.__members__ for each in self.kinds.values() if each.access is Access.TEAM}
        needed = [name for name in kind.references if kind.create.model_fields[name].is_required()]
        others = [self.kinds[kind.references[name]] for name in needed if kind.references[name] in self.kinds]
        is_roots = kind.access is Access.RESTRICTED or str(kind) in members
        return self.root if is_roots or any(self.owner(other) is self.root for other in others) else self.ann

    def scoped(self, who: Person, *scopes: str) -> Person:
        """The same person with a token that may do only that."""
        state, token = self.client.app.state, (who.headers or {})["Authorization"].removeprefix("Bearer ")  # type: ignore[attr-defined]
        identity = replace(read_access_token(token, keys=state.settings.keys), scopes=frozenset(scopes))
        token = create_access_token(identity, keys=state.settings.keys, minutes=15)
        return replace(who, headers={"Authorization": f"Bearer {token}"})

    def machine(self, who: Person, *scopes: str) -> Person:
        """A program of theirs, whose token may do only that; all, if nothing is said."""
        made = self.ask(who, "POST", "/machine_tokens", {"name": "tests", "scope": " ".join(scopes) or None})
        return replace(who, headers={"X-Token": made.json()["token"]})

    def body(self, kind: Kind, who: Person | None = None, *, whole: bool = True) -> dict[str, Any]:
        """A good one, with rows of `who` to refer to."""
        return self._body(kind, who or self.owner(kind), whole, ())

    def row(self, kind: Kind, who: Person | None = None, **changed: Any) -> Any:
        """A new one."""
        who = who or self.owner(kind)
        return self._create(kind, who, {**self.body(kind, who), **changed})

    def _body(self, kind: Kind, who: Person, whole: bool, within: tuple[str, ...]) -> dict[str, Any]:
        def refer(table: str, _number: int) -> int | None:
            if table == "users":
                return who.id if who is not self.root else sign_up(self.client, f"user-{next(self._numbers)}").id
            if table in (*within, str(kind)) or table not in self.kinds:
                return None  # it refers to itself, by and by
            other = self.kinds[table]
            if self.owner(other) is self.root and who is not self.root:
                return None  # which others do not see
            made = self._create(other, who, self._body(other, who, True, (*within, str(kind))))
            return int(made["id"])

        return bodies.valid(kind.create, next(self._numbers), refer, whole=whole)

    def _create(self, kind: Kind, who: Person, body: dict[str, Any]) -> Any:
        answer = self.ask(who, "POST", kind.path, body)
        assert answer.status_code == 201, answer.json()
        return answer.json()

    def join(self, kind: Kind, team: int, who: Person) -> None:
        """Make `who` a member, if they are none yet."""
        if not (members := self.kinds.get(kind.entity.__members__)):
            return
        body = bodies.valid(members.create, next(self._numbers), lambda _table, _number: None)
        answer = self.ask(self.root, "POST", members.path, {**body, "team_id": team, "user_id": who.id})
        assert answer.status_code in (201, 409), answer.json()

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, of in self.document["paths"].items():
            for verb, operation in of.items():
                yield verb.upper(), path, operation

    def scopes(self, operation: dict[str, Any]) -> list[str]:
        """What the document says that it takes, of either kind of token."""
        (scopes,) = {tuple(of) for each in operation["security"] for of in each.values()}
        return [*scopes]

    def operation(self, kind: Kind, verb: str) -> dict[str, Any]:
        """What the document says of it."""
        found: dict[str, Any] = self.document["paths"][kind.routes[verb].path][VERBS[verb][0].lower()]
        return found

    def parameters(self, kind: Kind) -> dict[str, dict[str, Any]]:
        """What its list can be asked, and of which form."""
        told = self.operation(kind, "list").get("parameters", ())
        return {each["name"]: each["schema"] for each in told if each["in"] == "query"}

    def _assert_documented(self, method: str, path: str, answer: Any) -> None:
        found = {
            template: operation
            for verb, template, operation in self.operations()
            if verb == method and re.fullmatch(re.sub(r"{\w+}", r"[^/]+", template), path)
        }
        assert found, f"{method} {path} is not in the document"
        operation = found.get(path) or next(iter(found.values()))
        status, name = str(answer.status_code), operation["operationId"]
        assert status in operation["responses"], f"{name} answers {status}, which the document does not tell"
        content = operation["responses"][status].get("content", {})
        if not content:
            assert answer.content == b"", f"{name} answers {status} with a body"
            return
        media_type = answer.headers["content-type"].removesuffix("; charset=utf-8")
        assert media_type in content, f"{name} answers {status} as {media_type}"
        of = content[media_type]
        if "schema" not in of or of["schema"].get("format") == "binary":
            return  # a stream, or a file
        if (name, status) not in self._validators:
            schema = {**of["schema"], "components": self.document["components"]}
            self._validators[name, status] = jsonschema_rs.validator_for(schema)
        self._validators[name, status].validate(json.loads(answer.content))
