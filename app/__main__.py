"""From a clean clone to a running server with nothing but Python. What fails says how to mend it."""

import os
import sys

# First of all. An old Python must be able to parse the whole file, or it answers with a SyntaxError instead.
if sys.version_info < (3, 11):  # noqa: UP036 - this is what stops it
    this = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    sys.exit(f"Cadre needs Python 3.11 or newer, this is {this}: get it from python.org, or try python3.12 -m app")

import re
from collections.abc import Callable
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / ".cadre"  # what is installed; empty until all of it is; absent from a .venv somebody else made
# Which extra it takes that a command is this one, or that a URL of the settings begins so.
EXTRAS = {"test": "dev", "new": "dev", "postgres": "postgres", "smtp": "mail"}
# It is installed when this module is there.
PROOF = {"dev": "pytest", "postgres": "psycopg", "mail": "aiosmtplib"}

IS_HOME = Path(sys.executable).parent.parent.resolve() == VENV.resolve()
IS_ACTIVATED = sys.prefix != sys.base_prefix


def main() -> None:
    """Choose where to run, see that everything is installed there, and run."""
    name, checksum = _read_project()
    extras = _needed_extras()
    if IS_HOME and STAMP.exists():
        _once(lambda: _is_fresh(checksum, extras), lambda: _install_at_home(checksum, extras))
    elif IS_HOME or IS_ACTIVATED or _is_installed(name):
        # Whoever activates an environment, says `uv run` or builds a container has chosen: no .venv there.
        _once(lambda: _is_installed(name) and _has(extras), lambda: _install_here(extras))
    else:
        if STAMP.exists() or not _is_whole():
            _once(lambda: _is_fresh(checksum, extras), lambda: _install_at_home(checksum, extras))
        _go_home()
    _run()


def _read_project() -> tuple[str, str]:
    """Return the name, and a checksum of what pip reads, so that a new ruff rule costs no install."""
    import tomllib
    import zlib

    try:
        toml = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
        read_by_pip = repr((toml["project"], toml.get("build-system")))
        return toml["project"]["name"], str(zlib.crc32(read_by_pip.encode()))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"pyproject.toml cannot be read ({error}): mend it, then run this again.")


def _needed_extras() -> set[str]:
    # The first of each setting counts, as in settings.py, but pydantic is not there yet to read it.
    files = [file for file in (ROOT / ".env.local", ROOT / ".env") if file.exists()]
    lines = [*map("=".join, os.environ.items()), *(file.read_text("utf-8", "replace") for file in files)]
    pattern = r"(?im)^[ \t]*(?:export[ \t])?[ \t]*(DATABASE_URL|MAIL_URL)[ \t]*=[ \t]*['\"]?(postgres|smtp|)"
    schemes = {name.upper(): scheme for name, scheme in reversed(re.findall(pattern, "\n".join(lines)))}
    return {EXTRAS[word] for word in [*schemes.values(), *sys.argv[1:2]] if word in EXTRAS}


def _is_installed(name: str) -> bool:
    # importlib.metadata says the same, after 40 ms of imports.
    pattern = re.sub("[-_.]+", "_", name).lower() + "-*.dist-info"
    return any(found for folder in sys.path for found in Path(folder).glob(pattern))


def _has(extras: set[str]) -> bool:
    return all(find_spec(PROOF[extra]) for extra in extras)


def _is_fresh(checksum: str, extras: set[str]) -> bool:
    return _is_whole() and _stamp()[:1] == [checksum] and extras.issubset(_stamp())


def _is_whole() -> bool:
    # exists() follows links: it is false when the Python that .venv was made from is gone.
    return PYTHON.exists() and (VENV / "pyvenv.cfg").exists()


def _stamp() -> list[str]:
    return STAMP.read_text().split() if STAMP.exists() else []


def _once(is_done: Callable[[], bool], install: Callable[[], None]) -> None:
    """Install unless it is done. Of two starts at once, the second waits and finds it done."""
    if is_done():
        return
    try:
        with PYPROJECT.open() as file:
            _lock(file.fileno())
            if not is_done():
                install()
    except OSError as error:
        _fail(str(error), "Installing failed: mend that, then run this again.")
    invalidate_caches()


def _lock(file: int) -> None:
    if sys.platform != "win32":  # which has no flock
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another start is installing. Waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # some network folders know no locks


def _install_at_home(checksum: str, extras: set[str]) -> None:
    extras = extras.union(_stamp()[1:])
    if _is_whole() and _stamp() and _call(PYTHON, "-m", "pip", "--version")[0]:
        _say("Installing what is new, a few seconds ...")
    else:
        _say("First start: making .venv and installing into it, about half a minute ...")
        _make_venv()
    _pip_install(PYTHON, extras)
    STAMP.write_text(" ".join([checksum, *sorted(extras)]))


def _make_venv() -> None:
    import shutil

    if not (find_spec("venv") and find_spec("ensurepip")):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        sys.exit(f"This Python cannot make a .venv: sudo apt install {package}, then run this again.")
    if VENV.exists():
        PYTHON.unlink(missing_ok=True)  # first, so that Ctrl-C leaves nothing that looks whole
        shutil.rmtree(VENV)
    VENV.mkdir()
    STAMP.touch()
    base = getattr(sys, "_base_executable", sys.executable)  # sys.executable may be what was just removed
    # In two steps: venv hides what pip's own installation says, a full disk for instance.
    for step in ((base, "-m", "venv", "--without-pip", VENV), (PYTHON, "-m", "ensurepip", "--default-pip")):
        worked, output = _call(*step)
        if not worked:
            _fail(output, "Making .venv failed: mend that, then run this again.")


def _install_here(extras: set[str]) -> None:
    if not IS_ACTIVATED or not find_spec("pip"):
        sys.exit(f"Not everything that is needed is installed here. Run: {_install_command(extras)}")
    _say(f"Installing into {sys.prefix}, about half a minute ...")
    _pip_install(sys.executable, extras)


def _install_command(extras: set[str]) -> str:
    pip = f"{sys.executable} -m pip" if find_spec("pip") else "uv pip"
    return f'{pip} install -e "{_target(extras)}"'


def _target(extras: set[str]) -> str:
    return f".[{','.join(sorted(extras))}]" if extras else "."


def _pip_install(python: Path | str, extras: set[str]) -> None:
    # A pip.conf made for other work must neither break this (user = yes) nor wait unseen for a password.
    options = ("--no-user", "--no-input", "--quiet", "--disable-pip-version-check")
    worked, output = _call(python, "-m", "pip", "install", *options, "-e", _target(extras))
    if not worked:
        _fail(output, "Installing failed: check the network, the proxy and pip's index, then run this again.")


def _call(python: Path | str, *args: Path | str) -> tuple[bool, str]:
    import subprocess

    # -I: a folder of this clone that is named like a standard module must not be imported in its place.
    command = [python, "-I", *args]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - all of it is ours
    return done.returncode == 0, done.stdout.decode(errors="replace")


def _fail(output: str, advice: str) -> None:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reason = "\n".join([line for line in lines if line.startswith(("ERROR:", "Error:"))][-2:] or lines[-2:])
    if re.search("No space left|not enough space", reason):
        advice = "The disk is full: free about 500 MB, then run this again."
    elif re.search("Permission denied|Read-only file system|Access is denied", reason):
        advice = "That cannot be written: make the folder yours, or clone into one that is, then run this again."
    _say(reason)
    sys.exit(advice)


def _go_home() -> None:
    command = [str(PYTHON), *sys.orig_argv[1:]]
    if sys.platform != "win32":
        os.execv(PYTHON, command)  # noqa: S606 - no shell is wanted
    # On Windows exec would give the prompt back while the server still runs.
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
    sys.exit(subprocess.call(command))  # noqa: S603 - all of it is ours


def _run() -> None:
    is_test = sys.argv[1:2] == ["test"]
    try:
        if is_test:
            import pytest
        else:
            from app.cli import main as cli
    except ModuleNotFoundError as error:
        missing = (error.name or "app").partition(".")[0]
        if missing == "app":
            raise
        cure = f"run: {_install_command(set())}"
        if IS_HOME and STAMP.exists():
            cure = "run this again; if it is there, delete .venv first"
        sys.exit(f"{missing} is not installed: list it in pyproject.toml, then {cure}")
    if is_test:
        sys.exit(pytest.main(sys.argv[2:]))
    cli()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        _say("Stopped. Run this again to go on.")
        sys.exit(130)
