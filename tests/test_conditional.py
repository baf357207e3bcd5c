"""Who has a row already is not sent it again; who changes a row that is not what they read is told so."""

import re
from collections.abc import Callable
from itertools import product
from threading import Barrier, Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.engine.http import dispatch
from app.main import create_app
from app.models import ItemRead
from app.models.base import utcnow
from app.settings import Settings
from tests.conftest import Person, sign_up

OURS = re.compile(r'"(\d+)-[0-9a-f]{16}"')
PLAIN = {"title": "Foo", "description": None}


class Dressed(ItemRead):
    """With a column of JSON."""

    settings: dict[str, object]


def ask(person: Person, method: str, path: str, body: object = None, **headers: str) -> Any:
    """`ask(ann, "PATCH", "/items/1", {...}, if_match=tag)`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return person.client.request(method, f"/api/v1{path}", json=body, headers={**(person.headers or {}), **named})


@pytest.fixture
def item(ann: Person) -> str:
    """The address of an item of Ann's."""
    return str(ann.post("/items", PLAIN).headers["Location"]).removeprefix("/api/v1")


def tag_of(person: Person, path: str) -> str:
    return str(person.get(path).headers["ETag"])


@pytest.mark.promise("I13")
def test_what_somebody_has_already_is_not_sent_again(ann: Person, item: str):
    for method, path in product(("GET", "HEAD"), (item, "/users/me", f"/users/{ann.id}")):
        first = ask(ann, method, path)
        again = ask(ann, method, path, if_none_match=first.headers["ETag"])
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        for name in ("ETag", "Cache-Control", "Content-Security-Policy", "X-Content-Type-Options"):
            assert (name, again.headers[name]) == (name, first.headers[name])
        assert again.headers["Cache-Control"] == "private, no-cache"
        assert {"content-type", "content-length"} & again.headers.keys() == set()


@pytest.mark.promise("I13")
def test_the_tag_of_a_row_is_the_same_from_every_route_that_answers_with_it(ann: Person):
    made = ann.post("/items", PLAIN)
    changed = ask(ann, "PATCH", made.headers["Location"].removeprefix("/api/v1"), {})
    read = ann.get(made.headers["Location"].removeprefix("/api/v1"))
    assert made.headers["ETag"] == changed.headers["ETag"] == read.headers["ETag"]
    assert OURS.fullmatch(made.headers["ETag"])


@pytest.mark.promise("I13")
def test_what_has_changed_is_sent_with_a_new_tag(ann: Person, item: str):
    old = tag_of(ann, item)
    changed = ask(ann, "PATCH", item, {"title": "Bar"})
    read = ask(ann, "GET", item, if_none_match=old)
    assert (read.status_code, read.json()["title"], read.headers["ETag"]) == (200, "Bar", changed.headers["ETag"])
    assert changed.headers["ETag"] != old


@pytest.mark.promise("I13")
def test_a_user_read_with_their_items_has_a_new_tag_when_one_of_these_changes(ann: Person, item: str):
    old = tag_of(ann, f"/users/{ann.id}")
    ask(ann, "PATCH", item, {"title": "Bar"})
    read = ask(ann, "GET", f"/users/{ann.id}", if_none_match=old)
    assert (read.status_code, read.json()["items"][0]["title"]) == (200, "Bar")


def test_a_tag_is_found_in_a_list_weak_or_not_and_nonsense_is_none(ann: Person, item: str):
    tag = tag_of(ann, item)
    bare = tag.strip('"')
    for condition in (tag, f"W/{tag}", f'"a",{tag}', f'"a,b" , W/{tag}, ""', "*"):
        assert (condition, ask(ann, "GET", item, if_none_match=condition).status_code) == (condition, 304)
    for condition in ('"a"', "", bare, "**", '"*"', f"w/,{bare}"):
        assert (condition, ask(ann, "GET", item, if_none_match=condition).status_code) == (condition, 200)


def test_lists_and_refusals_have_no_tag(ann: Person, bob: Person, item: str):
    for answer in (
        ask(ann, "GET", "/items", if_none_match="*"),
        ask(bob, "GET", item, if_none_match="*"),
        ask(ann, "PATCH", item, {"title": None}),
    ):
        assert (answer.status_code != 304, "ETag" in answer.headers) == (True, False)


def test_a_version_in_a_field_is_not_the_rows(start: Callable[..., TestClient], settings: Settings):
    app = create_app(settings)
    row = {"id": 1, "created_at": utcnow(), "updated_at": utcnow(), "owner_id": 1, "description": '","version":8,"'}

    @app.get("/dressed")
    async def read_dressed() -> Dressed:
        return Dressed(**row, version=7, title='{"version":9}', settings={"version": 10})

    dispatch.install(app)
    (version,) = OURS.fullmatch(start(app).get("/dressed").headers["ETag"]).groups()  # type: ignore[union-attr]
    assert version == "7"


@pytest.mark.promise("I14")
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_who_changes_or_deletes_what_they_did_not_read_is_told_and_nothing_happens(ann: Person, item: str, method: str):
    old = tag_of(ann, item)
    ask(ann, "PATCH", item, {"title": "Bar"})
    body = {"title": "Baz"} if method == "PATCH" else None
    refused = ask(ann, method, item, body, if_match=old)
    assert (refused.status_code, refused.json()["detail"]) == (412, "Somebody changed it since you read it.")
    assert (ann.get(item).json()["title"], ann.get(item).json()["version"]) == ("Bar", 2)
    assert ask(ann, method, item, body, if_match=tag_of(ann, item)).status_code in (200, 204)


@pytest.mark.promise("I14")
def test_who_changes_their_account_can_say_which_version_too(ann: Person):
    old = tag_of(ann, "/users/me")
    assert ask(ann, "PATCH", "/users/me", {"full_name": "Ann"}, if_match=old).status_code == 200
    assert ask(ann, "PATCH", "/users/me", {"full_name": "Anna"}, if_match=old).status_code == 412
    assert ann.get("/users/me").json()["full_name"] == "Ann"


def test_only_a_strong_tag_of_ours_stands_for_a_version_and_what_is_no_tag_is_refused(ann: Person, item: str):
    ask(ann, "PATCH", item, {"title": "Bar"})
    tag = tag_of(ann, item)
    bare = tag.strip('"')
    expected = {
        412: (f"W/{tag}", '"a"', '"0"', '"*"', '"9-0123456789abcdef"', f'"{"9" * 40}-0123456789abcdef"', '"02-0123"'),
        422: (bare, "2", "", f"*, {tag}", f'{tag}"', f"{tag}{tag}"),
    }
    for status, conditions in expected.items():
        for condition in conditions:
            answer = ask(ann, "PATCH", item, {"title": "Baz"}, if_match=condition)
            assert (condition, answer.status_code) == (condition, status)
            if status == 422:
                assert answer.json()["detail"][0]["loc"] == ["header", "If-Match"]
    assert (tag_of(ann, item), tag[:3]) == (tag, '"2-')
    for condition in ("*", "{}", '"a", {}', '{} ,, "1-0123456789abcdef"'):
        answer = ask(ann, "PATCH", item, {"title": "Baz"}, if_match=condition.format(tag_of(ann, item)))
        assert (condition, answer.status_code) == (condition, 200)


def test_several_lines_of_one_header_are_one_list(ann: Person, item: str):
    tag = tag_of(ann, item)

    def lines(name: str) -> list[tuple[str, str]]:
        return [*(ann.headers or {}).items(), (name, '"a"'), (name, tag), (name, '"b"')]

    where = f"/api/v1{item}"
    assert ann.client.get(where, headers=lines("If-None-Match")).status_code == 304
    assert ann.client.patch(where, json={"title": "Bar"}, headers=lines("If-Match")).status_code == 200


@pytest.mark.promise("I03", "I04")
def test_somebody_elses_row_and_none_at_all_are_404_whatever_the_condition(ann: Person, bob: Person, item: str):
    for condition in ("*", tag_of(ann, item), '"a"'):
        for path in (item, "/items/99"):
            answers = [
                ask(bob, "PATCH", path, {"title": "Bar"}, if_match=condition),
                ask(bob, "DELETE", path, if_match=condition),
                ask(bob, "GET", path, if_none_match=condition),
            ]
            assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [(404, "Not found.")] * 3
    assert ann.get(item).json()["version"] == 1


@pytest.mark.promise("I14")
@pytest.mark.parametrize("is_conditional", [False, True])
def test_of_two_changes_at_once_both_survive_unless_they_say_which_version(
    ann: Person, item: str, is_conditional: bool
):
    condition = {"if_match": tag_of(ann, item)} if is_conditional else {}
    together, statuses = Barrier(2), list[int]()

    def change(changes: dict[str, str]) -> None:
        together.wait()
        statuses.append(ask(ann, "PATCH", item, changes, **condition).status_code)

    threads = [Thread(target=change, args=[changes]) for changes in ({"title": "Bar"}, {"description": "Bar"})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = ann.get(item).json()
    assert sorted(statuses) == ([200, 412] if is_conditional else [200, 200])
    assert [kept["title"], kept["description"]].count("Bar") == (1 if is_conditional else 2)


def test_a_page_that_may_call_can_read_the_tag_and_send_it_back(start: Callable[..., TestClient]):
    client = start(cors_origins=("https://app.example.com",))
    ann = sign_up(client, "ann")
    client.headers["Origin"] = "https://app.example.com"
    first = ann.get("/users/me")
    again = ask(ann, "GET", "/users/me", if_none_match=first.headers["ETag"])
    for answer in (first, again):
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert answer.headers["Vary"] == "Origin"
    assert again.status_code == 304
