"""No promise of docs/promises.md goes without a test that names it, and no test names a promise that was never made."""

import re
from collections import Counter
from collections.abc import Iterable

from tests.promises import DOCUMENT, read_document, shown


def listed(ids: Iterable[str]) -> str:
    """In one line, so that a failure names them all."""
    return " ".join(sorted(ids))


def test_every_promise_is_shown_by_a_test_or_said_to_be_planned():
    promised, planned = read_document()
    assert listed(promised.keys() - shown().keys() - set(planned)) == "", "Promised, and shown by no test."


def test_what_is_said_to_be_planned_is_promised_and_shown_by_no_test_yet():
    promised, planned = read_document()
    assert listed(set(planned) & shown().keys()) == "", "Shown: take them out of the list in docs/promises.md."
    assert listed(set(planned) - promised.keys()) == "", "Planned, and never promised."


def test_a_test_names_only_what_is_promised():
    promised, _ = read_document()
    assert listed(shown().keys() - promised.keys()) == "", "Shown by a test, and never promised."


def test_a_promise_has_one_line_of_its_own():
    ids = re.findall(r"^- \*\*(.*?)\*\* ", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed(name for name, times in Counter(ids).items() if times > 1) == ""
    assert set(ids) == read_document()[0].keys()
