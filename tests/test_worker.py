"""Verbs work in a worker in which no web framework can be imported."""

from pathlib import Path

from app.engine import migrations
from tests.scratch import python

WITHOUT_THE_WEB = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fastapi", "starlette", "uvicorn", "httptools", "uvloop"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""

WORK = """
import asyncio
from pydantic import SecretStr
from app import accounts
from app.crud import items, transaction, users
from app.engine.caller import Caller
from app.engine.database import connect
from app.errors import Missing
from app.models import ItemCreate, UserCreate
from app.engine.hashing import Hasher

async def work(url):
    hasher = Hasher(4)
    async with connect(url) as database:
        application = Caller(database)
        password = SecretStr("four plain words together")
        data = UserCreate(username="ann", email="ann@example.com", password=password)
        ann = await accounts.register(application, hasher, data)
        login = await accounts.log_in(application, hasher, "ann", password.get_secret_value())
        caller = Caller(database, login.identity)
        async with transaction(caller) as tx:
            await items.create(tx, ItemCreate(title="one"))
            await items.create(tx, ItemCreate(title="two"))
        try:
            async with transaction(caller) as tx:
                await items.create(tx, ItemCreate(title="three"))
                await items.get(tx, 77)
        except Missing:
            pass
        print([item.title for item in await items.page(caller)])
    hasher.close()

asyncio.run(work(sys.argv[1]))
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"fastapi", "starlette", "uvicorn", "httptools", "uvloop"}))
"""


def test_verbs_work_where_no_web_framework_can_be_imported(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'worker.db'}"
    migrations.upgrade(url)
    worker = python("-c", WITHOUT_THE_WEB + WORK, url)
    assert (worker.returncode, worker.stdout, worker.stderr) == (0, "['two', 'one']\n[]\n", "")


def test_in_that_worker_the_web_frameworks_are_really_blocked():
    attempts = """
import importlib
for name in ("fastapi", "starlette.routing", "uvicorn", "httptools", "uvloop", "app.deps", "app.main"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error)
"""
    worker = python("-c", WITHOUT_THE_WEB + attempts)
    blocked = ["fastapi", "starlette", "uvicorn", "httptools", "uvloop", "fastapi", "fastapi"]
    assert worker.stdout.splitlines() == [f"{name} is blocked" for name in blocked]
