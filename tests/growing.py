"""Grows a copy of this project by three entities, runs the whole suite there, and plants defects in what was written.

python3 tests/growing.py [--full]

On the database that the tests themselves take: that of TEST_DATABASE_URL, or SQLite in memory. There the defects are
planted, and only the tests that an entity can change are run, unless it shall be all of them.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = (".git", ".venv", "node_modules", "*.db*")
# A user's own, with a field of every type; one that everybody shares, and that refers to others; and many to many.
ENTITIES = (
    "record title:str:80 notes:text? amount:int ratio:float? price:decimal:9,2 is_open:bool day:date at:datetime? "
    "key:uuid extra:json? payload:bytes:1000 stage:enum:open,in-progress,closed --unique title",
    "comment body:text item:ref:item record:ref:record? --access shared",
    "labeling record:ref comment:ref since:date? --link",
)
COMMAND = ("-c", "from app.cli import main; main()")
SUITE = ("-m", "pytest", "-m", "not once", "-p", "no:cacheprovider")
# Of those that ask for every entity, route or file that there is. With the others it is done on PostgreSQL.
ASKED = "contract openapi migrations"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cadre"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*HIDDEN))
        for entity in ENTITIES:
            run(copy, *COMMAND, "new", *entity.split())
        run(copy, *COMMAND, "openapi", SECRET_KEY=secrets.token_urlsafe(48))
        is_sqlite = not os.environ.get("TEST_DATABASE_URL")
        asked = ASKED.split() if is_sqlite and "--full" not in sys.argv else ["*"]
        files = [str(path) for name in asked for path in sorted((copy / "tests").glob(f"test_{name}.py"))]
        sys.stdout.write(run(copy, *SUITE, *files)[-300:])
        if is_sqlite:
            # In the copy it plants those that stand here.
            shutil.copy(copy / "tests" / "growing.toml", copy / "tests" / "defects.toml")
            sys.stdout.write(run(copy, "tests/defects.py", "--full"))
    return 0


def run(folder: Path, *arguments: str, **settings: str) -> str:
    """What this Python says, at work in `folder`. If it fails, that is the end."""
    environment = {**os.environ, **settings}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=both, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.args} failed.")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
