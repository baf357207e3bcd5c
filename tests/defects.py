"""Plants each defect of defects.toml in a copy of this project, and sees the test named beside it turn red.

python3 tests/defects.py [part of a test's name]
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
PARTS = ("app", "alembic", "static", "tests", "docs", "pyproject.toml", ".env", "README.md")


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    defects = tomllib.loads((ROOT / "tests" / "defects.toml").read_text(encoding="utf-8"))["defect"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies = [copy_to(Path(folder) / str(number)) for number in range(WORKERS)]
        results = pool.map(lambda defect: plant(copies, defect), [d for d in defects if wanted in d["test"]])
        survived = [complaint for complaint in results if complaint]
    sys.stdout.write("\n".join([*survived, f"{len(defects)} defects planted, {len(survived)} not noticed\n"]))
    return 1 if survived else 0


def copy_to(folder: Path) -> Path:
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def plant(copies: list[Path], defect: dict[str, str]) -> str | None:
    """None if the test turned red; else what is wrong."""
    copy = copies.pop()
    file = copy / defect["file"]
    sound = file.read_text(encoding="utf-8")
    try:
        if sound.count(defect["old"]) != 1:
            return f"{defect['file']}: does not hold exactly once: {defect['old']}"
        file.write_text(sound.replace(defect["old"], defect["new"]), encoding="utf-8")
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", defect["test"]]
        done = subprocess.run(command, cwd=copy, capture_output=True, timeout=120, check=False)
        # 1: tests ran, and one failed. Anything else (0: green; 2 to 5: nothing ran) says nothing good of the test.
        return None if done.returncode == 1 else f"{defect['test']} exits with {done.returncode} for: {defect['new']}"
    except subprocess.TimeoutExpired:
        return f"{defect['test']} does not end for: {defect['new']}"
    finally:
        file.write_text(sound, encoding="utf-8")
        copies.append(copy)


if __name__ == "__main__":
    sys.exit(main())
