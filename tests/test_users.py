"""Whoever signs up is an ordinary user, whatever they send. No password is seen again, and nobody else either."""

import re
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect
from sqlmodel import Session, select

from app.models import User
from app.models.user import fold
from tests.conftest import PASSWORD, Person
from tests.test_items import give_items, titles

ANN = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}


def sign_up(client: TestClient, **changes: object) -> Any:
    return client.post("/api/v1/users", json=ANN | changes)


def unique_indexes(client: TestClient, table: str) -> list[Any]:
    asked = inspect(client.app.state.session_engine)
    constraints: list[Any] = asked.get_unique_constraints(table)
    return [*constraints, *(index for index in asked.get_indexes(table) if index["unique"])]


def usernames(response: Any) -> list[str]:
    assert response.status_code == 200
    return [user["username"] for user in response.json()]


# Signing up


def test_who_signs_up_can_log_in(client: TestClient):
    response = sign_up(client, full_name="Ann Archer")
    assert (response.status_code, response.headers["Location"]) == (201, "/api/v1/users/1")
    user = response.json()
    assert user == {
        "id": 1,
        "username": "ann",
        "email": "ann@example.com",
        "full_name": "Ann Archer",
        "is_active": True,
        "is_superuser": False,
        "is_verified": False,
        "credentials_changed_at": user["credentials_changed_at"],
        "version": 1,
        "created_at": user["created_at"],
        "updated_at": user["created_at"],
    }
    ann = Person(client, "ann")
    assert ann.log_in().status_code == 200
    assert ann.get("/users/me").json() == user


def test_nobody_signs_up_when_registration_is_closed(start: Callable[..., TestClient]):
    client = start(registration_open=False)
    assert sign_up(client).status_code == 403
    assert Person(client, "ann").log_in().status_code == 400


@pytest.mark.parametrize("username", ["ann", "ANN", " ann ", "Ann\n", "\u00a0ann"])
def test_a_name_in_another_spelling_is_taken(client: TestClient, ann: Person, username: str):
    response = sign_up(client, username=username, email="other@example.com")
    assert (response.status_code, response.json()["detail"]) == (409, "That username is taken.")


@pytest.mark.promise("U01", "U04")
@pytest.mark.parametrize("email", ["ann@example.com", "Ann@Example.COM", " ann@example.com ", "\uff41nn@example.com"])
def test_an_address_in_another_spelling_is_taken(client: TestClient, ann: Person, email: str):
    response = sign_up(client, username="other", email=email)
    assert (response.status_code, response.json()["detail"]) == (409, "That email is taken.")


NO_ADDRESSES = [
    *("", "ann", "ann@", "@example.com", "a@b@example.com", "a b@example.com", "ann@example", "ann@.com"),
    *("ann@example.com\r\nBcc: bob@example.com", "ann\r\n@example.com", "ann\x00@example.com"),
    *("<script>alert(1)</script>@example.com", "ann@example.com, bob@example.com", "ann@[127.0.0.1]"),
    *("Ann <ann@example.com>", "<ann@example.com>"),
    *("a" * 100_000 + "@example.com", "a@" + "b" * 63 + ("." + "c" * 63) * 3 + ".com"),
    *(1, None, ["ann@example.com"], {"email": "ann@example.com"}),
]


@pytest.mark.promise("U05")
def test_a_bad_address_is_refused(client: TestClient):
    answers = [(email, sign_up(client, email=email)) for email in NO_ADDRESSES]
    assert [(str(email)[:60], answer.status_code) for email, answer in answers if answer.status_code != 422] == []
    assert {tuple(answer.json()["detail"][0]["loc"]) for _, answer in answers} == {("body", "email")}


NO_USERNAMES = [
    *("", "  ", "a", "x" * 65, "x" * 100_000, "an n", "ann@example.com", "-ann", "ann.", "<ann>"),
    *("ann\x00", "an\r\nn", "ann\x1b[0m", 1, None, ["ann"], {"ann": 1}, True),
    # Letters that only look alike would make two accounts of what is one name to a person.
    *("\uff41\uff4e\uff4e", "\u0430nn", "a\u0301nn", "\u212aann", "an\u200bn", "\u202eann", "\U0001f600" * 2),
    *("\u0131an", "\u0130an", "stra\u00dfe", "\ufb01nn"),
]


@pytest.mark.promise("U19")
def test_a_bad_username_is_refused(client: TestClient):
    answers = [(name, sign_up(client, username=name)) for name in NO_USERNAMES]
    assert [(ascii(name)[:60], answer.status_code) for name, answer in answers if answer.status_code != 422] == []
    assert {tuple(answer.json()["detail"][0]["loc"]) for _, answer in answers} == {("body", "username")}


NO_FULL_NAMES = ["", "  ", "Ann\nArcher", "Ann\x00", "Ann\x1b", "x" * 256, "x" * 100_000, 1, ["Ann"]]


@pytest.mark.promise("U19")
def test_a_bad_full_name_is_refused(client: TestClient, ann: Person):
    bob = {"username": "bob", "email": "bob@example.com"}
    assert [sign_up(client, **bob, full_name=name).status_code for name in NO_FULL_NAMES] == [422] * 9
    assert [ann.patch("/users/me", {"full_name": name}).status_code for name in NO_FULL_NAMES] == [422] * 9


@pytest.mark.promise("U19")
@pytest.mark.parametrize(
    "full_name", ["\u9234\u6728 \u7531\u7d00", "e\u0301", "\u05d0\u05df", "\U0001f469\u200d\U0001f692", "O'Neill; --"]
)
def test_a_full_name_comes_back_unchanged(ann: Person, full_name: str):
    ann.patch("/users/me", {"full_name": full_name})
    assert ann.get("/users/me").json()["full_name"] == full_name


ASSIGNED = {
    **{"is_superuser": True, "is_active": False, "id": 7, "hashed_password": "x", "security_stamp": 0, "version": 7},
    **{
        "is_verified": True,
        "role": "superuser",
        "created_at": "2001-01-01T00:00:00Z",
        "scopes": ["admin"],
        "items": [],
    },
}


@pytest.mark.promise("U08", "U09")
@pytest.mark.parametrize("key", ASSIGNED)
def test_nobody_gives_themselves_what_is_not_theirs_to_give(client: TestClient, ann: Person, key: str):
    before = ann.get("/users/me").json()
    response = sign_up(client, username="bob", email="bob@example.com", **{key: ASSIGNED[key]})
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", key])
    assert Person(client, "bob").log_in().status_code == 400
    assert ann.patch("/users/me", {"full_name": "Ann", key: ASSIGNED[key]}).status_code == 422
    assert ann.get("/users/me").json() == before


# Of one name, and of one address.
SPELLINGS = {
    "username": ["strasse", "STRASSE", " Strasse ", "strasse\n", "\u00a0straSSe"],
    "email": [
        *("strasse@example.com", " STRASSE@Example.COM ", "Stra\u00dfe@example.com", "stra\u1e9ee@example\u3002com"),
        "\uff33trasse\uff20example.com",
    ],
}


@pytest.mark.promise("U07", "U01", "U04")
@pytest.mark.parametrize("same", SPELLINGS)
def test_of_ten_sign_ups_at_once_one_succeeds_whatever_the_spelling(client: TestClient, root: Person, same: str):
    def one(number: int) -> int:
        different = {"username": f"ann{number}", "email": f"ann{number}@example.com"}
        return sign_up(client, **different | {same: SPELLINGS[same][number % 5]}).status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(one, range(10)))
    assert sorted(statuses) == [201, *[409] * 9]
    assert root.get("/admin/counts").json()["users"] == 2
    assert [Person(client, login).log_in().status_code for login in SPELLINGS[same]] == [200] * 5


def test_it_is_the_database_that_lets_nobody_have_anothers_name(client: TestClient, ann: Person):
    indexes = {tuple(index["column_names"]) for index in unique_indexes(client, "users")}
    assert {("username",), ("email",)} <= indexes


@pytest.mark.promise("U02")
def test_a_domain_is_the_same_as_the_internet_has_it_and_not_as_it_looks(client: TestClient):
    # Folded, "ß" would be "ss": mail for one would go to the other.
    sharp = ["ann@stra\u00dfe.de", "ann@xn--strae-oqa.de", "ANN@STRA\u1e9eE.DE"]
    assert sign_up(client, email=sharp[0]).json()["email"] == sharp[0]
    assert [sign_up(client, username="bob", email=email).status_code for email in sharp] == [409] * 3
    assert sign_up(client, username="bob", email="ann@strasse.de", password="bob's own words here").status_code == 201
    assert [Person(client, email).log_in().status_code for email in [*sharp, "ann@strasse.de"]] == [200, 200, 200, 400]


@pytest.mark.once
def test_every_letter_is_folded_alike_whatever_its_case_and_however_it_is_composed():
    letters = [chr(code) for code in range(0xA0, 0x1F000) if chr(code).isalpha() and code != 0x131]
    forms = {letter: [letter, letter.upper(), letter.lower()] for letter in letters}
    for found in forms.values():
        found += [unicodedata.normalize(form, found[0]) for form in ("NFD", "NFKC")]
        found += [fold(found[0])]
    assert [letter for letter, found in forms.items() if len({fold(form) for form in found}) > 1] == []
    # Whose capital is another letter's: not the same to a person.
    assert fold("\u0131") != fold("i")


# Oneself


@pytest.mark.promise("I11")
def test_users_change_what_they_send_and_nothing_else(client: TestClient, ann: Person):
    before = ann.get("/users/me").json()
    response = ann.patch("/users/me", {"username": "Anna"})
    after = response.json()
    assert response.status_code == 200
    assert after == before | {"username": "anna", "version": 2, "updated_at": after["updated_at"]}
    assert ann.patch("/users/me", {}).json() == ann.get("/users/me").json() == after
    assert ann.patch("/users/me", {"full_name": "Ann"}).json()["full_name"] == "Ann"
    assert ann.patch("/users/me", {"full_name": None}).json()["full_name"] is None
    assert ann.log_in().status_code == 400
    assert Person(client, "anna").log_in().status_code == 200


@pytest.mark.promise("I11")
@pytest.mark.parametrize("key", ["username", "email", "current_password"])
def test_null_is_nobodys_name(ann: Person, key: str):
    assert ann.patch("/users/me", {"current_password": PASSWORD, key: None}).status_code == 422


@pytest.mark.promise("U17")
def test_a_new_address_takes_the_current_password(ann: Person):
    change = {"email": "New@Example.com"}
    assert ann.patch("/users/me", change).status_code == 403
    assert ann.patch("/users/me", change | {"current_password": "four plain words apart"}).status_code == 403
    assert ann.patch("/users/me", change | {"current_password": ""}).status_code == 403
    assert ann.get("/users/me").json()["email"] == "ann@example.com"
    response = ann.patch("/users/me", change | {"current_password": PASSWORD})
    assert (response.status_code, response.json()["email"]) == (200, "new@example.com")


@pytest.mark.promise("U16")
@pytest.mark.parametrize("clash", [{"username": "BOB"}, {"email": "Bob@example.com", "current_password": PASSWORD}])
def test_nobody_takes_what_another_has(client: TestClient, ann: Person, bob: Person, clash: dict[str, str]):
    before = ann.get("/users/me").json(), bob.get("/users/me").json()
    assert ann.patch("/users/me", clash | {"full_name": "Ann"}).status_code == 409
    assert (ann.get("/users/me").json(), bob.get("/users/me").json()) == before


# Passwords


def change_password(person: Person, current: str, new: str) -> Any:
    return person.patch("/users/me/password", {"current_password": current, "new_password": new})


@pytest.mark.promise("P12", "P13")
def test_a_new_password_takes_the_current_one(ann: Person):
    new = "four other words together"
    refused = change_password(ann, "four plain words apart", new)
    assert (refused.status_code, refused.json()["detail"]) == (403, "The current password is wrong.")
    assert ann.patch("/users/me/password", {"new_password": new}).status_code == 422
    assert ann.patch("/users/me", {"password": new, "current_password": PASSWORD}).status_code == 422
    assert ann.log_in().status_code == 200
    assert change_password(ann, PASSWORD, new).status_code == 204
    assert (ann.log_in().status_code, ann.log_in(new).status_code) == (400, 200)


BAD_PASSWORDS = [
    "",
    "short",
    "x" * 14,
    "x" * 1001,
    "four plain\x00words together",
    "four plain words\x1b[0m",
    1,
    None,
    [],
]


@pytest.mark.promise("P01", "P02", "P11")
@pytest.mark.parametrize("password", BAD_PASSWORDS, ids=lambda password: repr(password)[:40])
def test_that_is_no_password(client: TestClient, ann: Person, password: object):
    start = time.monotonic()
    assert sign_up(client, username="bob", email="bob@example.com", password=password).status_code == 422
    change = {"current_password": PASSWORD, "new_password": password}
    assert ann.patch("/users/me/password", change).status_code == 422
    assert ann.log_in(str(password)).status_code == 400
    # None of them was hashed: that would take longer the longer they are.
    assert time.monotonic() - start < 2


GOOD_PASSWORDS = {
    **{
        "15 characters": "fifteen letters"[:15],
        "64": "x" * 64,
        "128": "ab" * 64,
        "1000": "x" * 1000,
        "4000 bytes": "\U0001f600" * 1000,
    },
    **{
        "long and lower case": "correct horse battery staple",
        "other scripts": "\u9234\u6728\u7531\u7d00 \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f692 \u00e9",
    },
    **{"spaces around": "  four plain words  ", "signs": "%41&=+;\"'\\<>{}$()#?/ \t"},
}


@pytest.mark.promise("P03", "P06")
@pytest.mark.parametrize("password", GOOD_PASSWORDS.values(), ids=GOOD_PASSWORDS)
def test_a_long_password_of_any_kind_logs_in(client: TestClient, password: str):
    assert sign_up(client, password=password).status_code == 201
    assert Person(client, "ann").log_in(password).status_code == 200


OTHERS = {
    "another tail after 72 bytes": ("x" * 72 + "a long tail", "x" * 72 + "another tail"),
    "no tail after 72 bytes": ("x" * 72 + "a long tail", "x" * 72),
    "another last character of 1000": ("x" * 999 + "a", "x" * 999 + "b"),
    "other case": (PASSWORD, PASSWORD.capitalize()),
    "a space after it": (PASSWORD, PASSWORD + " "),
    "a space before it": (PASSWORD, " " + PASSWORD),
    "without its spaces": (" " + PASSWORD + " ", PASSWORD),
    "a line break after it": (PASSWORD, PASSWORD + "\n"),
}


@pytest.mark.promise("P04", "P09")
@pytest.mark.parametrize(("password", "other"), OTHERS.values(), ids=OTHERS)
def test_a_password_is_right_to_the_last_character(client: TestClient, password: str, other: str):
    sign_up(client, password=password)
    assert Person(client, "ann").log_in(other).status_code == 400
    assert Person(client, "ann").log_in(password).status_code == 200


@pytest.mark.promise("P14")
def test_no_answer_holds_a_password_or_a_hash(client: TestClient, ann: Person, root: Person):
    give_items(ann, 1)
    with Session(client.app.state.session_engine) as session:
        secrets = [word for user in session.exec(select(User)) for word in (user.hashed_password,)]
    paths = client.get("/openapi.json").json()["paths"]
    reads = [path.replace("{user_id}", str(ann.id)) for path in paths if "get" in paths[path]]
    reads = [re.sub(r"{\w+}", "1", path) for path in reads]
    answers = [client.get(path, headers=root.headers) for path in reads]
    assert {answer.status_code for answer in answers} <= {200, 404}  # of a team's own entities there is no row here
    assert sum(answer.status_code == 200 for answer in answers) >= 9
    answers += [sign_up(client), sign_up(client, username="cid", email="cid@example.com"), ann.patch("/users/me", {})]
    answers += [root.post(f"/admin/users/{ann.id}/{verb}") for verb in ("promote", "demote", "deactivate", "activate")]
    for word in (*secrets, PASSWORD, "password", "stamp", "$2b$"):
        assert [answer.request.url.path for answer in answers if word in answer.text] == []


@pytest.mark.promise("P14")
def test_the_schema_knows_no_hash(client: TestClient):
    schema = client.get("/openapi.json").text
    assert [word for word in ("hashed_password", "hashed_token", "hashed_refresh", "stamp") if word in schema] == []
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    holders = {name for name, model in schemas.items() if any("password" in key for key in model.get("properties", {}))}
    assert [name for name in holders if "Read" in name or name == "UserWithItems"] == []


# Other users


@pytest.mark.promise("U10")
def test_only_superusers_list_users(ann: Person, root: Person):
    assert ann.get("/users").status_code == 403
    assert usernames(root.get("/users")) == ["root", "ann"]
    assert usernames(root.get("/users?skip=1&limit=1")) == ["ann"]
    assert root.get("/users?limit=101").status_code == 422


def test_users_read_themselves_with_their_items(ann: Person, bob: Person):
    give_items(bob, 1)
    item = ann.post("/items", {"title": "Foo"}).json()
    response = ann.get(f"/users/{ann.id}")
    assert (response.status_code, response.json()) == (200, ann.get("/users/me").json() | {"items": [item]})


def test_a_user_is_read_with_the_newest_hundred_items(ann: Person):
    give_items(ann, 101)
    read = [item["title"] for item in ann.get(f"/users/{ann.id}").json()["items"]]
    assert read == titles(ann.get("/items")) == [f"item {n}" for n in range(101, 1, -1)]


@pytest.mark.promise("U11")
def test_another_user_does_not_exist(ann: Person, bob: Person):
    for foreign, missing in (
        (bob.get(f"/users/{ann.id}"), bob.get("/users/77")),
        (bob.post(f"/users/{ann.id}/items", {"title": "Foo"}), bob.post("/users/77/items", {"title": "Foo"})),
    ):
        assert (foreign.status_code, foreign.content) == (404, missing.content)
    assert ann.get("/items").json() == []


def test_a_superuser_reads_every_user(ann: Person, root: Person):
    give_items(ann, 1)
    assert root.get(f"/users/{ann.id}").json() == ann.get(f"/users/{ann.id}").json()
    assert root.get("/users/77").status_code == 404


def test_an_item_is_created_for_oneself_and_by_a_superuser_for_anybody(ann: Person, root: Person):
    own = ann.post(f"/users/{ann.id}/items", {"title": "own"})
    given = root.post(f"/users/{ann.id}/items", {"title": "given"})
    assert [(made.status_code, made.json()["owner_id"]) for made in (own, given)] == [(201, ann.id)] * 2
    assert [made.headers["Location"] for made in (own, given)] == ["/api/v1/items/1", "/api/v1/items/2"]
    assert ann.get("/items").json() == [given.json(), own.json()]
    assert root.post("/users/77/items", {"title": "Foo"}).status_code == 404
    assert ann.post(f"/users/{ann.id}/items", {"title": "Foo", "owner_id": root.id}).status_code == 422


def test_my_items_are_mine_in_parts_too(ann: Person, bob: Person):
    give_items(bob, 1)
    give_items(ann, 3)
    assert titles(ann.get("/users/me/items")) == ["item 3", "item 2", "item 1"]
    assert titles(ann.get("/users/me/items?skip=1&limit=1")) == ["item 2"]
