"""The report as people see it: a file in a headless Chromium, on a phone and on a desk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.report.page import build_report
from tests.browser import Scheme, Tab, chromium, find_chromium
from tests.pipeline.report.outputs import RATE_HZ, clip_row, letter, tune, write_output

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine")

LONG = "an-id-without-any-space-" * 8


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of an output with clips of every sort, once with its audio and once beside it."""
    folder = tmp_path_factory.mktemp("report")
    made = [clip_row(i, tune(i, 1.5 + i / 4)) for i in range(5)]
    made += [clip_row(10 + i, tune(10 + i, 2.0), id="choir", take=i) for i in range(3)]
    made += [clip_row(20, np.zeros((1, RATE_HZ), np.float32), id=LONG, prompt="shh " * 90)]
    bad = [letter(i, message=f"s3://bucket/{LONG}/{i}.wav: no such file; then `retry`")
           for i in range(7)]  # fmt: skip
    storage = write_output(folder, made, bad)
    found = {}
    for name, embed in (("embedded", True), ("linked", False)):
        found[name] = folder / f"{name}.html"
        found[name].write_text(build_report(storage, sample=20, embed=embed))
    return found


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with (
        tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile,
        chromium(Path(profile)) as opened,
    ):
        yield opened


CONTRAST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const rgb = parse(getComputedStyle(element).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const seen = ".sub, .tile b, .tile span, .prompt, .chip, .levels, .group p, .group small, nav a, "
    + ".panel h3, th, td, .all, summary, footer";
  for (const element of document.querySelectorAll(seen)) {
    const a = light(parse(getComputedStyle(element).color)), b = light(behind(element));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, element.className + ": " + element.textContent.trim()];
  }
  return worst;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_the_window_and_can_be_read(
    tab: Tab, pages: dict[str, Path], width: int, scheme: Scheme
) -> None:
    tab.open(pages["embedded"], width=width, scheme=scheme)

    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.requests == []
    assert tab.said == []
    pictures = tab.run("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(pictures) >= 9
    assert all(pictures)
    contrast, where = tab.run(CONTRAST)
    assert contrast >= 4.5, where
    channels = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(channels) > 3 * 200) == (scheme == "light")
    columns = tab.run("getComputedStyle(document.querySelector('.clips')).gridTemplateColumns")
    assert len(columns.split()) == (1 if width == 390 else 4)
    lines = tab.run("""[...document.querySelectorAll('.title > h2, .title > button, .knobs label')]
        .map(e => e.getClientRects()[0].height / parseFloat(getComputedStyle(e).fontSize))""")
    assert len(lines) >= 4
    assert max(lines) < 2.7, "a heading or a control is broken into two lines"


@pytest.mark.parametrize("kind", ["embedded", "linked"])
def test_a_click_plays_a_clip_and_shows_where_it_is(
    tab: Tab, pages: dict[str, Path], kind: str
) -> None:
    tab.open(pages[kind], width=1440)
    tab.run("window.cards = [...document.querySelectorAll('#listen .clip[data-audio]')]")
    tab.run("window.audio = n => document.getElementById(cards[n].dataset.audio)")

    tab.run("cards[0].querySelector('.play').click()")
    tab.wait("audio(0).currentTime > 0.1")
    tab.wait("Number(cards[0].style.getPropertyValue('--played')) > 0.02")
    assert tab.run("cards[0].classList.contains('playing')")

    tab.run("cards[1].querySelector('.play').click()")  # one at a time
    tab.wait("!audio(1).paused && audio(0).paused")
    tab.run("cards[1].querySelector('.play').click()")
    tab.wait("audio(1).paused")
    assert tab.run("[...document.querySelectorAll('.unplayable')].every(p => p.hidden)")
    assert tab.said == []


def test_play_all_goes_from_clip_to_clip_until_it_is_stopped(
    tab: Tab, pages: dict[str, Path]
) -> None:
    tab.open(pages["embedded"], width=1440)
    tab.run("window.all = [...document.querySelectorAll('#listen audio')]")
    tab.run("window.button = document.querySelector('.all')")

    tab.run("button.click()")
    tab.wait("!all[0].paused")
    assert tab.run("button.textContent") == "Stop"
    tab.run("all[0].dispatchEvent(new Event('ended'))")
    tab.wait("!all[1].paused")
    tab.run("button.click()")
    tab.wait("all.every(a => a.paused)")
    assert tab.run("button.textContent") == "Play all"


def test_every_section_can_be_reached_from_the_top(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["embedded"], width=390)

    targets = tab.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")

    assert targets == ["#listen", "#takes", "#numbers", "#suspicious", "#failures", "#runs"]
    for target in targets:
        tab.run(f"document.querySelector('nav a[href=\"{target}\"]').click()")
        tab.wait(f"location.hash === '{target}'")
        assert tab.run(f"document.querySelector('{target}').getClientRects().length") == 1
