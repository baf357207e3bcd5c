"""One slice of load by wrk: what was answered, how quickly, and every error."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_suffix(".lua")


def refuse_without_wrk() -> None:
    if not shutil.which("wrk"):
        raise SystemExit("The load comes from wrk: apt-get install wrk")


def send(
    base_url: str, task: str, tokens: Path, *, connections: int, seconds: int, doomed: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Keep `connections` busy with `task` for a while, one request in flight on each."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=5s", f"-s{SCRIPT}", base_url, "--"]
    arguments = [task, str(tokens), str(doomed), str(seed)]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60)
    summary: dict[str, Any] = json.loads(done.stdout.rpartition("SUMMARY ")[2])
    return summary
