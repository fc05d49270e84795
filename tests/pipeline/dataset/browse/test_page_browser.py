"""The page as people use it: in a headless Chromium, with sound, on a phone and on a desk."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.identity import bytes_token
from pipeline.audio.encode import Coding, encode
from pipeline.storage import open_storage
from tests.browser import Scheme, Tab, chromium, find_axe, find_chromium
from tests.pipeline.dataset.browse.servers import Client, browsing, commit
from tests.pipeline.report.outputs import (
    RATE_HZ,
    clip_row,
    letter,
    run_record,
    tune,
    write_output,
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
LONG = "an-id-without-any-space-" * 6
WIDTHS = (390, 1440)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
PLAYER = "[...page.player.decks.values()]"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with (
        tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile,
        chromium(Path(profile)) as opened,
    ):
        yield opened


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """60 clips: a row of three takes with a melody, hostile and long texts, a missing file."""
    melody = encode(tune(99, 2.0), RATE_HZ, Coding())
    (tmp_path / "tune.flac").write_bytes(melody)
    named = {"melody_uri": "tune.flac", "references": {"melody": bytes_token(melody)}}
    clips = [clip_row(n, tune(n % 5, 3.0), genre=("folk", "jazz")[n % 2]) for n in range(54)]
    clips += [clip_row(54, tune(1, 0.5), prompt=SCRIPT, id=LONG, genre="<b>odd</b>")]
    clips += [clip_row(55, tune(2, 0.5), prompt=None), clip_row(56, tune(3, 0.5), prompt="gone")]
    clips += [clip_row(57 + take, tune(57, 4.0) * (1 - take / 4), id="choir", take=take,
                       prompt="a choir", genre="choral", **named) for take in range(3)]  # fmt: skip
    letters = [letter(n, message=f"row {n}: {SCRIPT}") for n in range(3)]
    runs = [run_record(config={"run": {"manifest": str(tmp_path / "m.parquet")}})]
    storage = write_output(tmp_path / "out", [], letters, runs)
    commit(storage, clips)
    storage.delete([clips[56][0]["audio_path"]])
    with browsing(storage, tmp_path) as opened:
        yield opened


def show(tab: Tab, client: Client, *, width: int = 1440, scheme: Scheme = "light") -> None:
    tab.visit(client.url, width=width, height=844 if width < 600 else 900, scheme=scheme)
    tab.wait("document.documentElement.dataset.ready === 'yes'")
    tab.wait("document.querySelectorAll('[data-clip]').length > 0")
    tab.run("""window.rows = () => [...document.querySelectorAll('[data-clip]')];
               window.text = css => document.querySelector(css)?.textContent.trim() ?? '';
               window.click = css => document.querySelector(css).click();
               window.open_row = name => rows().find(r => r.textContent.includes(name))
                 .querySelector('.open').click()""")


def choose(tab: Tab, name: str) -> None:
    tab.run(f"open_row({json.dumps(name)})")
    tab.wait(f"text('#detail').includes({json.dumps(name)})")


def playing(tab: Tab, after_s: float = 0.2) -> None:
    """Waits until the clock of the player moves on."""
    tab.wait("document.querySelector('#player .round').classList.contains('on')")
    tab.wait(f"Number(document.querySelector('#player .seek').value) > {after_s * 10}")
    before = tab.run("Number(document.querySelector('#player .seek').value)")
    tab.wait(f"Number(document.querySelector('#player .seek').value) > {before}")


def test_sound_plays_is_sought_and_ends(tab: Tab, client: Client) -> None:
    show(tab, client)
    tab.run("rows()[0].querySelector('.play').click()")
    playing(tab)
    assert tab.run("rows()[0].classList.contains('playing')")
    tab.run("""(() => { const seek = document.querySelector('#player .seek');
      seek.value = 700; seek.dispatchEvent(new Event('input')); })()""")
    tab.wait("Number(document.querySelector('#player .seek').value) > 690")
    assert tab.run("text('#player .time')").startswith("0:02")
    tab.wait("!document.querySelector('#player .round').classList.contains('on')")  # to its end
    tab.run("click('#player .round')")
    playing(tab, 0)
    assert tab.said == []


def test_keys_go_through_the_list_while_it_plays_and_rate(tab: Tab, client: Client) -> None:
    show(tab, client)
    tab.press("j")
    tab.wait("rows()[0].hasAttribute('aria-current')")
    tab.press(" ")
    playing(tab)
    for key in ("j", "ArrowDown", "k"):
        tab.press(key)
    tab.wait("rows()[1].hasAttribute('aria-current')")
    tab.wait("rows()[1].classList.contains('playing')")
    tab.press("4")
    tab.wait("rows()[1].querySelector('.stars').textContent === '★★★★☆'")
    assert tab.run("rows()[1].querySelector('.stars').getAttribute('aria-label')") == "rated 4 of 5"
    tab.press("0")
    tab.wait("rows()[1].querySelector('.stars').textContent === ''")
    tab.press("5")
    tab.wait("rows()[1].querySelector('.stars').textContent === '★★★★★'")
    assert client.clips(sort=":rating")["clips"][0][":rating"] == 5
    tab.press(" ")
    tab.wait("!document.querySelector('tr.playing')")
    tab.press("/")
    tab.wait("document.activeElement.id === 'search'")
    tab.press("2")  # a digit in the search is text, not a rating
    tab.press("Escape")
    time.sleep(0.3)
    assert client.clips(sort=":rating")["clips"][0][":rating"] == 5
    assert tab.said == []


def test_search_filter_sort_and_pages(tab: Tab, client: Client) -> None:
    show(tab, client)
    assert tab.run("rows().length") == 50
    tab.run("click('#page-on')")
    tab.wait("rows().length === 10")
    assert tab.run("text('#page-where')") == "51 to 60 of 60"
    tab.run("document.querySelector('#search').focus()")
    tab.type("choir")
    tab.wait("text('#found') === '3 clips of 60'")
    tab.run("""(() => { const s = document.querySelector('#search'); s.value = '';
      s.dispatchEvent(new Event('input')); })()""")
    tab.wait("text('#found') === '60 clips'")
    tab.run("click('#add-filter')")
    tab.run("""(() => { const set = (id, value) => { const e = document.querySelector(id);
        e.value = value; e.dispatchEvent(new Event('change')); };
      set('#filter-column', 'genre'); set('#filter-op', 'is');
      document.querySelector('#filter-value').value = 'jazz'; })()""")
    tab.wait(
        "[...document.querySelectorAll('#filter-values option')].some(o => o.value === 'jazz')"
    )
    tab.run("click('#filter .main')")
    tab.wait("text('#found') === '27 clips of 60'")
    assert tab.run("text('#filters li')").startswith("genre is jazz")
    tab.run("""[...document.querySelectorAll('th button')]
      .find(b => b.textContent.startsWith('Loudness')).click()""")
    tab.wait("document.querySelector('th[aria-sort=descending]')?.textContent.includes('Loudness')")
    shown = tab.run(
        "rows().map(r => parseFloat(r.querySelector('.level').textContent.replace('−', '-')))"
    )
    assert shown == sorted(shown, reverse=True)
    tab.run("location.reload()")  # the address keeps the question, and not the token
    tab.wait("document.documentElement?.dataset.ready === 'yes'")
    assert "token" not in tab.run("location.href")
    tab.wait("document.querySelector('#found').textContent === '27 clips of 60'")
    tab.run("document.querySelector('#filters button').click()")
    tab.wait("document.querySelector('#found').textContent === '60 clips'")
    assert tab.said == []


def test_a_clip_with_its_takes_and_reference_side_by_side(tab: Tab, client: Client) -> None:
    show(tab, client)
    choose(tab, "a choir")
    tab.wait("document.querySelector('#detail img').naturalWidth > 0")
    assert tab.run("document.querySelectorAll('#detail [data-take]').length") == 3
    tab.run("""(() => { const [first, second] = document.querySelectorAll('#detail .tracks');
      first.children[0].querySelector('.pair button').click();
      first.children[2].querySelector('.pair button:last-child').click(); })()""")
    tab.wait("document.querySelectorAll('#player .side:not(:disabled)').length === 2")
    tab.run("click('#player .side')")
    playing(tab, 10)
    tab.press("x")
    tab.wait("document.querySelectorAll('#player .side')[1].classList.contains('on')")
    tab.wait("text('#player .note').includes('take 2')")
    assert tab.run("Number(document.querySelector('#player .seek').value)") > 100  # goes on there
    # Take 2 is half as loud as take 0, which is lowered to it.
    tab.press("x")
    tab.wait("text('#player .note').includes('take 0')")
    level = "[...document.querySelectorAll('#player .toggle')].map(b => b.textContent).join()"
    gain = tab.run(f"/\\(−([0-9.]+) dB\\)/.exec({level})?.[1]")
    assert float(gain) == pytest.approx(6.0, abs=0.6)
    tab.run("document.querySelectorAll('#detail .tracks')[1].querySelector('.play').click()")
    tab.wait("text('#player .note').startsWith('melody of choir')")
    playing(tab)
    assert tab.said == []


def test_ratings_are_exported(tab: Tab, client: Client, tmp_path: Path) -> None:
    show(tab, client)
    choose(tab, "a choir")
    tab.run("document.querySelector('#detail .rate [data-stars=\"3\"]').click()")
    tab.wait("text('#n-rated') === '(1)'")
    tab.downloads_to(tmp_path / "down")
    tab.run("click('#export')")
    file, deadline = tmp_path / "down" / "ratings.csv", time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (row,) = csv.DictReader(file.open())
    assert (row["id"], row["rating"], row["prompt"]) == ("choir", "3", "a choir")
    tab.run("click('#detail .actions a')")
    name = tmp_path / "down" / f"{row['clip_id']}.flac"
    while not name.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert name.read_bytes()[:4] == b"fLaC"


def test_texts_of_others_stay_text_and_nothing_comes_from_elsewhere(
    tab: Tab, client: Client
) -> None:
    show(tab, client)
    choose(tab, SCRIPT)
    tab.wait("document.querySelector('#detail img').complete")
    assert tab.run("text('#detail h2')") == SCRIPT
    assert tab.run("document.querySelectorAll('#detail b').length") == 0
    tab.run("click('#show-failed')")
    tab.wait("document.querySelectorAll('.letters li').length === 3")
    assert SCRIPT in tab.run("text('.letters p')")
    assert tab.run("window.hacked") is None
    own = f"http://127.0.0.1:{client.port}/"
    assert [url for url in tab.requests if not url.startswith(own)] == []
    assert tab.said == []


def test_audio_that_is_gone_is_explained(tab: Tab, client: Client) -> None:
    show(tab, client)
    choose(tab, "gone")
    tab.wait("document.querySelector('.screen.lost')")
    assert "The audio is missing" in tab.run("text('.screen')")
    tab.run("click('#detail .actions .play')")
    tab.wait("text('#player .trouble').includes('The audio is missing')")


def test_a_run_is_followed_without_reloading(tab: Tab, tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [], runs=[run_record(state="running")])
    with browsing(storage, tmp_path) as client:
        tab.visit(client.url, width=1440)
        tab.wait("document.querySelector('#rows').textContent.includes('No clip is committed yet')")
        tab.run("window.mark = 'the same document'")
        commit(storage, [clip_row(1, tune(1, 60.0), prompt="the first")], 0)
        tab.wait("document.querySelectorAll('[data-clip]').length === 1")
        assert "a run is making more" in tab.run("document.querySelector('#state').textContent")
        tab.run("document.querySelector('[data-clip] .play').click()")
        playing(tab)
        more = [clip_row(n, tune(n, 0.4), prompt=f"more {n}", mood="x") for n in (2, 3)]
        commit(storage, more, 1, extras=pa.schema([("mood", pa.string())]))
        tab.wait("document.querySelectorAll('[data-clip]').length === 3")
        assert tab.run("document.querySelector('#player .round').classList.contains('on')")
        tab.wait("[...document.querySelectorAll('th')].some(h => h.textContent.includes('mood'))")
        assert tab.run("window.mark") == "the same document"
    tab.wait("document.querySelector('#problem').textContent.includes('The server has ended')")


AXE = """axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>
  [v.id, v.impact, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary]))"""


@pytest.mark.skipif(find_axe() is None, reason="no axe-core (bash tests/install_axe.sh)")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_it_fits_the_window(
    tab: Tab, client: Client, width: int, scheme: Scheme
) -> None:
    script = find_axe()
    assert script is not None
    show(tab, client, width=width, scheme=scheme)
    tab.inject(script)

    def nothing_found(where: str) -> None:
        time.sleep(0.3)
        found: list[Any] = tab.run(AXE)
        assert found == [], where
        assert tab.run("document.documentElement.scrollWidth") == width, where

    nothing_found("list")
    choose(tab, "a choir")
    tab.run("""(() => { const pairs = document.querySelectorAll('#detail .tracks .pair');
      pairs[0].children[0].click(); pairs[1].children[1].click(); })()""")
    tab.run("click('#detail .actions .play')")
    tab.wait("document.querySelector('#player .round').classList.contains('on')")
    tab.run("click('#player .round')")
    nothing_found("detail")
    channels = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(channels) > 3 * 200) == (scheme == "light")
    tab.run("click('#detail .close')")
    tab.run("open_row(" + json.dumps(LONG) + ")")
    tab.wait("document.querySelector('#detail h2')?.textContent.includes('script')")
    nothing_found("long texts")
    tab.run("click('#detail .close')")
    for opener in ("#add-filter", "#choose-columns", "#show-keys"):
        tab.run(f"click('{opener}')")
        nothing_found(opener)
        tab.run("document.querySelector('dialog[open]').close()")
    tab.run("click('#show-failed')")
    tab.wait("document.querySelectorAll('.letters li').length === 3")
    nothing_found("failed")


def test_every_control_names_its_clip(tab: Tab, client: Client) -> None:
    show(tab, client)
    choose(tab, "a choir")
    names = tab.run("""[...document.querySelectorAll('[data-clip] .play, #detail .play')]
      .map(b => b.getAttribute('aria-label'))""")
    assert len(names) == len(rows := [name for name in names if name.startswith("Play ")])
    assert rows[0] == "Play choir take 2: a choir"
    rates = tab.run("[...document.querySelectorAll('.rate button')].map(b => b.ariaLabel)")
    assert rates[4] == "Rate choir take 2: 5 of 5"


def test_the_command_prints_an_address_that_opens(tab: Tab, tmp_path: Path) -> None:
    import subprocess
    import sys

    storage = open_storage(str(tmp_path / "out"))
    commit(storage, [clip_row(1, tune(1, 1.0))])
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "browse", "--output", str(tmp_path / "out"),
         "--no-open"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        tab.visit(process.stdout.readline().strip(), width=1440)
        tab.wait("document.querySelectorAll('[data-clip]').length === 1")
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert pq.read_table(tmp_path / "out" / "clips").num_rows == 1  # it left the output alone
