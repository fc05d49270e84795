"""How long the page that browses an output takes: `make bench-browse` writes out/bench/browse.json.

Parts of 256 clips are written first and stay in out/bench/browse-CLIPS. A server is started on
them in this process, and what its page asks for is asked for over HTTP: the first page of clips
while the other parts are still being read, and once all are read, the first page again, others
orders, filters and searches.
"""

import argparse
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.dataset.browse.serve import in_thread, serving
from pipeline.storage import open_storage
from tests.bench.browse_output import write_output
from tests.bench.processes import proc_kb

OUT = Path("out/bench")
CLIPS = 1_000_000
TRIES = 5  # of each question; the slowest counts
WAIT_S = 900
QUERIES: dict[str, dict[str, Any]] = {
    "first_page": {},
    "by_loudness": {"sort": "loudness_lufs"},
    "by_prompt": {"sort": "prompt", "descending": False},
    "search_two_words": {"search": "flute minor"},
    "filter_two_columns": {
        "filters": [
            {"column": "mood", "op": "is", "value": "dark"},
            {"column": "loudness_lufs", "op": "at_most", "value": "-18"},
        ],
        "sort": "true_peak_dbtp",
    },
    "page_10000": {"offset": 500_000},
}


def main() -> None:
    """Writes the output if it is missing, measures, and writes out/bench/browse.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS)
    given = parser.parse_args()
    found = measure(given.clips)
    from tests.bench import machine  # loads torch, which would count as memory of the server

    found |= {"machine": machine.describe(), "date": time.strftime("%Y-%m-%d")}
    (OUT / "browse.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))  # noqa: T201


def measure(n_clips: int) -> dict[str, Any]:
    """The figures for one size."""
    folder = OUT / f"browse-{n_clips}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_output(folder / "out", n_clips, n_heard=100)
        (folder / "done").touch()
    started = time.monotonic()
    with serving(open_storage(str((folder / "out").absolute()))) as served:
        thread = in_thread(served)
        try:
            return _asked(served.url, n_clips, started)
        finally:
            served.stop()
            thread.join()


def _asked(url: str, n_clips: int, started: float) -> dict[str, Any]:
    base, _, token = url.partition("/?token=")

    def get(path: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{base}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def page(query: dict[str, Any]) -> dict[str, Any]:
        return get(f"/api/clips?query={quote(json.dumps(query))}")

    found: dict[str, Any] = {"clips": n_clips}
    cpu = time.process_time()
    while not page({})["clips"]:
        time.sleep(0.02)
    found["start_to_first_clips_s"] = round(time.monotonic() - started, 2)
    found["cpu_to_first_clips_s"] = round(time.process_time() - cpu, 2)
    slowest = 0.0
    while (state := get("/api/state"))["is_loading"]:
        slowest = max(slowest, _seconds(lambda: page({})))
        time.sleep(0.25)
    found["first_page_while_reading_slowest_s"] = round(slowest, 2)
    found["all_parts_read_s"] = round(time.monotonic() - started, 1)
    found["cpu_of_reading_s"] = round(time.process_time() - cpu, 1)
    assert state["n_clips"] == n_clips, state
    for name, query in QUERIES.items():
        took = [_seconds(lambda query=query: page(query)) for _ in range(TRIES)]
        found[f"{name}_s"] = round(max(took), 3)
    found["clips_of_the_search"] = page(QUERIES["search_two_words"])["n_found"]
    found["rss_mb"] = proc_kb(Path("/proc/self/status"), "VmHWM:") * 1024 // 10**6
    found["threads"] = threading.active_count()
    return found


def _seconds(action: Callable[[], Any]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
