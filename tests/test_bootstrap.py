"""`python3 -m app` on a stand-in clone: the real file, a project that needs no network, a real .venv."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "app" / "__main__.py"
PYTHON = getattr(sys, "_base_executable", sys.executable)  # outside any environment, as on a clean machine
PARTS = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

PYPROJECT = """
[project]
name = "stand-in"
version = "0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os, shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    with open("installs.log", "a") as log:
        log.write("+")
    return os.path.basename(shutil.copy("stand_in-0-py3-none-any.whl", folder))
"""
CLI = "import sys\ndef main():\n    print(sys.prefix, sys.argv[1:])\n"
PYTEST = "def main(args):\n    print('pytest', args)\n    return 5\n"
EXTRAS = """Provides-Extra: dev
Provides-Extra: mail
Provides-Extra: postgres
Requires-Dist: pytest; extra == 'dev'
Requires-Dist: aiosmtplib; extra == 'mail'
Requires-Dist: psycopg; extra == 'postgres'
"""

AGAIN = "then run this again.\n"
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(find_spec("ensurepip") is None, reason="this Python cannot make a .venv"),
    pytest.mark.skipif(os.name == "nt", reason="about POSIX links, signals and locks"),
]


def test_an_old_python_gets_one_sentence(clone):
    old = "import runpy, sys; sys.version_info = (3, 10, 2); runpy.run_path('app/__main__.py', run_name='__main__')"

    told = start(clone, "-c", old)

    assert told.stderr == (
        f"Cadre needs Python 3.11 or newer, this is 3.10 ({PYTHON}): get it from python.org, or try python3.12 -m app\n"
    )
    assert told.returncode == 1
    assert not (clone / ".venv").exists()


def test_an_old_python_can_parse_the_file_that_refuses_it():
    ast.parse(BOOTSTRAP.read_text(encoding="utf-8"), feature_version=(3, 7))

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"


def test_the_first_start_makes_an_environment_and_goes_on_in_it(first):
    clone, told = first

    assert told.stdout == f"{clone / '.venv'} ['run', '--port', '8001']\n"
    assert told.stderr == "First start: making .venv and installing into it, about half a minute ...\n"
    assert told.returncode == 0
    assert not (clone / ".venv" / PARTS / "pytest.py").exists()


def test_the_second_start_installs_nothing_and_is_quiet(started):
    shutil.rmtree(started / ".venv" / PARTS / "pip")

    told = start(started, "-X", "importtime", "-m", "app")

    assert told.stdout == f"{started / '.venv'} []\n"
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "subprocess" not in imported  # which takes its time, and without which there is no pip
    assert all(line.startswith("import time:") for line in told.stderr.splitlines())


def test_the_tests_bring_their_tools_and_get_their_arguments(started):
    told = start(started, "-m", "app", "test", "-k", "items", "-x")
    start(started, "-m", "app", "run", DATABASE_URL="postgresql://db/cadre", MAIL_URL="smtps://mail")
    start(started, "-m", "app", "test")

    assert told.stdout == "pytest ['-k', 'items', '-x']\n"
    assert told.stderr == "Installing what is new, a few seconds ...\n"
    assert told.returncode == 5
    assert installs(started) == 3
    assert (started / ".venv" / PARTS / "aiosmtplib.py").exists()


def test_writing_an_entity_brings_the_tools_too(started):
    told = start(started, "-m", "app", "new", "project", "name:str")

    assert told.stdout == f"{started / '.venv'} ['new', 'project', 'name:str']\n"
    assert told.stderr == "Installing what is new, a few seconds ...\n"


@pytest.mark.parametrize(
    ("environment", "local", "committed", "is_installed"),
    [
        ("postgresql://db/cadre", "DATABASE_URL=sqlite:///a.db", "", True),
        ("sqlite:///a.db", "DATABASE_URL=postgresql://db/cadre", "", False),
        (None, "export DATABASE_URL = 'postgres://db/cadre'", "DATABASE_URL=sqlite:///a.db", True),
        (None, "# DATABASE_URL=sqlite:///a.db\nREAD_ONLY=false", "database_url=postgresql://db/cadre", True),
        (None, "DATABASE_URL=sqlite:///a.db", "DATABASE_URL=postgresql://db/cadre", False),
        (None, "DATABASE_URL=\npostgres=yes", "", False),
    ],
)
def test_a_postgres_url_brings_its_driver(started, environment, local, committed, is_installed):
    (started / ".env.local").write_text(local)
    (started / ".env").write_text(committed)

    told = start(started, "-m", "app", **({"DATABASE_URL": environment} if environment else {}))

    assert told.returncode == 0
    assert (started / ".venv" / PARTS / "psycopg.py").exists() is is_installed


def test_only_what_pip_reads_is_a_reason_to_install_again(started):
    with (started / "pyproject.toml").open("a") as toml:
        toml.write("[tool.ruff]\nline-length = 99\n")
    start(started, "-m", "app")
    assert installs(started) == 1

    (started / "pyproject.toml").write_text(PYPROJECT.replace('"0"', '"0.0"'))
    start(started, "-m", "app")
    start(started, "-m", "app")
    assert installs(started) == 2


def test_ctrl_c_at_the_first_start_leaves_a_sentence_and_an_unfinished_environment(clone):
    venv = clone / ".venv"
    running = begin(clone, "-m", "app")
    while not (venv / "bin" / "python").exists():
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate()

    assert stderr.endswith(" ...\nStopped. Run this again to go on.\n")
    assert running.returncode == 130
    assert (venv / ".cadre").read_text() == ""


def test_an_unfinished_environment_is_made_anew_even_from_inside(started):
    (started / ".venv" / ".cadre").write_text("")

    told = start(started, "-m", "app", python=started / ".venv" / "bin" / "python")

    assert told.stdout == f"{started / '.venv'} []\n"
    assert told.stderr == "First start: making .venv and installing into it, about half a minute ...\n"
    assert installs(started) == 2


def test_an_environment_whose_python_is_gone_is_made_anew(started):
    python = started / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(started / "gone")

    assert start(started, "-m", "app").stdout == f"{started / '.venv'} []\n"
    assert installs(started) == 2


def test_two_first_starts_at_once_install_once(clone):
    ann, bob = begin(clone, "-m", "app", "ann"), begin(clone, "-m", "app", "bob")

    assert ann.communicate()[0] == f"{clone / '.venv'} ['ann']\n"
    assert bob.communicate()[0] == f"{clone / '.venv'} ['bob']\n"
    assert installs(clone) == 1


def test_an_activated_environment_is_used_and_no_other_made(started):
    theirs = move_environment(started)
    for installed in (theirs / PARTS).glob("stand_in-*"):
        shutil.rmtree(installed)

    told = start(started, "-m", "app", python=theirs / "bin" / "python")

    assert told.stdout == f"{theirs} []\n"
    assert told.stderr == f"Installing into {theirs}, about half a minute ...\n"
    assert start(started, "-m", "app", "test", python=theirs / "bin" / "python").stdout == "pytest []\n"
    assert start(started, "-m", "app", "test", python=theirs / "bin" / "python").stderr == ""
    assert not (started / ".venv").exists()


def test_an_environment_without_pip_gets_the_command_of_uv(started):
    theirs = move_environment(started)
    shutil.rmtree(theirs / PARTS / "pip")

    told = start(started, "-m", "app", "test", python=theirs / "bin" / "python")

    assert told.stderr == 'Not everything that is needed is installed here. Run: uv pip install -e ".[dev]"\n'
    assert told.returncode == 1


def test_a_container_that_has_the_project_runs_it_as_it_is(clone, tmp_path):
    (tmp_path / "site" / "stand_in-0.dist-info").mkdir(parents=True)
    site = {"PYTHONPATH": str(tmp_path / "site")}

    told = start(clone, "-S", "-m", "app", "run", **site)
    refused = start(clone, "-S", "-m", "app", "test", **site)

    assert told.stdout.endswith(" ['run']\n")
    assert refused.stderr == 'Not everything that is needed is installed here. Run: uv pip install -e ".[dev]"\n'
    assert not (clone / ".venv").exists()


def test_a_venv_that_somebody_else_made_is_used_and_left_alone(started):
    stamp = started / ".venv" / ".cadre"
    stamp.unlink()

    told = start(started, "-m", "app")

    assert told.stdout == f"{started / '.venv'} []\n"
    assert told.stderr == ""
    assert not stamp.exists()


def test_debians_python_without_venv_gets_the_package_to_install(clone):
    debian = (
        "import runpy, sys; sys.modules['ensurepip'] = None; runpy.run_path('app/__main__.py', run_name='__main__')"
    )

    told = start(clone, "-c", debian)

    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    assert told.stderr.endswith(f"This Python cannot make a .venv: sudo apt install {package}, {AGAIN}")
    assert told.returncode == 1
    assert not (clone / ".venv").exists()


def test_without_a_network_the_last_sentence_says_what_to_check(started):
    stamp = (started / ".venv" / ".cadre").read_text()
    make_wheel(started, "stand_in", "Requires-Dist: elsewhere\n")
    (started / "pyproject.toml").write_text(PYPROJECT.replace('"0"', '"0.0"'))

    told = start(started, "-m", "app", PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")

    *_, reason, sentence = told.stderr.splitlines()
    assert reason == "ERROR: No matching distribution found for elsewhere"
    assert sentence == "Installing failed: check the network, the proxy and pip's index, then run this again."
    assert told.returncode == 1
    assert (started / ".venv" / ".cadre").read_text() == stamp


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("[Errno 28] No space left on device", "The disk is full: free about 500 MB, "),
        (
            "[Errno 13] Permission denied: '/x'",
            "That cannot be written: make the folder yours, or clone into one that is, ",
        ),
    ],
)
def test_what_stops_pip_is_told_with_its_cure(started, reason, sentence):
    (started / ".venv" / PARTS / "pip" / "__main__.py").write_text(
        f"import sys\nif '--version' not in sys.argv:\n    print('noise')\n    sys.exit(\"ERROR: OSError: {reason}\")\n"
    )

    told = start(started, "-m", "app", "test")

    assert told.stderr.splitlines(keepends=True)[1:] == [f"ERROR: OSError: {reason}\n", sentence + AGAIN]
    assert told.returncode == 1


@pytest.mark.skipif(os.access("/", os.W_OK), reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_told_with_its_cure(clone):
    clone.chmod(0o555)

    told = start(clone, "-m", "app")

    assert told.stderr.splitlines(keepends=True)[1:] == [
        f"[Errno 13] Permission denied: '{clone / '.venv'}'\n",
        "That cannot be written: make the folder yours, or clone into one that is, " + AGAIN,
    ]
    assert told.returncode == 1


def test_a_file_in_the_way_of_the_environment_is_named(clone):
    (clone / ".venv").touch()

    told = start(clone, "-m", "app")

    assert told.stderr.splitlines(keepends=True)[1:] == [
        f"[Errno 20] Not a directory: '{clone / '.venv' / 'bin' / 'python'}'\n",
        f"Installing failed: mend that, {AGAIN}",
    ]
    assert told.returncode == 1


def test_a_module_that_is_not_there_is_named_with_its_cure(started):
    (started / "app" / "cli.py").write_text("import pandsa.frames\n")

    told = start(started, "-m", "app")

    assert told.stderr == (
        "pandsa is not installed: list it in pyproject.toml, then run this again; if it is there, delete .venv first\n"
    )
    assert told.returncode == 1


def test_a_broken_pyproject_is_told_with_its_line(clone):
    (clone / "pyproject.toml").write_text('[project]\nname = "stand-in\n')

    told = start(clone, "-m", "app")

    assert told.stderr.startswith("pyproject.toml cannot be read (")
    assert "at line 2" in told.stderr
    assert told.stderr.endswith(f": mend it, {AGAIN}")
    assert told.returncode == 1


def begin(clone, *args, python=PYTHON, **env):
    """A start as on a clean machine: no activated environment, no settings, and packages only from beside the clone."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "DATABASE_"))}
    wheels = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (clone / "wheels").as_uri()}
    return subprocess.Popen(
        [python, *args],
        cwd=clone,
        env=inherited | wheels | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )


def start(clone, *args, python=PYTHON, **env):
    with begin(clone, *args, python=python, **env) as running:
        stdout, stderr = running.communicate(timeout=120)
    return subprocess.CompletedProcess(args, running.returncode, stdout, stderr)


def installs(clone):
    log = clone / "installs.log"
    return len(log.read_text()) if log.exists() else 0


def make_clone(folder):
    (folder / "app").mkdir(parents=True)
    shutil.copy(BOOTSTRAP, folder / "app")
    (folder / "app" / "__init__.py").touch()
    (folder / "app" / "cli.py").write_text(CLI)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    make_wheel(folder, "stand_in", EXTRAS)
    (folder / "wheels").mkdir()
    make_wheel(folder / "wheels", "pytest", module=PYTEST)
    make_wheel(folder / "wheels", "psycopg", module="\n")
    make_wheel(folder / "wheels", "aiosmtplib", module="\n")
    return folder


def make_wheel(folder, name, metadata="", module=""):
    with zipfile.ZipFile(folder / f"{name}-0-py3-none-any.whl", "w") as wheel:
        about = f"{name}-0.dist-info"
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n{metadata}")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
        if module:
            wheel.writestr(f"{name}.py", module)


def move_environment(clone):
    """Somebody's own environment: what the clone's .venv was, elsewhere."""
    theirs = (clone / ".venv").rename(clone.parent / "theirs")
    (theirs / ".cadre").unlink()
    return theirs


@pytest.fixture
def clone(tmp_path):
    return make_clone(tmp_path.resolve() / "Büro, two words")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A clone after its first start. Made once, as it takes seconds; tests that change it get a copy: `started`."""
    clone = make_clone(tmp_path_factory.mktemp("first").resolve() / "Büro, two words")
    return clone, start(clone, "-m", "app", "run", "--port", "8001")


@pytest.fixture
def started(first, tmp_path):
    return shutil.copytree(first[0], tmp_path.resolve() / "Büro, two words", symlinks=True)
