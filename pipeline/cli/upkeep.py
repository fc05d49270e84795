"""Commands on an output that exists: status, verify, compact, gc, report."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from manifests.reader import Manifest
from manifests.uris.placeholders import literal
from pipeline.cli.errors import EXIT_CRASH, errors_to_exit_codes
from pipeline.cli.options import storage_pairs
from pipeline.cli.speech import answer, say, speech_options, verbose_option, wants_json, warn
from pipeline.config import ConfigError, JobConfig, check_location
from pipeline.config_file import (
    fill_address,
    inherited_settings,
    load_config,
    run_placeholders,
)
from pipeline.ledger.id_set import NO_IDS, Ids
from pipeline.storage import Storage, StorageError, open_storage
from pipeline.telemetry.words import counted

if TYPE_CHECKING:
    from pipeline.ledger.lease import Lease
    from pipeline.ledger.verify import VerifyReport

OUTPUT_FOLDERS = ("clips", "failed", "runs", "lease")


def on_output(command: Callable[..., None]) -> Callable[..., None]:
    """`--output` and `--storage-option`; the command gets the storage, which exists."""

    @errors_to_exit_codes
    def opened(output: str, storage_options: tuple[str, ...], **rest: Any) -> None:
        place = fill_address(output, "--output")
        command(existing_output(place, storage_pairs(storage_options)), **rest)

    opened.__doc__, opened.__name__ = command.__doc__, command.__name__
    opened.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    options = click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="fsspec option, e.g. endpoint_url=http://localhost:7480; no credentials.",
    )
    output = click.option("--output", required=True, help="Root of the dataset.")
    return output(options(speech_options(verbose_option(opened))))


def existing_output(output: str, options: dict[str, Any]) -> Storage:
    """The storage of an output; ConfigError where there is none, or it can't be reached."""
    storage = _standing_output(output, options)
    if storage is None:
        raise ConfigError(
            f"{output}: no such output (none of {', '.join(OUTPUT_FOLDERS)} is there); check "
            "--output, or let `run` make it"
        )
    return storage


def _standing_output(output: str, options: dict[str, Any]) -> Storage | None:
    """The storage of an output; None where none is there."""
    try:
        storage = open_storage(check_location(output, "--output"), options)
        found = any(storage.exists(folder) for folder in OUTPUT_FOLDERS)
    except StorageError as error:
        raise ConfigError(f"--output {output} can't be used: {error}") from error
    return storage if found else None


def continued_config(
    config: str | None, flags: dict[str, Any], *, may_be_new: bool = False
) -> JobConfig:
    """Settings for a command on an output: those of its last run show through.

    Args:
        config: The settings file, if any.
        flags: As `load_config` takes them.
        may_be_new: Whether the output need not exist.
    """
    from pipeline import ledger

    where = {"manifest": "-", "model": "-"} | flags
    placeholders = run_placeholders(flags.get("run_id"))
    found = load_config(config, where, placeholders=placeholders)
    open_output = _standing_output if may_be_new else existing_output
    storage = open_output(found.run.output, found.run.storage_options)
    runs = ledger.read_runs(storage) if storage else []
    earlier = inherited_settings(runs[-1]["config"]) if runs else None
    return load_config(config, flags, earlier, placeholders=placeholders)


@click.command(epilog="Example: musicgen-batch status --output s3://bucket/music")
@on_output
def status(storage: Storage) -> None:
    """What the output holds and how its last run is doing; reads storage only."""
    from pipeline.run_record import Status, read_status

    found: Status = read_status(storage)
    answer(found.text(), asdict(found))


@click.command(
    epilog="""\b
Examples:
  musicgen-batch verify --output out/demo
  musicgen-batch verify --output out/demo --repair
"""
)
@click.option("--fast", is_flag=True, help="Trust sizes: do not read the audio to hash it.")
@click.option(
    "--repair", is_flag=True, help="Have the next run make again what is damaged or missing."
)
@click.option("--dry-run", is_flag=True, help="With --repair: only say what it would do.")
@click.option("--wait", is_flag=True, help="With --repair: wait for a run on this output to end.")
@on_output
def verify(storage: Storage, fast: bool, repair: bool, dry_run: bool, wait: bool) -> None:
    """Check that every clip stands once, with its audio, size and sha256.

    With --repair, clips whose audio is damaged or missing are taken out of the dataset, so that the
    next run makes them again, and them alone; parts that cannot be read are moved to damaged/.
    """
    from pipeline.ledger.repair import repair as repair_output
    from pipeline.ledger.verify import verify as verify_output

    if not repair:
        report = verify_output(storage, deep=not fast)
        _say_problems(report)
        answer(_found(report), _facts(report) | {"ok": report.ok})
        if not report.ok:
            say(_way_out(report))
            raise click.exceptions.Exit(EXIT_CRASH)
        return
    with held_lease(storage, wait, "verify") as lease:
        done = repair_output(storage, lease, deep=not fast, dry_run=dry_run)
        if not dry_run:
            keep_current(lease)
    _say_problems(done.found)
    for place in done.parts_moved:
        say(f"{'would move' if dry_run else 'moved'} a part that can't be read to {place}")
    clips = counted(done.n_clips, "clip")
    clips = f"{clips} would be taken out" if dry_run else f"{clips} taken out"
    answer(
        f"{_found(done.found)}\n{clips} because the audio is damaged or missing, "
        f"{counted(len(done.parts_moved), 'unreadable part')} "
        f"{'would be moved' if dry_run else 'moved'}; `run` makes again what is missing; "
        f"left: {counted(done.left, 'problem')}",
        asdict(done) | {"ok": not done.left, "dry_run": dry_run},
    )
    if done.left:
        raise click.exceptions.Exit(EXIT_CRASH)


def _say_problems(report: "VerifyReport") -> None:
    for problem in report.problems:
        if not wants_json():
            warn(str(problem))


def _way_out(report: "VerifyReport") -> str:
    """What mends the problems that were found."""
    kinds = {problem.kind for problem in report.problems}
    ways = []
    if kinds - {"doubled", "unreadable audio"}:
        ways.append(
            "`verify --repair` takes damaged clips and parts out; the next `run` makes them again"
        )
    if "unreadable audio" in kinds:
        ways.append("audio that can't be read may be whole: check the store, then verify again")
    if "doubled" in kinds:
        ways.append("`compact` drops the second copies")
    return "; ".join(ways)


def _facts(report: "VerifyReport") -> dict[str, Any]:
    return asdict(report) | {"marks": report.marks.as_json()}


def _found(report: "VerifyReport") -> str:
    counts = (
        f"{counted(report.n_clips, 'clip')} in {counted(report.n_parts, 'part')}: "
        f"{counted(len(report.problems), 'problem')}; benign: "
        f"{counted(report.n_superseded, 'superseded clip')}, "
        f"{counted(report.n_replaced_parts, 'replaced part')}, "
        f"{counted(report.n_unreferenced, 'unreferenced audio object')} "
        f"({counted(report.unreferenced_bytes, 'byte')}), "
        f"{counted(report.n_leftovers, 'leftover')}, "
        f"{counted(report.n_foreign, 'object of others', 'objects of others')}"
    )
    return "\n".join([counts, *report.marks.lines])


@click.command(
    epilog="""\b
Examples:
  musicgen-batch compact --output out/demo
  musicgen-batch compact --output out/demo --prune --manifest demo.parquet
"""
)
@click.option("--prune", is_flag=True, help="Also drop superseded clips and settled dead letters.")
@click.option("--manifest", help="With --prune: keep what this asks for, not just what is newest.")
@click.option("--dry-run", is_flag=True, help="Only list the parts that would be replaced.")
@click.option("--wait", is_flag=True, help="Wait for a run on this output to end.")
@on_output
def compact(storage: Storage, prune: bool, manifest: str | None, dry_run: bool, wait: bool) -> None:
    """Merge small parts into large ones, with the same columns in all of them.

    Parts of an earlier schema version become parts of this one; clips and audio stay as they are.

    Our own readers see every clip once throughout; others may see a clip twice for the moment
    between the publication of a merged part and the removal of those that it replaces.
    """
    from pipeline.ledger import maintain

    with held_lease(storage, wait, "compact") as lease:
        wanted = NO_IDS if manifest is None else _wanted(storage, manifest)
        done = maintain.compact(storage, lease, prune=prune, wanted=wanted, dry_run=dry_run)
        if not dry_run:
            keep_current(lease)
    if dry_run:
        for path in done.removed:
            say(f"would replace {path}")
    answer(
        f"{counted(done.n_parts_before, 'part')} {'would become' if dry_run else 'became'} "
        f"{done.n_parts_after}; {'would drop' if dry_run else 'dropped'} "
        f"{counted(done.n_doubled_dropped, 'doubled clip')}, "
        f"{counted(done.n_superseded_dropped, 'superseded clip')}, "
        f"{counted(done.n_letters_dropped, 'dead letter')}",
        asdict(done) | {"dry_run": dry_run},
    )


@click.command(
    epilog="""\b
Examples:
  musicgen-batch gc --output out/demo --dry-run
  musicgen-batch gc --output out/demo --min-age-s 3600
"""
)
@click.option(
    "--min-age-s",
    type=click.FloatRange(0),
    default=3600.0,
    show_default=True,
    help="Younger objects stay.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--wait", is_flag=True, help="Wait for a run on this output to end.")
@on_output
def gc(storage: Storage, min_age_s: float, dry_run: bool, wait: bool) -> None:
    """Remove audio that no part names, such as a killed run leaves behind.

    Only objects with the names that this program gives are removed; other files in the output stay.
    """
    from pipeline.ledger import maintain

    with held_lease(storage, wait, "gc") as lease:
        done = maintain.gc(storage, lease, min_age_s=min_age_s, dry_run=dry_run)
    if dry_run:
        for info in done.removed:
            say(f"would remove {info.path} ({counted(info.size, 'byte')})")
    answer(
        f"{'would remove' if dry_run else 'removed'} {counted(len(done.audio), 'audio object')} "
        f"({counted(done.audio_bytes, 'byte')}), {counted(len(done.leftovers), 'leftover')}, "
        f"{counted(len(done.leases), 'ended lease')}",
        asdict(done) | {"dry_run": dry_run},
    )


@click.command(epilog="Example: musicgen-batch report --output out/demo --sample 24")
@click.option(
    "--sample",
    type=click.IntRange(0, 500),
    default=12,
    show_default=True,
    help="Clips with players, drawn at random.",
)
@click.option("--seed", type=int, default=0, help="Another seed draws other clips.")
@click.option("--embed/--link", default=True, help="Audio inside the page, or linked beside it.")
@on_output
def report(storage: Storage, sample: int, seed: int, embed: bool) -> None:
    """Write report.html into the output: figures, players, failures."""
    from pipeline.report import build_report

    page = build_report(storage, sample=sample, seed=seed, embed=embed)
    storage.put("report.html", page.encode())
    where = storage.uri("report.html")
    answer(where, {"report": where})


def _wanted(storage: Storage, manifest: str) -> Ids:
    """The clips that a manifest asks for, under the settings of the output's last run."""
    from pipeline.planning.expand import PlanSpec
    from pipeline.planning.model_limits import inspect_model, limits_of
    from pipeline.planning.scan import wanted_clips

    where = {"output": literal(storage.root), "manifest": manifest}
    config = continued_config(None, where | {"storage_options": storage.options})
    opened = Manifest.open(config.run.manifest, storage_options=config.run.storage_options)
    limits = limits_of(inspect_model(config), config.references.separation, config.marks)
    options = config.run.storage_options
    return wanted_clips(PlanSpec(opened, config.generation, limits, options, config.references))


def keep_current(lease: "Lease", *, force: bool = False) -> list[str]:
    """Writes the dataset's card and what goes with it, as the last run was told; names of the files
    that were written.

    Args:
        lease: Of the output, held.
        force: Write all of them, `metadata.parquet` for any number of clips.
    """
    from pipeline.dataset.keep import refresh
    from pipeline.ledger.runs import read_runs
    from pipeline.ledger.settings import MOST_METADATA_CLIPS

    if force:
        return refresh(lease, say, metadata_clips=None, force=True)
    runs = read_runs(lease.storage)
    parts = inherited_settings(runs[-1]["config"]).get("parts", {}) if runs else {}
    return refresh(lease, say, metadata_clips=parts.get("metadata_clips", MOST_METADATA_CLIPS))


def held_lease(storage: Storage, wait: bool, owner: str) -> "Lease":
    """The lease of an output, with its heartbeat.

    Args:
        storage: Root of the output.
        wait: For a run that holds it to end.
        owner: The command that takes it.
    """
    from pipeline.ledger.lease import Lease

    lease = Lease.acquire(storage, wait=wait, on_message=say, owner=owner)
    lease.start_heartbeat()
    return lease
