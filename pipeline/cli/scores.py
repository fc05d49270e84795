"""The command `score`: scores of clips that stand, and figures of the whole set."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from manifests.uris.policy import ReferenceAccess, ReferencePolicy
from pipeline.audio.scores.settings import parse
from pipeline.audio.scores.table import SCORERS
from pipeline.cli.options import joined, reference_options, reference_policy
from pipeline.cli.speech import answer, is_quiet, say
from pipeline.cli.upkeep import held_lease, on_output
from pipeline.config import ConfigError
from pipeline.storage import Storage, open_storage
from pipeline.telemetry.words import counted

if TYPE_CHECKING:
    from pipeline.report.scoring import References, ScoreTally

INTERVAL_S = 10.0


@click.command(
    epilog="""\b
Examples:
  musicgen-batch score --output out/demo --score melody,key
  musicgen-batch score --output s3://b/music --score clap=models/clap
  musicgen-batch score --output out/demo --set-figures spectrum --reference-audio refs/
"""
)
@click.option(
    "--score",
    "wanted",
    multiple=True,
    callback=joined,
    help=f"Scorers, as in melody,clap=FOLDER. Known: {', '.join(SCORERS)}.",
)
@click.option(
    "--references-from",
    metavar="FOLDER",
    help="What relative addresses of melodies count from; default: the manifest of the clip's run.",
)
@click.option(
    "--set-figures",
    metavar="EMBEDDER",
    help="FAD and KAD of all clips against --reference-audio, in the space of clap=FOLDER, or of "
    "spectrum, which needs no weights.",
)
@click.option("--reference-audio", metavar="FOLDER", help="With --set-figures: real audio.")
@click.option(
    "--group-by",
    metavar="COLUMN",
    default="prompt",
    show_default=True,
    help="With --set-figures: figures for each value of this column too.",
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, help="CPU threads of a scorer.")
@click.option("--wait", is_flag=True, help="Wait for a run on this output to end.")
@reference_options
@on_output
def score(
    storage: Storage,
    wanted: str | None,
    references_from: str | None,
    set_figures: str | None,
    reference_audio: str | None,
    **others: Any,
) -> None:
    """Score the clips that an output holds; adds scores/, changes no clip.

    Stopped or killed, the same command goes on: what is scored is not scored again.
    """
    if not wanted and not set_figures:
        raise click.UsageError("name what to do: --score melody, or --set-figures spectrum")
    if bool(set_figures) != bool(reference_audio):
        raise click.UsageError("--set-figures and --reference-audio FOLDER go together")
    group_by, threads, wait = (others.pop(name) for name in ("group_by", "threads", "wait"))
    policy = reference_policy(others)
    specs = _specs(wanted) if wanted else ()
    import torch

    torch.set_num_threads(threads)
    facts: dict[str, Any] = {}
    lines: list[str] = []
    with held_lease(storage, wait, "score") as lease:
        if specs:
            tally = _score(lease, specs, _references(storage, references_from, policy))
            facts |= tally.facts()
            lines += _words(tally)
        if set_figures and reference_audio:
            figures = _measure(lease, set_figures, reference_audio, group_by)
            facts["set_figures"] = asdict(figures)
            lines.append(figures.text())
    answer("\n".join(lines), facts)


def _specs(text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _references(storage: Storage, folder: str | None, policy: ReferencePolicy) -> "References":
    """Where melodies lie: beside the manifests of the runs, as their records name them. Rows of an
    output that is not local name no files of this machine, unless the policy lets them."""
    from pipeline import ledger
    from pipeline.report.scoring import References

    runs = ledger.read_runs(storage)
    manifests = {run["run_id"]: _manifest_of(run) for run in runs}
    if folder is not None:
        manifests = dict.fromkeys(manifests, f"{folder.rstrip('/')}/manifest")
    return References(manifests, ReferenceAccess(policy, storage.options, storage.root))


def _manifest_of(run: dict[str, Any]) -> str:
    """The manifest of a run; that of a folder is a file below it."""
    config = run.get("config", {})
    manifest = str(config.get("run", config).get("manifest", ""))
    return manifest if manifest.endswith(".parquet") else f"{manifest.rstrip('/')}/manifest"


def _score(lease: Any, specs: Any, references: "References") -> "ScoreTally":
    from pipeline.audio.scores.scoring import open_scorer
    from pipeline.report.scoring import score_output
    from pipeline.telemetry.progress import ProgressView

    scorers = [open_scorer(spec) for spec in specs]
    views: list[ProgressView] = []

    def watch(tally: "ScoreTally") -> None:
        if not views:
            views.append(ProgressView(tally, INTERVAL_S, sys.stderr))
        views[0].update()

    try:
        return score_output(lease, scorers, references, (lambda _: None) if is_quiet() else watch)
    finally:
        for view in views:
            view.close()


def _words(tally: "ScoreTally") -> list[str]:
    lines = []
    for name, each in tally.scorers.items():
        mean = "" if each.mean is None else f" (mean {each.mean:.4f})"
        lines.append(
            f"{name}: {counted(each.scored, 'clip')} scored{mean}, {each.known} had a score, "
            f"{each.silent} with nothing to score, {each.left} left"
        )
    lines += [f"left: {reason} ({counted(n, 'clip')})" for reason, n in tally.reasons.items()]
    return lines


def _measure(lease: Any, embedder: str, reference: str, group_by: str) -> Any:
    from pipeline.audio.scores.scoring import open_embedder
    from pipeline.report.set_figures import measure_sets

    storage = open_storage(reference, lease.storage.options)
    say(f"hearing {reference} and the clips")
    return measure_sets(lease, open_embedder(embedder), storage, group_by)
