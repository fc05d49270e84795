"""The README's table of errors is the tests' own."""

from tests.errors.commands import CLUSTER, COMMANDS
from tests.errors.lines import LINES
from tests.errors.readme import BEGIN, END, README, with_table
from tests.errors.rows import BAD


def test_the_readme_holds_the_table_of_the_tests() -> None:
    readme = README.read_text()
    assert readme.count(BEGIN) == readme.count(END) == 1
    assert readme == with_table(readme), "the table is stale: `make errors-table` writes it anew"


def test_a_stale_table_is_noticed() -> None:
    readme = README.read_text()
    assert with_table(readme.replace("exceeds 3600 s", "exceeds 60 s")) == readme


def test_every_bad_input_has_words_of_its_own() -> None:
    named = [case.what for case in (*BAD, *LINES, *COMMANDS, *CLUSTER)]
    assert len(named) == len(set(named)) >= 100
