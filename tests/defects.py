"""Plants each defect of defects.toml in a copy of this project, and sees the test named beside it turn red.

python3 tests/defects.py [part of a test's name]    # those; of all, every fourth one, and the others on the next days
python3 tests/defects.py --full                     # all of them
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from datetime import date
from pathlib import Path

# Imported once here, and by fork in each of the hundred runs of pytest: a second less for each.
import alembic.command
import fastapi.testclient
import hypothesis
import jose.jwt
import passlib.hash
import pydantic_settings
import pytest
import sqlmodel
import zxcvbn

IMPORTED = (alembic, fastapi, hypothesis, jose, passlib.hash.bcrypt_sha256, pydantic_settings, sqlmodel, zxcvbn)
ROOT = Path(__file__).resolve().parent.parent
REWRITE = "pytest.PytestAssertRewriteWarning"
WORKERS, LIMIT = 3, 120  # processes; seconds for each test
PARTS = ("app", "alembic", "static", "tests", "docs", "pyproject.toml", ".env", "README.md")


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    defects = tomllib.loads((ROOT / "tests" / "defects.toml").read_text(encoding="utf-8"))["defect"]
    waiting = [defect for defect in defects if wanted in defect["test"] or wanted == "--full"]
    if not wanted:
        waiting = waiting[date.today().toordinal() % 4 :: 4]
    gc.freeze()  # no child looks through what was imported
    planted, complaints, running = len(waiting), list[str](), list[Trial]()
    with tempfile.TemporaryDirectory() as folder:
        copies = [copy_to(Path(folder) / str(number)) for number in range(WORKERS)]
        while waiting or running:
            while waiting and copies:
                running.append(Trial(waiting.pop(0), copies.pop()))
            time.sleep(0.02)
            for trial in [trial for trial in running if trial.is_over()]:
                running.remove(trial)
                copies.append(trial.copy)
                complaints += trial.complaint
    sys.stdout.write("\n".join([*complaints, f"{planted} defects planted, {len(complaints)} not noticed\n"]))
    return 1 if complaints else 0


def copy_to(folder: Path) -> Path:
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # With what was compiled already: it holds only for a file of the same time and size, so for no defect.
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return folder


class Trial:
    """A defect planted in `copy`, and the process that runs its test there."""

    def __init__(self, defect: dict[str, str], copy: Path) -> None:
        self.defect, self.copy, self.complaint, self.pid = defect, copy, list[str](), 0
        self.file, self.began = copy / defect["file"], time.monotonic()
        self.sound = self.file.read_text(encoding="utf-8")
        if self.sound.count(defect["old"]) != 1:
            self.complaint = [f"{defect['file']}: does not hold exactly once: {defect['old']}"]
            return
        self.file.write_text(self.sound.replace(defect["old"], defect["new"]), encoding="utf-8")
        self.pid = os.fork()
        if not self.pid:
            run_test(copy, defect["test"])

    def is_over(self) -> bool:
        """Whether the test has ended, or has had its time. Then the copy is as it was."""
        ended, status = os.waitpid(self.pid, os.WNOHANG) if self.pid else (0, 0)
        test, new = self.defect["test"], self.defect["new"]
        if self.pid and not ended:
            if time.monotonic() - self.began < LIMIT:
                return False
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.complaint = [f"{test} does not end for: {new}"]
        elif self.pid and (code := os.waitstatus_to_exitcode(status)) != 1:
            # 1: tests ran, and one failed. Anything else (0: green; 2 to 5: nothing ran) says nothing good of the test.
            self.complaint = [f"{test} exits with {code} for: {new}"]
        self.file.write_text(self.sound, encoding="utf-8")
        return True


def run_test(copy: Path, test: str) -> None:
    """In the child: what `python -B -m pytest` would do there. Does not return."""
    code = 70
    os.setsid()  # so that what the test starts ends with it
    os.chdir(copy)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.dont_write_bytecode = True
    sys.path[0] = str(copy)
    try:
        # What was imported already is none of the tests.
        code = int(pytest.main(["-x", "-p", "no:cacheprovider", "-W", f"ignore::{REWRITE}", test]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
