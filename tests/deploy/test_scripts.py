"""The scripts: Slurm's, where `srun` and `scontrol` only note what they are told, and the drain."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli.root import main
from pipeline.config import JobConfig
from tests.deploy.files import (
    FOLDER,
    SLURM_CPUS,
    SLURM_GPUS,
    SLURM_NODES,
    config_of,
    deployment,
    run_sbatch,
    sbatch_options,
)


def slurm_words(folder: Path, right: str = "", wrong: str = "") -> list[str]:
    """What srun is told, where in the script `wrong` stands for `right`."""
    text = (FOLDER / "slurm.sbatch").read_text()
    assert right in text
    return run_sbatch(text.replace(right, wrong) if right else text, folder, code=0)[0]


def slurm_config(words: list[str]) -> JobConfig:
    command = words[words.index("--") + 1 :]
    assert command[:2] == ["env", "RAY_ADDRESS=auto"]
    return config_of(command[2:])


def slurm_node(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of `ray symmetric-run` and of the `ray start` that it makes on each node."""
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    assert words[:2] == ["ray", "symmetric-run"]
    own = symmetric_run.make_context("symmetric-run", words[2 : words.index("--")])
    rest = list(own.params["ray_args_and_entrypoint"])
    return own.params, start.make_context("start", ["--address=n1:24711", *rest]).params


class TestSlurm:
    """The batch script, where `srun` and `scontrol` only note what they are told."""

    def test_a_run_gets_every_gpu_and_drains_before_the_time_limit(self, tmp_path: Path) -> None:
        options = sbatch_options((FOLDER / "slurm.sbatch").read_text())

        config = slurm_config(slurm_words(tmp_path))

        hours, minutes, seconds = map(int, options["time"].split(":"))
        limit_s = 3600 * hours + 60 * minutes + seconds
        assert config.run.output == "/data/my music"
        assert config.cluster.replicas == SLURM_NODES * SLURM_GPUS
        assert config.cluster.gpus_per_replica == 1
        assert options["ntasks-per-node"] == "1"
        assert int(options["gpus-per-node"]) * config.cluster.cpus_per_replica < int(
            options["cpus-per-task"]
        )
        assert config.run.max_runtime_s
        assert config.run.max_runtime_s + config.run.drain_s + 300 <= limit_s

    def test_symmetric_run_knows_its_options(self, tmp_path: Path) -> None:
        own, node = slurm_node(slurm_words(tmp_path))

        assert (own["address"], own["min_nodes"]) == ("n1:24711", SLURM_NODES)
        assert (node["num_gpus"], node["num_cpus"]) == (SLURM_GPUS, SLURM_CPUS)

    @pytest.mark.parametrize(("code", "requeued"), [(0, False), (3, False), (5, True), (1, False)])
    def test_what_was_drained_goes_back_to_the_queue(
        self, code: int, requeued: bool, tmp_path: Path
    ) -> None:
        text = (FOLDER / "slurm.sbatch").read_text()

        _, calls, ended = run_sbatch(text, tmp_path, code)

        assert ("requeue 4711" in calls) == requeued
        assert ended == code

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("--slots 32", "--slotz 32"),
            ("--part-seconds", "--part-second=x"),
            ("--num-gpus", "--num-gpu-s"),
            ("--min-nodes", "--min-node-s"),
        ],
    )
    def test_a_planted_typo_is_told(self, right: str, wrong: str, tmp_path: Path) -> None:
        words = slurm_words(tmp_path, right, wrong)

        with pytest.raises(click.UsageError):
            slurm_config(words), slurm_node(words)


SCENE = """
mkdir bin && cat > bin/musicgen-batch <<'END'
#!/bin/bash
trap 'sleep 1; echo driver drained; exit 5' TERM
while :; do sleep 0.1; done
END
chmod +x bin/musicgen-batch
bin/musicgen-batch run --slots 3 &
(exec -a 'ray::MapWorker(MapBatches(Replica))' sleep 1.5) && echo replica done &
sleep 0.3
bash drain.sh
echo gone
"""


def test_a_pod_goes_when_its_driver_and_its_replicas_are_done(tmp_path: Path) -> None:
    """In a process namespace of its own: drain.sh signals by name."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("no process namespaces here")
    shutil.copy(FOLDER / "drain.sh", tmp_path)
    (tmp_path / "scene.sh").write_text(SCENE)

    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "bash", "scene.sh"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert sorted(done.stdout.splitlines()[:-1]) == ["driver drained", "replica done"]
    assert done.stdout.splitlines()[-1] == "gone"


@pytest.mark.parametrize("script", ["slurm.sbatch", "drain.sh"])
def test_scripts_are_shell(script: str, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    broken = tmp_path / script
    broken.write_text((FOLDER / script).read_text().replace("\ndone", "").replace("\nfi", ""))
    assert subprocess.run(["bash", "-n", str(broken)], check=False, capture_output=True).returncode
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(FOLDER / script)], check=True)


class TestWeights:
    """The script of the Job that fills the volume, where `musicgen-batch` only notes its calls."""

    def filled(self, folder: Path, fails: bool = False) -> tuple[int, list[str]]:
        stub = folder / "musicgen-batch"
        stub.write_text(
            f'#!/bin/bash\necho "$@" >> {folder}/calls\n'
            f'[ "$1" != convert ] || {{ mkdir -p "$3" && exit {int(fails)}; }}\n'
        )
        stub.chmod(0o755)
        (folder / "calls").write_text("")
        (container,) = deployment().weights["Job"]["spec"]["template"]["spec"]["containers"]
        environment = {item["name"]: item["value"] for item in container["env"]}
        environment |= {"FOLDER": f"{folder}/models/small", "PATH": f"{folder}:/usr/bin:/bin"}
        done = subprocess.run(
            [*container["command"], *container["args"]], env=environment, check=False
        )
        return done.returncode, (folder / "calls").read_text().splitlines()

    def test_weights_are_converted_once_and_always_checked(self, tmp_path: Path) -> None:
        target = f"{tmp_path}/models/small"
        convert = f"convert facebook/musicgen-small {target} --dtype fp16"

        assert self.filled(tmp_path) == (0, [convert, f"doctor --model {target}"])
        assert self.filled(tmp_path) == (0, [f"doctor --model {target}"])

    def test_what_was_cut_short_is_converted_again(self, tmp_path: Path) -> None:
        code, calls = self.filled(tmp_path, fails=True)
        assert (code, len(calls)) == (1, 1)
        assert self.filled(tmp_path)[1][0].startswith("convert ")

    def test_its_commands_are_ours(self, tmp_path: Path) -> None:
        for words in (call.split() for call in self.filled(tmp_path)[1]):
            main.commands[words[0]].make_context(words[0], words[1:])
            with pytest.raises(click.UsageError):
                main.commands[words[0]].make_context(words[0], [*words[1:], "--no-such-flag"])
