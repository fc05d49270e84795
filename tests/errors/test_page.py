"""The tables of `docs/reference/errors.md` are the tests' own."""

from tests.errors.commands import CLUSTER, COMMANDS
from tests.errors.lines import LINES
from tests.errors.page import BEGIN, END, PAGE, with_table
from tests.errors.rows import BAD


def test_the_page_holds_the_tables_of_the_tests() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert page == with_table(page), "the tables are stale: `make errors-table` writes them anew"


def test_a_stale_table_is_noticed() -> None:
    page = PAGE.read_text()
    stale = page.replace("exceeds 3600 s", "exceeds 60 s")
    assert stale != page
    assert with_table(stale) == page


def test_every_bad_input_has_words_of_its_own() -> None:
    named = [case.what for case in (*BAD, *LINES, *COMMANDS, *CLUSTER)]
    assert len(named) == len(set(named)) >= 100
