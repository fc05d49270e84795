"""What Ray itself says on a normal run: nothing."""

import os
from pathlib import Path

import pytest
import ray

from pipeline.config import JobConfig
from pipeline.runtime import ray_cluster
from pipeline.runtime.ray_cluster import rays_own_lines_left_out
from pipeline.runtime.ray_health import RayGoneError

OWN = (
    b"[2026-11-28 12:52:09,548 I 28203 28203] logging.cc:303: Set ray log level from environment\n"
)
FATAL = b"[2026-11-28 13:07:57,510 C 16144 16144] (raylet) node_manager.cc:3576: Check failed\n"


def test_lines_of_its_start_are_left_out_and_others_are_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with rays_own_lines_left_out():
        os.write(2, OWN + b"something else\n" + FATAL)

    assert capfd.readouterr().err == "something else\n" + FATAL.decode()


def test_what_was_held_appears_although_the_start_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        with rays_own_lines_left_out():
            os.write(2, b"why\n")
            raise OSError("no port")

    with pytest.raises(OSError, match="no port"):
        start()

    assert capfd.readouterr().err == "why\n"


@pytest.mark.ray
def test_a_start_that_takes_too_long_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    told = {"model": {"name": "tiny"}, "run": {"manifest": "m.parquet", "output": "out"}}
    config = JobConfig.model_validate(told)

    with pytest.raises(RayGoneError, match=r"Ray did not start in time.*RAY_raylet_start_wait"):
        ray_cluster.start_ray(config)


def test_what_ray_tells_of_the_cluster_stays_off_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it would break the JSON document of an answer."""
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", None)
    config = JobConfig.of(model="tiny", manifest="m.parquet", output=str(tmp_path))
    ray_cluster.start_ray(config)
    say = ray._private.worker.print_to_stdstream

    for text in ("4x the maximum expected startup concurrency (2)", "out of memory on node 7"):
        said = {"lines": [text], "pid": "raylet", "is_err": False, "ip": None}
        say(said, ignore_prefix=False)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "out of memory on node 7" in captured.err
    assert "startup concurrency" not in captured.err
