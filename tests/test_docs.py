"""docs/ tells the truth: each page's python is run, block after block, and its routes answer in the real app."""

import argparse
import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from sqlmodel import SQLModel

from app import mail
from app.engine import jobs, working
from app.engine.caller import Caller
from app.engine.http import dispatch
from app.errors import Clash, Invalid
from app.main import create_app
from app.security import read_access_token
from app.settings import ROOT, Settings
from tests.conftest import PASSWORD, Person, sign_up
from tests.scratch import tables
from tests.servers import free_port

THEIRS = {"invoices", "companies", "projects", "labels", "labelings", "teams", "memberships", "bookings", "expenses"}
THEIRS |= {"contracts", "minutes"}
TOKENS = "eyJ|cadre_|cadre-refresh_|cadre-link_"

pytestmark = pytest.mark.skipif(
    bool({*THEIRS, "payments"} & set(SQLModel.metadata.tables)), reason="a team's own entities are called the same"
)


class Named(SQLModel):
    name: str


class Page:
    """A page of docs/: what its python defines, and people who talk to its routes."""

    def __init__(self, name: str, app: FastAPI, client: TestClient) -> None:
        self.file, self.app, self.client = ROOT / "docs" / f"{name}.md", app, client
        self.text = self.file.read_text(encoding="utf-8")
        self.ann, self.bob = sign_up(client, "ann"), sign_up(client, "bob")
        self.root = sign_up(client, "root", is_superuser=True)
        self.names: dict[str, Any] = {"__name__": f"docs_{name}", "caller": self.caller(self.ann)}

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    def caller(self, person: Person) -> Caller:
        token = (person.headers or {})["Authorization"].removeprefix("Bearer ")
        return Caller(self.app.state.database, read_access_token(token, keys=self.app.state.settings.keys))

    def call(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run `work` where the app runs."""
        return self.client.portal.call(lambda: work(*arguments, **named))  # type: ignore[union-attr]

    def blocks(self) -> Iterator[str]:
        """Each block of python, after as many empty lines as there are before it: errors name the page's line."""
        for found in re.finditer(r"^```python\n(.*?)^```$", self.text, re.M | re.S):
            yield "\n" * self.text.count("\n", 0, found.start(1)) + found[1]

    def run(self, block: str) -> None:
        code = compile(block, self.file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            self.call(eval, code, self.names)
        else:
            exec(code, self.names)  # noqa: S102  # it is ours

    def answer(self) -> None:
        """Answer its routes from now on."""
        for router in [each for each in self.names.values() if isinstance(each, APIRouter)]:
            self.app.include_router(router, prefix="/api/v1")
        dispatch.install(self.app)


@pytest.fixture
def read(settings: Settings, start: Callable[..., TestClient]) -> Iterator[Callable[[str], Page]]:
    """Read a page: `page = read("lists")`."""
    before = set(SQLModel.metadata.tables)
    with ExitStack() as stack:

        def read_page(name: str) -> Page:
            app = create_app(settings)
            page = Page(name, app, start(app))
            for block in page.blocks():
                there = set(SQLModel.metadata.tables)
                page.run(block)
                new = [table for table in SQLModel.metadata.sorted_tables if table.name not in there]
                stack.enter_context(tables(settings.database_url, new))
            page.answer()
            return page

        yield read_page
    for name in set(SQLModel.metadata.tables) - before:
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])


def test_no_page_has_python_that_nobody_runs():
    pages = {file.stem for file in (ROOT / "docs").glob("*.md") if "```python" in file.read_text(encoding="utf-8")}
    assert pages == {"lists", "relations", "access", "routes", "jobs", "add-an-entity"}  # the last is for test_new.py


def titles(answer: Any, field: str) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [row[field] for row in answer.json()]


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["detail"]


def test_what_lists_md_tells_is_so(read: Callable[[str], Page]):
    page = read("lists")
    ann, create = page.ann, page.invoices.create
    for number, note, due in (("A-1", "paint", 24), ("B-1", "PAINT", None), ("A-2", None, 24), ("a-3", "Paint", 26)):
        row = page.InvoiceBase(number=number, note=note, due=due and date(2026, 12, due), total=Decimal(7))
        page.call(create, page.caller(ann), row)
    asked = re.findall(r"`(\?[^`]+)`", page.text)
    assert len(asked) == 11
    found = {query: titles(ann.get(f"/invoices{query}"), "number") for query in asked}
    assert found == {
        "?due=2026-12-24": ["A-2", "A-1"],
        "?due__gte=2026-12-01&due__lt=2027-01-01": ["a-3", "A-2", "A-1"],
        "?number__in=A-1&number__in=A-2": ["A-2", "A-1"],
        "?number__contains=a-": ["a-3", "A-2", "A-1"],
        "?due__null=true": ["B-1"],
        "?q=paint": ["a-3", "B-1", "A-1"],
        "?sort=-due": ["B-1", "a-3", "A-2", "A-1"],
        "?sort=id": ["A-1", "B-1", "A-2", "a-3"],
        "?limit=20&skip=40": [],
        "?count=true": ["a-3", "A-2", "B-1", "A-1"],
        "?is_paid=false&due__lt=2026-12-25&q=paint": ["A-1"],
    }
    address, *headers = re.findall(r"^(?:GET )?(\S.*)$", page.text.split("```http\n")[1].split("```")[0], re.M)
    answer = ann.get(address.removeprefix("/api/v1"))
    assert headers == [f"{name}: {answer.headers[name]}" for name in ("Link", "X-Total-Count")]

    (columns,) = [index.columns.keys() for index in page.Invoice.__table__.indexes if "due" in index.columns]
    assert f"`{', '.join(columns)}` where rows belong to somebody" in page.text
    page.run(next(block for block in page.blocks() if "overdue" in block))
    assert [[row.number for row in rows] for rows in (page.overdue, page.paint)] == [["A-1", "A-2"], ["B-1"]]
    assert page.last == 4


@pytest.mark.promise("U15")
def test_what_relations_md_tells_is_so(read: Callable[[str], Page]):
    page = read("relations")
    ann, bob, caller = page.ann, page.bob, page.caller(page.ann)
    acme = page.call(page.companies.create, caller, Named(name="Acme"))
    hall = page.call(page.projects.create, caller, page.ProjectBase(name="Hall", client_id=acme.id))
    roof = page.call(page.projects.create, caller, page.ProjectBase(name="Roof", client_id=acme.id, part_of_id=1))
    for name in ("urgent", "dull"):
        label = page.call(page.labels.create, caller, Named(name=name))
        pair = page.LabelingBase(project_id=roof.id, label_id=label.id)
        page.call(page.labelings.create, caller, pair)

    shown = ann.get("/projects").json()
    assert [(row["name"], row["client"]["name"], [each["name"] for each in row["labels"]]) for row in shown] == [
        *(("Roof", "Acme", ["dull", "urgent"]), ("Hall", "Acme", []))
    ]
    with pytest.raises(Clash, match="taken together"):
        page.call(page.labelings.create, caller, pair)
    bobs = page.call(page.projects.create, page.caller(bob), page.ProjectBase(name="Bob's", client_id=acme.id))
    for part_of_id in (bobs.id, 77):
        with pytest.raises(Invalid, match=r"^part_of_id is none of the projects that you can see\.$"):
            page.call(page.projects.update, caller, roof.id, page.ProjectBase.model_construct(part_of_id=part_of_id))
    with pytest.raises(Invalid) as told:
        page.call(page.projects.create, caller, page.ProjectBase(name="x", client_id=77))
    assert str(told.value) in page.text.replace("\n", " ")
    with pytest.raises(Clash) as told:
        page.call(page.companies.delete, caller, acme.id)
    assert str(told.value) in page.text

    assert ann.post(f"/projects/{hall.id}/leader/{bob.id}").json()["leader_id"] == bob.id
    assert bob.post(f"/projects/{hall.id}/leader/{bob.id}").status_code == 404
    assert ann.post(f"/projects/{hall.id}/leader/77").status_code == 422
    # Who sees the leader's project still changes the rest of it, and cannot name them by the verb.
    assert (
        page.call(page.projects.update, caller, hall.id, page.ProjectBase.model_construct(name="Old hall")).leader_id
        == bob.id
    )
    page.call(page.projects.delete, caller, hall.id)
    left = page.call(page.projects.get, caller, roof.id)
    assert (left.part_of_id, left.version) == (None, 1)

    # What an account leaves behind.
    contracts, minutes = page.verbs(page.Contract, page.ContractRead), page.verbs(page.Minutes, page.MinutesRead)
    root, late = page.root, page.call(page.labels.create, caller, Named(name="late"))
    pair = page.LabelingBase(project_id=roof.id, label_id=late.id)
    page.call(page.labelings.create, page.caller(root), pair)  # somebody else's, and within hers
    assert bob.post(f"/projects/{bobs.id}/leader/{ann.id}").json()["leader_id"] == ann.id
    contract, kept = [page.call(verbs.create, caller, SQLModel()) for verbs in (contracts, minutes)]
    assert (contract.owner_id, kept.owner_id) == (ann.id, ann.id)

    proof = {"current_password": PASSWORD}
    refused = [root.delete(f"/admin/users/{ann.id}"), ann.post("/users/me/delete", proof)]
    assert [refusal(answer) for answer in refused] == [(409, "It is still in use by contracts.")] * 2
    assert refused[0].json()["detail"] in page.text
    assert [project["name"] for project in ann.get("/projects").json()] == ["Roof"]

    page.call(contracts.delete, caller, contract.id)
    assert root.delete(f"/admin/users/{ann.id}").status_code == 204
    assert [(each["name"], each["leader_id"]) for each in root.get("/projects").json()] == [("Bob's", None)]
    by_root, by_bob = [page.call(minutes.page, page.caller(person)) for person in (root, bob)]
    assert ([(each.id, each.owner_id) for each in by_root], by_bob) == ([(kept.id, None)], [])
    assert page.call(page.labelings.page, page.caller(root)) == []
    given = page.call(minutes.update, page.caller(root), kept.id, owner_id=bob.id)
    assert page.call(minutes.page, page.caller(bob)) == [given]


@pytest.mark.once
def test_what_accounts_md_types_is_answered(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each curl as it stands there, but for the dots: in their place goes the last token that begins so."""
    monkeypatch.setattr(mail, "ROOT", tmp_path)
    monkeypatch.setattr(mail, "FOLDER", tmp_path)
    mail.install(Settings(environment="development"))
    curl, came, statuses = argparse.ArgumentParser(), dict[str, str](), list[int]()
    curl.add_argument("url")
    for option in ("-X", "-d", "-H", "--json"):
        curl.add_argument(option, action="append")
    for line in re.findall(r"^\$ curl (.+)$", (ROOT / "docs/accounts.md").read_text(encoding="utf-8"), re.MULTILINE):
        typed = re.sub(rf"({TOKENS})\.\.\.", lambda dots: came[dots[1]], line.replace("$API", "/api/v1"))
        asked = curl.parse_args(shlex.split(typed))
        body = "&".join(asked.json or asked.d or [])
        kind = "application/json" if asked.json else "application/x-www-form-urlencoded"
        headers = dict(header.split(": ", 1) for header in asked.H or []) | ({"Content-Type": kind} if body else {})
        method = asked.X[0] if asked.X else "POST" if body else "GET"
        answer = client.request(method, asked.url, content=body, headers=headers)
        assert client.portal
        client.portal.call(working.work_off, Caller(client.app.state.database))  # type: ignore[attr-defined]
        mailed = "".join(file.read_text(encoding="utf-8") for file in tmp_path.glob("*.eml"))
        came.update((begin, it) for it, begin in re.findall(rf"\b(({TOKENS})[\w.-]{{30,}})", answer.text + mailed))
        statuses.append(answer.status_code)
    assert statuses == [201, 200, 200, 200, 200, 201, 200, 200, 204, 202, 204]


def test_what_access_md_tells_is_so(read: Callable[[str], Page]):
    page = read("access")
    ann, bob, root = page.ann, page.bob, page.root
    team = ann.post("/teams", {"name": "Ann's"})
    assert team.status_code == 201
    assert [row.user_id for row in page.call(page.memberships.page, page.caller(ann))] == [ann.id]
    assert page.call(page.teams.page, page.caller(bob)) == []
    assert bob.post("/memberships", {"team_id": 1, "user_id": bob.id}).status_code == 404
    assert ann.post("/memberships", {"team_id": 1, "user_id": bob.id}).status_code == 201
    assert ann.post("/memberships", {"team_id": 1, "user_id": bob.id}).status_code == 409
    assert [row.name for row in page.call(page.teams.page, page.caller(bob))] == ["Ann's"]

    def book(person: Person, starts: int, ends: int) -> Any:
        at = {name: f"2026-12-24T{hour:02}:00:00Z" for name, hour in (("starts_at", starts), ("ends_at", ends))}
        data = page.BookingBase.model_validate({"team_id": 1, "room": "Blue", **at})
        return page.call(page.bookings.create, page.caller(person), data)

    first = book(ann, 9, 11)
    with pytest.raises(Clash, match="That room is taken at that time"):
        book(bob, 10, 12)
    with pytest.raises(Invalid, match="A booking must end after it starts"):
        book(bob, 12, 11)
    assert book(bob, 11, 12).is_confirmed is False

    confirm = f"/bookings/{first.id}/confirm"
    assert refusal(ann.post(confirm)) == (403, "That is for superusers.")
    assert root.post(confirm).json()["is_confirmed"] is True
    for membership in page.call(page.memberships.page, page.caller(bob)):
        page.call(page.memberships.delete, page.caller(root), membership.id)
    assert [len(page.call(page.teams.page, page.caller(who))) for who in (ann, bob, root)] == [0, 0, 1]


def test_what_routes_md_tells_is_so(read: Callable[[str], Page]):
    page = read("routes")
    ann, bob, root = page.ann, page.bob, page.root
    for person, amount in ((ann, "12.50"), (ann, "30"), (bob, "99")):
        data = page.ExpenseBase(purpose="Paint", amount=Decimal(amount))
        page.call(page.expenses.create, page.caller(person), data)
    assert page.call(race, page) == ["Clash", "ExpenseRead"]
    assert ann.post("/expenses/1/approve").status_code == 403
    assert root.post("/expenses/2/approve").json()["is_approved"] is True
    assert refusal(root.post("/expenses/2/approve")) == (409, "That expense is approved already.")
    stale = root.client.post("/api/v1/expenses/1/approve", headers={**root.headers, "If-Match": '"0-0"'})
    assert stale.status_code == 412
    assert [row.expense_id for row in page.call(page.payments.page, page.caller(root))] == [2, 3]
    # Of what is refused half-way nothing is kept.
    paid = page.call(page.payments.create, page.caller(root), page.PaymentBase(expense_id=1, amount=Decimal(1)))
    assert refusal(root.post("/expenses/1/approve")) == (409, "That expense id is taken.")
    page.call(page.payments.delete, page.caller(root), paid.id)

    assert titles(ann.get("/expenses/open?limit=1&sort=id"), "id") == [1]
    assert ann.get("/expenses/open?colour=red").status_code == 422
    assert ann.get("/expenses/largest").json()["id"] == 2
    assert root.get("/expenses/largest").status_code == 404
    assert root.get("/expenses/counts").json() == {"approved": 2, "open": 1}

    page.names["get_settings"] = lambda: page.app.state.settings
    page.call(page.approve_small_ones)
    assert titles(ann.get("/expenses/open"), "id") == []
    assert root.get("/expenses/counts").json() == {"approved": 3}


def test_what_jobs_md_tells_is_so(read: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "registered", {})
    monkeypatch.setattr(working, "registered", jobs.registered)
    page = read("jobs")
    page.names["get_settings"] = lambda: page.app.state.settings
    page.names["PAGER"] = ("127.0.0.1", free_port())
    paged = list[bytes]()

    async def listen() -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            paged.append(await reader.readline())
            writer.close()

        return await asyncio.start_server(answer, *page.PAGER)

    assert page.ann.post("/reminders?hours=3", {"title": "Water the plants"}).status_code == 201
    assert page.call(page.do_what_is_due) == 0
    assert page.call(page.do_what_is_due, hours=4) == 2
    assert page.ann.get("/items/1").json()["title"] == "Now: Water the plants"
    ((waiting,), _) = page.call(jobs.list_jobs, page.app.state.database)
    assert (waiting.kind, waiting.attempts, waiting.error) == ("page", 1, "The pager does not answer.")
    server = page.call(listen)
    assert page.call(page.do_what_is_due, hours=5) == 1
    page.call(server.close)
    assert paged == [b"Now: Water the plants\n"]
    assert page.call(page.do_what_is_due, hours=100) == 0


async def race(page: Page) -> list[str]:
    """What became of two who approve one expense at once."""
    both = [page.approve(page.caller(page.root), 3, None) for _ in range(2)]
    return sorted(type(result).__name__ for result in await asyncio.gather(*both, return_exceptions=True))
