"""Grows a copy of this project by three entities, runs the whole suite there, and plants defects in what was written.

python3 tests/growing.py [the URL of a PostgreSQL database that ends in _test]
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = (".git", ".venv", "node_modules", ".*_cache", "*.db*")
# A user's own, with a field of every type; one that everybody shares, and that refers to others; and many to many.
ENTITIES = (
    "record title:str:80 notes:text? amount:int ratio:float? price:decimal:9,2 is_open:bool day:date at:datetime? "
    "key:uuid extra:json? payload:bytes:1000 stage:enum:open,in-progress,closed --unique title",
    "comment body:text item:ref:item record:ref:record? --access shared",
    "labeling record:ref comment:ref since:date? --link",
)
COMMAND = ("-c", "from app.cli import main; main()")
# What neither a database nor an entity can change was tested already.
SUITE = ("-m", "pytest", "tests", "-m", "not once", "-p", "no:cacheprovider")


def main() -> int:
    postgres = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cadre"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*HIDDEN))
        for entity in ENTITIES:
            finish(start(copy, *COMMAND, "new", *entity.split()))
        finish(start(copy, *COMMAND, "openapi", SECRET_KEY=secrets.token_urlsafe(48)))
        suites = [start(copy, *SUITE, TEST_DATABASE_URL=url) for url in ("", *postgres)]
        for suite in suites:
            sys.stdout.write(finish(suite)[-300:])
        # In the copy it plants those that stand here.
        shutil.copy(copy / "tests" / "growing.toml", copy / "tests" / "defects.toml")
        sys.stdout.write(finish(start(copy, "tests/defects.py")))
    return 0


def start(folder: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    """This Python at work in `folder`."""
    environment = {**os.environ, **settings}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=both, text=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """What it said. Ends here with that if it failed."""
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{said}\n{process.args} failed.")
    return said


if __name__ == "__main__":
    sys.exit(main())
