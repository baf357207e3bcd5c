"""Which tests show which line of docs/promises.md, read from their markers: `@pytest.mark.promise("A01")`.

python3 tests/promises.py [A01 ...]
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
DOCUMENT = TESTS.parent / "docs" / "promises.md"


def main() -> None:
    promised, planned = read_document()
    tests = shown()
    for name in sys.argv[1:] or promised:
        sys.stdout.write("\n    ".join([f"{name} {promised.get(name, 'is no promise.')}", *tests.get(name, [])]) + "\n")
    sys.stdout.write(f"{len(promised)} promises, {len(planned)} not shown yet: {' '.join(planned)}\n")


def read_document() -> tuple[dict[str, str], list[str]]:
    """Every line of the document by its id, and the ids that no test shows yet."""
    lines, _, planned = DOCUMENT.read_text(encoding="utf-8").partition("\n## Not shown yet\n")
    promised = re.findall(r"^- \*\*([A-Z]\d\d)\*\* (.+)$", lines, re.MULTILINE)
    return dict(promised), re.findall(r"\b[A-Z]\d\d\b", planned)


@cache
def shown() -> dict[str, list[str]]:
    """The tests that show an id: `test_login.py::test_the_scheme_is_right_in_any_case`."""
    tests: dict[str, list[str]] = {}
    for file in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in [name for decorator in node.decorator_list for name in marked(decorator)]:
                    tests.setdefault(name, []).append(f"{file.name}::{node.name}")
    return tests


def marked(decorator: ast.expr) -> list[str]:
    """The ids in a decorator, or in the marks of its parameters."""
    calls = (node for node in ast.walk(decorator) if isinstance(node, ast.Call))
    return [
        ast.literal_eval(name)
        for call in calls
        if ast.unparse(call.func) == "pytest.mark.promise"
        for name in call.args
    ]


if __name__ == "__main__":
    main()
