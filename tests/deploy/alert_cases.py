"""Made-up runs as promtool takes them: for each alert a bad one, in which it fires, and a
good one, in which nothing does.

A series is written in promtool's notation: `0+1x60` begins at 0 and grows by 1, 60 times, a minute
apart.
"""

from __future__ import annotations

from typing import Any

P = "ray_musicgen_batch_"
MINUTES = 90


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    labels = {"run_id": "r1"} | labels if name.startswith(P) else labels
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


def run(**changed: str) -> list[dict[str, str]]:
    """The series of a run of two replicas that is well; `changed` says other values of a metric, of
    both replicas."""
    values = {
        "slots": f"8x{MINUTES}",
        "slots_busy": f"7x{MINUTES}",
        "clips_waiting": f"4x{MINUTES}",
        "clips_uncommitted": f"3x{MINUTES}",
        "clips_total": f"0+6x{MINUTES}",
        "steps_total": f"0+9000x{MINUTES}",
        "audio_seconds_total": f"0+60x{MINUTES}",
    } | changed
    return [
        series(P + name, text, replica=replica) for name, text in values.items() for replica in "ab"
    ]


COMMITS = {
    "replica": "a",
    "kind": "commit",
}
FAILED = {"replica": "a", "stage": "prepare", "error_class": "BadReferenceError"}
WELL = [
    *run(),
    series(P + "work_seconds_total", f"0+3x{MINUTES}", **COMMITS),
    series("up", f"1x{MINUTES}", job="musicgen-ray", instance="10.0.0.1:8080"),
    series("kube_job_status_failed", f"0x{MINUTES}", job_name="musicgen-nightly-1"),
    series("kube_cronjob_status_last_successful_time", f"0x{MINUTES}", cronjob="musicgen-nightly"),
]
# By alert: the series of a bad run, a minute at which it fires, and one at which it does not yet.
BAD: dict[str, tuple[list[dict[str, str]], int, int]] = {
    "MusicgenStalled": (run(clips_total=f"0+6x9 60x{MINUTES}"), 45, 25),
    "MusicgenDeadLetters": (
        [*run(), series(P + "failures_total", f"_x9 1x{MINUTES}", **FAILED)],
        11,
        8,
    ),
    "MusicgenManyDeadLetters": (
        [
            *run(clips_total=f"0+1x{MINUTES}"),
            series(P + "failures_total", f"0+1x{MINUTES}", **FAILED),
        ],
        20,
        9,
    ),
    "MusicgenReplicasMissing": (
        [
            *(each for each in run() if 'slots{run_id="r1",replica="b"' not in each["series"]),
            series(P + "slots", f"8x9 stale _x{MINUTES}", replica="b"),
        ],
        30,
        15,
    ),
    "MusicgenStarved": (run(slots_busy=f"1x{MINUTES}", clips_waiting=f"0x{MINUTES}"), 30, 10),
    "MusicgenCommitsSlow": (
        [*run(), series(P + "work_seconds_total", f"0+42x{MINUTES}", **COMMITS)],
        30,
        5,
    ),
    "MusicgenNodeSilent": (
        [
            *run(),
            series("up", f"1x9 0x{MINUTES}", job="musicgen-ray", instance="10.0.0.1:8080"),
        ],
        20,
        12,
    ),
    "MusicgenNightlyFailed": (
        [
            series(
                "kube_job_status_failed",
                f"0x9 1x{MINUTES}",
                job_name="musicgen-nightly-1",
                reason="PodFailurePolicy",
            )
        ],
        11,
        8,
    ),
    "MusicgenNightlyMissed": (
        [
            series(
                "kube_cronjob_status_last_successful_time",
                f"-{27 * 3600}x{MINUTES}",
                cronjob="musicgen-nightly",
            )
        ],
        15,
        5,
    ),
}


def case(given: list[dict[str, str]], expected: list[dict[str, Any]]) -> dict[str, Any]:
    """One case of `promtool test rules`."""
    return {
        "interval": "1m",
        "input_series": given,
        "alert_rule_test": expected,
    }
