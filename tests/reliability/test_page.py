"""The tables of `docs/reliability.md` are what the tests of faults have measured."""

from dataclasses import replace

import pytest

from tests.docs.markdown import has
from tests.reliability import page as pages
from tests.reliability.declared import declared_faults
from tests.reliability.outcomes import read_stored
from tests.reliability.page import BEGIN, END, PAGE, with_tables


def test_the_page_holds_what_is_declared_and_measured() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert page == with_tables(page), "the tables are stale: `make faults-table` writes them anew"


def test_at_least_30_faults_are_caused_by_tests_that_exist() -> None:
    declared = declared_faults()
    assert len(declared) >= 30
    assert declared.keys() == read_stored().keys(), "`make faults-table` measures what is declared"
    for key, each in declared.items():
        path, name = each.test.split("::", 1)
        assert has(path, name.replace("::", ".")), key


def test_no_fault_loses_or_doubles_a_row() -> None:
    for key, found in read_stored().items():
        assert (found.lost, found.doubled) == (0, 0), key
        assert found.rows > 0, key
        assert found.exits, key


def test_a_changed_outcome_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page, stored = PAGE.read_text(), read_stored()
    lossy = {key: replace(found, lost=1) for key, found in stored.items()}
    monkeypatch.setattr(pages, "read_stored", lambda: lossy)
    assert with_tables(page) != page
