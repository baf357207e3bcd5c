"""A list can be asked what its fields declare, and nothing else; and every page, at any depth, meets each row once."""

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from sqlmodel import Field, SQLModel

from app.crud import standing, users, verbs
from app.deps import Caller, Query, query_of
from app.engine.expressions import Expressions
from app.engine.http import dispatch
from app.engine.queries import Shape, query_class
from app.engine.sqlite import DIALECT
from app.engine.statement import Compiled
from app.errors import Invalid
from app.main import create_app
from app.models import Item, User
from app.models.base import Access, Closed, Entity, Line, Row, Text, listed
from app.models.types import Json, JsonColumn
from app.settings import Settings
from tests.conftest import Person, sign_up
from tests.office import (
    TABLES,
    Company,
    CompanyCreate,
    Pairing,
    Project,
    ProjectCreate,
    ProjectRead,
    Stage,
    companies,
    projects,
)
from tests.scratch import World, awaited, tables, world_at

TODAY = date(2026, 11, 24)
ROWS = {
    "Zebra": {"due": TODAY, "budget": Decimal("10.50"), "share": 0.1, "is_open": False},
    "apple": {"due": TODAY + timedelta(1), "budget": Decimal("2.25"), "share": -1e300, "stage": Stage.DONE},
    "Äpfel 100%": {"due": None, "budget": Decimal("10.50"), "share": 0.1, "note": "a_b"},
    "Stray": {"due": None, "budget": Decimal(-3), "share": 7.0, "note": "Straßenbahn"},
    "Pear": {"due": TODAY, "budget": Decimal("99999.99"), "share": 0.25},
}
SORTS = [sign + name for name in ("id", "title", "due", "budget", "share", "starts_at", "stage") for sign in ("", "-")]
router = APIRouter(prefix="/api/v1/scratch_projects")
ProjectQuery = Annotated[Query, query_of(Project)]


@router.get("")
async def list_projects(caller: Caller, query: ProjectQuery) -> list[ProjectRead]:
    return await projects.page(caller, query)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, TABLES), world_at(database_url) as world:
        yield world


@pytest.fixture
def client(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[TestClient]:
    app = create_app(settings)
    app.include_router(router)
    dispatch.install(app)
    with tables(database_url, TABLES):
        yield start(app)


@pytest.fixture
def ann(client: TestClient) -> Person:
    """Ann has a company's id in one project, and five projects."""
    from app.engine.caller import Caller as EngineCaller

    ann, bob = sign_up(client, "ann"), sign_up(client, "bob")

    async def fill() -> None:
        application = EngineCaller(client.app.state.database)
        company = await companies.create(application, CompanyCreate(name="Acme"))
        for title, more in ROWS.items():
            client_id = company.id if title == "Pear" else None
            data = ProjectCreate(title=title, client_id=client_id, **more)
            await projects.create(application, data, owner_id=ann.id)
        await projects.create(application, ProjectCreate(title="Bob's Zebra"), owner_id=bob.id)

    client.portal.call(fill)
    return ann


def titles(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return sorted(row["title"] for row in answer.json())


@pytest.mark.parametrize(
    ("query", "expected"),
    {
        "title=apple": {"apple"},
        "title__in=apple&title__in=Pear": {"apple", "Pear"},
        "title__in=apple": {"apple"},
        "title__contains=EA": {"Pear"},
        "title__contains=0%25": {"Äpfel 100%"},
        "title__contains=%25": {"Äpfel 100%"},
        "due=2026-11-24": {"Zebra", "Pear"},
        "due__gt=2026-11-24": {"apple"},
        "due__gte=2026-11-24&due__lt=2026-11-25": {"Zebra", "Pear"},
        "due__lte=2026-11-24": {"Zebra", "Pear"},
        "due__in=2026-11-24&due__in=2026-11-25": {"Zebra", "Pear", "apple"},
        "due__null=true": {"Äpfel 100%", "Stray"},
        "due__null=false": {"Zebra", "Pear", "apple"},
        "budget=10.5": {"Zebra", "Äpfel 100%"},
        "budget__gt=10.5": {"Pear"},
        "budget__lt=0": {"Stray"},
        "stage=done": {"apple"},
        "stage__in=done&stage__in=brand%20new&is_open=false": {"Zebra"},
        "is_open=true&due__null=true": {"Äpfel 100%", "Stray"},
        "client_id=1": {"Pear"},
        "client_id=2": set(),
        "client_id__null=true&budget=10.5": {"Zebra", "Äpfel 100%"},
        "q=ÄPFEL": {"Äpfel 100%"},
        "q=a_b": {"Äpfel 100%"},
        "q=STRA": {"Stray"},
        "q=zebra": {"Zebra"},
        "q=": {*ROWS},
        "": {*ROWS},
    }.items(),
)
def test_a_filter_finds_what_it_says_among_the_callers_own(ann: Person, query: str, expected: set[str]):
    assert titles(ann.get(f"/scratch_projects?{query}")) == sorted(expected)


@pytest.mark.parametrize(
    "query",
    [
        *("titel=x", "share=1", "share__gt=1", "note=x", "note__contains=x", "owner_id=1", "id=1", "version=1"),
        *("due=tomorrow", "due__gt=", "due__null=perhaps", "budget=ten", "budget=NaN", "stage=NEW", "is_open=2"),
        *("client_id=0", "client_id=x", f"client_id={2**70}", "title__contains=%00", "q=%00", "sort=note"),
        *("sort=hashed_password", "sort=", "sort=-", "sort=due&sort=due", "due=2026-01-01&due=2026-01-02", "count=7"),
        *(f"q={'x' * 101}", "&".join(f"title__in={n}" for n in range(51)), "due__contains=1", "is_open__in=true"),
        *("cursor=x", "cursor=%00", "cursor=WzEsMiwzXQ", "cursor=IiI", "cursor=bnVsbA", "skip=1&cursor=x", "a&" * 101),
    ],
)
def test_what_is_not_declared_and_what_is_no_value_is_refused(ann: Person, query: str):
    answer = ann.get(f"/scratch_projects?{query}")
    assert answer.status_code == 422, answer.json()
    detail = answer.json()["detail"]
    where = query.partition("=")[0].partition("&")[0]
    assert isinstance(detail, str) or detail[0]["loc"][:2] in (["query", where], ["query"], ["query", "cursor"])


def walk(person: Person, path: str) -> list[int]:
    """The ids of every page, following the Link header."""
    ids, pages = [], 0
    while path and (pages := pages + 1) < 20:
        answer = person.client.get(path, headers=person.headers)
        assert answer.status_code == 200, answer.json()
        ids += [row["id"] for row in answer.json()]
        found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
        path = found[1] if found else ""
    return ids


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("sort", SORTS)
def test_the_link_header_leads_through_every_row_once_in_order(ann: Person, sort: str, limit: int):
    at_once = [row["id"] for row in ann.get(f"/scratch_projects?sort={sort}").json()]
    assert walk(ann, f"/api/v1/scratch_projects?sort={sort}&limit={limit}") == at_once
    assert sorted(at_once) == [1, 2, 3, 4, 5]
    by_skip = [ann.get(f"/scratch_projects?sort={sort}&limit=1&skip={skip}").json()[0]["id"] for skip in range(5)]
    assert by_skip == at_once


def test_an_empty_value_counts_as_the_greatest_and_ties_go_by_id(ann: Person):
    up, down = (ann.get(f"/scratch_projects?sort={sort}").json() for sort in ("due", "-due"))
    assert [row["title"] for row in up] == ["Zebra", "Pear", "apple", "Äpfel 100%", "Stray"]
    assert down == up[::-1]


def test_a_walk_by_cursor_meets_no_row_twice_while_others_come_and_go(ann: Person):
    first = ann.get("/scratch_projects?limit=2")
    ann.client.portal.call(_create_and_delete, ann)
    rest = walk(ann, first.headers["Link"].split(">")[0][1:])
    assert [row["id"] for row in first.json()] + rest == [5, 4, 3, 1]


async def _create_and_delete(ann: Person) -> None:
    from app.engine.caller import Caller as EngineCaller

    application = EngineCaller(ann.client.app.state.database)
    await projects.create(application, ProjectCreate(title="newest"), owner_id=ann.id)
    await projects.delete(application, 2)


def test_the_link_keeps_filters_and_limit_and_the_last_page_has_none(ann: Person):
    answer = ann.get("/scratch_projects?due__null=false&limit=2&sort=title&count=true&skip=0")
    link = answer.headers["Link"]
    assert link.startswith("</api/v1/scratch_projects?due__null=false&limit=2&sort=title&cursor=")
    assert "Link" not in ann.client.get(link.split(">")[0][1:], headers=ann.headers).headers
    assert "Link" not in ann.get("/scratch_projects?limit=5").headers


def test_a_cursor_of_another_order_or_list_is_refused(ann: Person):
    cursor = re.search(r"cursor=([\w-]+)", ann.get("/scratch_projects?limit=2&sort=due").headers["Link"])[1]
    assert ann.get(f"/scratch_projects?sort=due&cursor={cursor}").status_code == 200
    for query in (f"sort=-due&cursor={cursor}", f"cursor={cursor}", f"sort=due&skip=1&cursor={cursor}"):
        assert ann.get(f"/scratch_projects?{query}").status_code == 422


def test_the_total_is_told_only_when_it_is_asked_for(ann: Person, client: TestClient):
    assert "X-Total-Count" not in ann.get("/scratch_projects").headers
    assert ann.get("/scratch_projects?count=true&limit=1").headers["X-Total-Count"] == "5"
    assert ann.get("/scratch_projects?count=true&due__null=true&limit=1").headers["X-Total-Count"] == "2"
    assert ann.get("/scratch_projects?count=true&title=nothing").headers["X-Total-Count"] == "0"


def test_superusers_find_users_by_name(root_and_ann: Person):
    assert [row["username"] for row in root_and_ann.get("/users?q=AN&sort=username").json()] == ["ann"]
    assert [row["username"] for row in root_and_ann.get("/users?username=Ann").json()] == ["ann"]


@pytest.fixture
def root_and_ann(ann: Person, client: TestClient) -> Person:
    return sign_up(client, "root", is_superuser=True)


def test_the_list_of_somebody_is_no_way_to_ask_for_their_hash():
    with pytest.raises(TypeError, match="hashed_password is in no answer"):
        query_class(secret())


def secret() -> type[Entity]:
    class Secret(Entity, Row, table=True):
        __tablename__ = "scratch_secrets"
        __table_args__ = ({"sqlite_autoincrement": True},)
        hashed_password: str = Field(max_length=255, sa_column_kwargs=listed("search"))

    SQLModel.metadata.remove(Secret.__table__)
    return Secret


@pytest.mark.parametrize(
    ("name", "kind", "more", "problem"),
    [
        ("words", Text, {"max_length": 501, "sa_column_kwargs": listed("sort")}, "needs a max_length of 500 or less"),
        ("number", int, {"sa_column_kwargs": listed("search")}, "is no text to search"),
        ("any_", Json, {"sa_type": JsonColumn, "sa_column_kwargs": listed("filter")}, "has a type that lists cannot"),
        ("limit", int, {"sa_column_kwargs": listed("filter")}, "has a name that lists need"),
        ("asked", int, {"sa_column_kwargs": listed("filter")}, "has a name that lists need"),
        ("q", Text, {"max_length": 9, "sa_column_kwargs": listed("search")}, "has a name that lists need"),
        ("price", Decimal, {"sa_column_kwargs": listed("sort")}, "needs max_digits and decimal_places"),
    ],
)
def test_what_a_list_cannot_do_is_told_at_the_start(name: str, kind: Any, more: dict[str, Any], problem: str):
    base = type("OddBase", (Row,), {"__annotations__": {name: kind}, name: Field(**more), "__module__": __name__})
    names = {"__tablename__": f"scratch_odd_{name}", "__table_args__": ({"sqlite_autoincrement": True},)}
    names["__access__"] = Access.SHARED
    odd: Any = type(SQLModel)(f"Odd{name}", (Entity, base), {**names, "__module__": __name__}, table=True)
    SQLModel.metadata.remove(odd.__table__)
    with pytest.raises(TypeError, match=problem):
        query_class(odd)


def test_what_is_declared_for_filters_or_sorting_has_an_index_that_begins_with_whose_the_rows_are():
    found = {
        entity: {tuple(index.columns.keys()) for index in entity.__table__.indexes}
        for entity in (Project, Company, Pairing, Item, User)
    }
    fields = ("title", "due", "budget", "share", "starts_at", "stage", "is_open", "client_id")
    assert {("owner_id", field, "id") for field in fields} < found[Project]
    assert {("owner_id", "project_id", "id"), ("owner_id", "company_id", "id")} < found[Pairing]
    # A name that is unique is an index already, and what is only searched needs none.
    assert (found[Company], found[Item]) == (set(), {("owner_id", "id")})
    assert found[User] == {("id",)}  # of superusers only


@awaited
async def test_verbs_take_the_same_filters_by_name(world: World):
    for title, more in ROWS.items():
        await projects.create(world.ann, ProjectCreate(title=title, **more))
    found = await projects.page(world.ann, due__gte=TODAY, stage__in=[Stage.NEW, Stage.DONE], sort="title", limit=2)
    assert {row.title for row in found} < {"Zebra", "apple", "Pear"}
    assert len(found) == 2
    assert [row.title for row in await projects.page(world.ann, id__in=[])] == []
    assert len(await projects.page(world.ann, id__in=range(1, 60))) == 5
    query = query_class(Project)(limit=2, sort="budget", count=True)
    heard: list[Any] = []
    query.on_answer(lambda *said: heard.append(said))
    assert [row.title for row in await projects.page(world.ann, query, is_open=True)] == ["Stray", "apple"]
    assert [row.title for row in await projects.page(world.ann, query_class(Project)(sort="budget"), limit=1)] == [
        "Stray"
    ]
    ((cursor, total),) = heard
    assert (await projects.page(world.ann, sort="budget", is_open=True, cursor=cursor))[0].title == "Äpfel 100%"
    assert total == 4
    with pytest.raises(TypeError, match="no filter colour"):
        await projects.page(world.ann, colour="red")
    with pytest.raises(Invalid):
        await projects.page(world.ann, cursor=cursor)


@awaited
async def test_lists_of_whatever_filters_keep_a_bounded_number_of_statements(world: World):
    mine = verbs(Project, ProjectRead)
    for size in range(60):
        await mine.page(world.ann, id__in=range(size))
    assert mine._statement.cache_info().currsize == 8  # for 0, 1, 2, 4, ... 64
    assert mine._statement.cache_info().maxsize == 256


@awaited
async def test_the_total_counts_for_whom_a_role_was_given_or_taken_since_they_logged_in(world: World):
    for title in ROWS:
        await projects.create(world.ann, ProjectCreate(title=title))
    heard: list[Any] = []
    for caller, is_superuser in ((world.ann, True), (world.root, False)):
        await users.update(world.application, caller.id, is_superuser=is_superuser)
        query = query_class(Project)(count=True)
        query.on_answer(lambda *said: heard.append(said))
        await projects.page(caller, query)
    assert heard == [(None, 5), (None, 0)]


class SpotBase(SQLModel):
    place: Line = Field(max_length=20, index=True, sa_column_kwargs=listed("filter"))
    rank: int | None = Field(default=None, index=True, sa_column_kwargs=listed("filter", "sort"))


class SpotCreate(Closed, SpotBase):
    pass


class SpotRead(SpotBase, Row):
    pass


class Spot(Entity, SpotRead, table=True):
    __tablename__ = "scratch_spots"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


@awaited
async def test_a_filter_by_a_column_named_as_a_parameter_of_ours_goes_on_after_a_cursor(world: World):
    with tables(world.url, [Spot.__table__]):
        spots = verbs(Spot, SpotRead)
        for number in range(6):
            await spots.create(world.ann, SpotCreate(place="here" if number % 2 else "there", rank=number))
        heard: list[Any] = []
        query = query_class(Spot)(place="here", sort="rank", limit=1)
        query.on_answer(lambda *said: heard.append(said))
        assert [row.rank for row in await spots.page(world.ann, query)] == [1]
        rest = await spots.page(world.ann, place="here", sort="rank", cursor=heard[0][0])
        assert [row.rank for row in rest] == [3, 5]
        # By ids, however many.
        assert len(await spots.by_ids(world.ann, range(-70_000, 5))) == 4


@pytest.mark.parametrize("sort", ["due", "-due", "starts_at", "title", "-id"])
@pytest.mark.parametrize("place", ["value", "null"])
def test_what_comes_after_a_cursor_is_a_stretch_of_an_index_or_two_and_no_choice(sort: str, place: str):
    page = Expressions(Project, ProjectRead, standing).page("user", Shape((), sort, place))
    _, _, asked = Compiled(page, DIALECT).sql.rpartition(".owner_id = ")  # before it stands who is asking
    assert "id" in asked
    assert " OR " not in asked


@pytest.mark.parametrize("title", ["ΟΔΟΣΑ", "οδοσα", "İstanbul"])
@awaited
async def test_a_search_knows_letters_of_which_there_are_two_small_ones(world: World, title: str):
    await projects.create(world.ann, ProjectCreate(title=title))
    for text in (title[:4], title[:4].upper(), title[:4].replace("İ", "i")):
        assert await projects.page(world.ann, q=text), text
