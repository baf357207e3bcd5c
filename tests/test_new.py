"""`python3 -m app new` writes an entity as a person would, complete or not at all; docs/add-an-entity.md is true."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlmodel import SQLModel
from typer.testing import CliRunner

from app import cli, scaffold
from app.models.base import Access
from app.scaffold.source import write_router
from app.settings import ROOT
from tests.scratch import environment

PAGE = ROOT / "docs" / "add-an-entity.md"
EXAMPLES = [shlex.split(line)[4:] for line in scaffold.HELP.splitlines() if line.startswith("  python3 -m app new ")]
EVERY_TYPE = shlex.split(
    """everything title:str:80 notes:text:500? size:int ratio:float? 'price:decimal(10,3)' done:bool day:date
    at:datetime? key:uuid extra:json? 'blob:bytes(500)?' 'kind:enum(small,very-large)' item:ref:item:cascade
    'parent:ref(everything)?' type:enum:a,b order:int 'group:str?' --unique title --unique key --plural everythings"""
)
APP = [sys.executable, "-c", "from app.cli import main; main()"]
# In one process: each takes half a second less.
ONE_AFTER_THE_OTHER = """
import json, sys
from app.cli import main
for arguments in json.loads(sys.argv[1]):
    main(["new", *arguments], standalone_mode=False)
"""
TOOLS = {"app": APP, "alembic": [sys.executable, "-m", "alembic"]}
TABLES = {"bookings", "companies", "projects", "tickets", "assignments", "everythings", "tasks"}

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        bool(TABLES & set(SQLModel.metadata.tables)), reason="a team's own entities are called the same"
    ),
]


def run(tree: Path, *command: str) -> str:
    """What `command` prints in `tree`."""
    url = f"sqlite:///{tree.parent / 'scratch.db'}"
    environ = environment(DATABASE_URL=url, ENVIRONMENT="development")
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(tree: Path) -> dict[str, str]:
    found = [*tree.glob("app/**/*.py"), *tree.glob("alembic/**/*.py")]
    return {str(file.relative_to(tree)): file.read_text(encoding="utf-8") for file in found}


def copied(folder: Path) -> Path:
    tree = folder / "tree"
    for part in ("app", "alembic", "docs", "static"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", ".env"):
        shutil.copy(ROOT / part, tree)
    return tree


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree after all that docs/add-an-entity.md says was done, and seen to be so."""
    tree = copied(tmp_path_factory.mktemp("new"))
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if language == "console":
            for command, printed in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.M):
                replay(tree, command, printed)
        if language == "diff":
            change(tree, block)
        if language == "python":
            name = re.match("# (.+)\n", block)
            assert name
            assert block.removeprefix(name[0]) == (tree / name[1]).read_text(encoding="utf-8")
    return tree


def replay(tree: Path, command: str, printed: str) -> None:
    """Run `command`, and compare what it prints if anything is shown. Migrations may have other numbers by now."""
    if command != "source .venv/bin/activate":
        tool, *arguments = shlex.split(command.removeprefix("python3 -m "))
        said = run(tree, *TOOLS[tool], *arguments)
        assert not printed or re.sub(r"/\d{4}_", "/NNNN_", said) == re.sub(r"/\d{4}_", "/NNNN_", printed)


def change(tree: Path, block: str) -> None:
    """Apply a diff without line numbers."""
    head, *lines = block.splitlines(keepends=True)
    file = tree / head.removeprefix("--- ").strip()
    old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def tree(replayed: Path) -> Path:
    """The tree with all that --help shows, and an entity with every type."""
    run(replayed, sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps([*EXAMPLES, EVERY_TYPE]))
    return replayed


def test_the_page_about_it_is_true(replayed: Path):
    assert "purpose" in (replayed / "app" / "models" / "booking.py").read_text(encoding="utf-8")


def test_a_plain_entity_is_two_files_of_81_lines_two_lines_more_and_a_migration(replayed: Path):
    before = files(replayed)
    run(replayed, *APP, "new", "task", "title:str", "due:date?")
    after = files(replayed)

    changed = {path: text for path, text in after.items() if before.get(path) != text}
    new = set(changed) - set(before)
    assert {re.sub(r"\d{4}", "NNNN", path) for path in new} == {
        *("app/models/task.py", "app/routers/tasks.py", "alembic/versions/NNNN_tasks.py")
    }
    assert sum(changed[path].count("\n") for path in new if path.startswith("app/")) <= 81
    more = {path: set(changed[path].splitlines()) - set(before[path].splitlines()) for path in set(changed) - new}
    assert more == {
        "app/models/__init__.py": {"from app.models.task import Task, TaskCreate, TaskRead, TaskUpdate"},
        "app/routers/__init__.py": {"from app.routers.tasks import router as tasks"},
    }


def test_routes_are_written_like_those_of_the_example():
    router = (ROOT / "app" / "routers" / "items.py").read_text(encoding="utf-8")
    assert write_router("item", "items", Access.OWNED) == router


@pytest.mark.parametrize("tool", ["ruff format --check", "ruff check", "mypy", "lint-imports"])
def test_what_is_written_passes_every_check(tree: Path, tool: str):
    program, *arguments = tool.split()
    ours = ["app", "alembic"] if program == "ruff" else []
    if program == "mypy" and (ROOT / ".mypy_cache").exists():  # by which it is five times as fast
        shutil.copytree(ROOT / ".mypy_cache", tree / ".mypy_cache")
    run(tree, str(Path(sys.executable).with_name(program)), *arguments, *ours)


def test_the_migrations_follow_each_other_and_are_what_the_models_say(tree: Path):
    run(tree, *APP, "migrate")
    assert run(tree, *TOOLS["alembic"], "check") == "No new upgrade operations detected.\n"
    names = sorted(file.name for file in (tree / "alembic" / "versions").glob("*.py"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert [name[5:-3] for name in names if name[5:-3] in TABLES - {"bookings", "tasks"}] == [
        *("companies", "projects", "tickets", "assignments", "everythings")
    ]


def test_a_field_stands_in_one_place(tree: Path):
    model = ast.parse((tree / "app/models/everything.py").read_text(encoding="utf-8"))
    router = ast.parse((tree / "app/routers/everythings.py").read_text(encoding="utf-8"))
    base = next(node for node in model.body if isinstance(node, ast.ClassDef) and node.name == "EverythingBase")
    fields = [
        node.target.id for node in base.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    said = Counter(word for node in [*ast.walk(model), *ast.walk(router)] for word in words(node))

    assert len(fields) == 17
    assert {field: said[field] for field in fields} == dict.fromkeys(fields, 1)


def words(node: ast.AST) -> list[str]:
    """The names and the texts in a node of a syntax tree."""
    told = [getattr(node, name, None) for name in ("id", "attr", "arg", "name", "asname", "value")]
    return [word for word in told if isinstance(word, str)]


REFUSED = {
    "Project name:str": '"Project" is no name here: small letters, digits and single underscores, like project.',
    "purchaseOrder name:str": "small letters, digits and single underscores, like purchase_order.",
    "class name:str": '"class" is a word of Python: choose another name, like our_class.',
    "tickets name:str": '"tickets" is several: name one of them, ticket. (If it is one, say so by --plural.)',
    "person name:str": 'What are several of "person" called? Say it with --plural, as in: person --plural people',
    "byte name:str": '"bytes" is a word of Python: choose another name, or another --plural.',
    "item name:str": "app/models/item.py is there already. Nothing is ever overwritten",
    "base name:str": "app/models/base.py is there already.",
    "thing name:str --plural items": "app/routers/items.py is there already.",
    "thing name:str --plural idempotency_keys": 'There is a table "idempotency_keys" already.',
    "item_read name:str": 'There is a class "ItemRead" in app/models already.',
    "line name:str": '"Line" would mean two things in one file: choose another name, or another --plural.',
    "query name:str": '"Query" would mean two things in one file',
    "datum name:str --plural data": '"data" would mean two things in one file',
    "ticket read:enum:yes,no": '"TicketRead" would mean two things in one file',
    f"{'a' * 31} name:str": "is too long: 30 letters at most.",
    f"{'a' * 29} {'b' * 30}:str --unique {'b' * 30}": "together too long for PostgreSQL, so shorten one.",
    "ticket": "Ticket needs at least one field. Fields look like: name:str",
    "ticket name": '"name" is no field. Fields look like: name:str',
    "ticket name?:str": '"name?:str" is no field.',
    "ticket name:string": 'There is no type "string": it is called str here.',
    "ticket name:dat": 'There is no type "dat": did you mean date?',
    "ticket name:colour": 'There is no type "colour": there are str, text, int',
    "ticket dueDate:date": '"dueDate" is no name here: small letters, digits and single underscores, like due_date.',
    "ticket due__gt:int": '"due__gt" is no name here',
    "ticket Day:date": '"Day" is no name here: small letters, digits and single underscores, like day.',
    "ticket bool:bool": '"bool" means something else in its file',
    "ticket listed:str": '"listed" means something else in its file',
    "ticket ticket:ref:ticket?": "means something else in its file: choose another name, like parent_ticket_id.",
    "ticket from:date": '"from" is a word of Python: choose another name, like ticket_from.',
    "ticket id:int": 'Every entity has "id" already',
    "ticket owner:ref:user": 'Every entity has "owner_id" already',
    "ticket version:str": 'Every entity has "version" already',
    "ticket skip:int": '"skip" is a parameter of every list: choose another name, like ticket_skip.',
    "ticket json:json": '"json" means something to pydantic or SQLModel: choose another name, like ticket_json.',
    "ticket model_name:str": '"model_name" means something to pydantic or SQLModel',
    "ticket metadata:json": '"metadata" means something to pydantic or SQLModel',
    "ticket xmin:int": '"xmin" means something to PostgreSQL',
    "ticket name:str name:int": '"name" stands there twice: give each field a name of its own.',
    "ticket item:ref item_id:int": '"item_id" stands there twice',
    "ticket name:str --unique nam": '--unique "nam" is none of the fields: name.',
    "ticket name:text --unique name": '"name" is too long to be unique: use a str of 500 letters at most.',
    "ticket client:ref:clint": 'There is no entity "clint" to refer to: there are ',
    "ticket item:ref:item:setnull": "cannot be set to null, since it must not be empty: add a ?, or say restrict.",
    "ticket item:ref:item:never": "must say what a deletion does, if anything: cascade, restrict or setnull.",
    "ticket parent:ref:ticket": "would have no first ticket: it must be optional, so add a ?.",
    "ticket state:enum": "must name its values, each once: status:enum:open,closed",
    "ticket state:enum:a-b,a_b": "must name its values, each once",
    "ticket state:enum:2nd": '"2nd" cannot be a value: letters, digits and single dashes, like in-progress.',
    "ticket name:str:0": '"name:str:0" is out of bounds: from 1 to 1000',
    "ticket price:decimal:16,2": "is out of bounds: from 1 to 15",
    "ticket price:decimal:2,3": "no more places than digits.",
    "ticket name:str:long": "is not understood: its type is given numbers, as 200.",
    "ticket due:date:3": "is not understood: its type is given numbers, none.",
    "tagging item:ref --link": "A --link has exactly two refs, like item:ref label:ref",
    "tagging item:ref user:ref? --link": "A --link needs both its ends: no ? at its refs.",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence_that_names_the_cure(typed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaffold, "write", lambda plan: pytest.fail(f"{plan.name} was not refused"))
    told = CliRunner().invoke(cli.main, ["new", *typed.split()])
    assert REFUSED[typed] in told.output
    assert told.output.count("\n") == 1
    assert told.exit_code == 1


def test_what_python_and_sql_call_otherwise_can_be_a_field():
    words = ["type:str", "order:int", "group:str", "user:ref", "select:bool", "format:str", "hash:int", "max:float"]
    assert scaffold.plan("ticket", words).names == "tickets"


@pytest.mark.parametrize(
    ("one", "several"),
    [("company", "companies"), ("box", "boxes"), ("day", "days"), ("address", "addresses"), ("bus", "buses"),
     ("branch", "branches"), ("status", "statuses"), ("analysis", "analyses"), ("purchase_order", "purchase_orders")],
)  # fmt: skip
def test_the_plural_is_english(one: str, several: str):
    assert scaffold.plan(one, ["name:str"]).names == several


def refused(tree: Path) -> str:
    """Why an entity cannot be written in `tree`, of which nothing changes."""
    before = files(tree)
    new = [*APP, "new", "task", "title:str"]
    done = subprocess.run(new, cwd=tree, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, files(tree)) == (1, "", before)
    return done.stderr


def test_what_fails_half_way_leaves_nothing_behind(tmp_path: Path):
    tree = copied(tmp_path)
    (tree / "alembic" / "script.py.mako").write_text("${nothing_like_that}")
    assert refused(tree).startswith("Nothing was written, since this failed: ")


def test_models_that_no_migration_knows_are_told_of_first(tmp_path: Path):
    tree = copied(tmp_path)
    item = tree / "app" / "models" / "item.py"
    item.write_text(item.read_text(encoding="utf-8").replace("(SQLModel):\n", "(SQLModel):\n    forgotten: bool\n"))
    assert refused(tree) == (
        'The models say what no migration does yet. First run: alembic revision --autogenerate -m "what changed"\n'
    )
