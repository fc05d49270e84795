"""Rows that can't be made: each is a dead letter, and the rows beside it are made."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from tests.errors.case import Row

RATE_HZ = 16_000
READABLE = "give WAV, FLAC, OGG (Vorbis or Opus), MP3 or AIFF"
DEFAULT = "correct it, or leave it empty for the default"

# Rows that are odd, but fine.
GOOD: tuple[dict[str, Any], ...] = (
    {"id": "plain"},
    {"id": "../../etc/passwd"},  # an id is never a path
    {"id": "/café noche%2e%2e"},
    {"id": "through-a-link", "melody_uri": "link.flac"},
    {"id": "up-and-down", "melody_uri": "sub/../good.flac"},
    {"id": "from-silence", "continuation_uri": "silent.flac", "duration_s": 0.5},
)


def _row(what: str, id: str, error_class: str, says: str, **columns: Any) -> Row:
    return Row(what, id, columns, says, error_class)


def _melody(what: str, uri: str, error_class: str, says: str) -> Row:
    return Row(what, f"melody {uri}"[:40], {"melody_uri": uri}, says, error_class)


BAD: tuple[Row, ...] = (
    _row(
        "a negative duration", "negative", "InvalidRow",
        f"duration_s=-1.0 must be more than 0 s; {DEFAULT}", duration_s=-1.0,
    ),
    _row(
        "a duration of 0", "zero", "InvalidRow",
        f"duration_s=0.0 must be more than 0 s; {DEFAULT}", duration_s=0.0,
    ),
    _row(
        "a duration of 75 minutes", "absurd", "InvalidRow",
        "duration_s=4500.0 exceeds 3600 s; shorten it, or split it into several rows",
        duration_s=4500.0,
    ),
    _row(
        "an infinite duration", "infinite", "InvalidRow",
        "duration_s=inf is not finite; write an ordinary number, or leave it empty",
        duration_s=math.inf,
    ),
    _row(
        "half a take", "half-take", "InvalidRow",
        "takes=2.5 is a fraction, not a whole number; write a plain whole number such as 3",
        takes=2.5,
    ),
    _row("no take", "no-take", "InvalidRow", f"takes=0 must be at least 1; {DEFAULT}", takes=0.0),
    _row("5000 takes", "takes", "InvalidRow", f"takes=5000 exceeds 1000; {DEFAULT}", takes=5000.0),
    _row("a negative seed", "seed", "InvalidRow",
         f"seed=-5 must be at least 0; {DEFAULT}", seed=-5),
    _row("guidance of 1000", "cfg", "InvalidRow", f"cfg_coef=1000.0 exceeds 100; {DEFAULT}",
         cfg_coef=1000.0),
    _row("top_p of 1.5", "top-p", "InvalidRow", f"top_p=1.5 exceeds 1; {DEFAULT}", top_p=1.5),
    _row("a negative temperature", "cold", "InvalidRow",
         f"temperature=-1.0 must be at least 0; {DEFAULT}", temperature=-1.0),
    _row(
        "neither a prompt nor a reference", "nothing", "InvalidRow",
        "prompt=null is empty and the row has no reference either; write a prompt, or give "
        "melody_uri, continuation_uri, style_uri", prompt=None,
    ),
    _row("a prompt of 4001 characters", "novel", "InvalidRow",
         "prompt='…' has 4001 characters, over the limit of 4000; shorten it",
         prompt="la " * 1333 + "la"),
    _row("control characters in an id", "a\tb", "InvalidRow",
         "id='a\\tb' holds control characters; remove them"),
    _row("an id of 300 characters", "i" * 300, "InvalidRow",
         "id='…' has 300 characters, over the limit of 256; shorten it"),
    _row("an id that stood in an earlier row", "plain", "DuplicateId",
         "id repeats that of an earlier row; give each row its own id, or use `takes` for "
         "variants"),
    _row("a reference given twice", "twice", "InvalidRow",
         "melody_audio=<5 bytes> stands beside melody_uri; keep one of the two",
         melody_uri="good.flac", melody_audio=b"bytes"),
    _row("embedded audio of 0 bytes", "embedded-empty", "InvalidRow",
         "melody_audio=<0 bytes> is empty (0 bytes); embed an audio file, or leave it null",
         melody_audio=b""),
    _row("embedded bytes that are no audio", "embedded-text", "BadReferenceError",
         f"embedded audio: not an audio file that can be read; {READABLE} (…)",
         melody_audio=b"bytes"),
    _melody("a missing reference", "missing.flac", "ReferenceNotFoundError",
            "{missing.flac}: no such file; correct the path, then `retry`"),
    _melody("a link to nothing", "dangling.flac", "ReferenceNotFoundError",
            "{dangling.flac}: no such file; correct the path, then `retry`"),
    _melody("a link that leads back to itself", "loop.flac", "UnreachableReferenceError",
            "cannot read {loop.flac}: OSError: … (a symbolic link there leads back to itself: "
            "remove it, or choose another path); then `retry`"),
    _melody("a reference of 0 bytes", "empty.wav", "BadReferenceError",
            "{empty.wav}: the file is empty (0 bytes); " + READABLE),
    _melody("a truncated FLAC", "truncated.flac", "BadReferenceError",
            "{truncated.flac}: damaged or truncated audio; copy or export the file again (…)"),
    _melody("a truncated WAV", "truncated.wav", "BadReferenceError",
            "{truncated.wav}: truncated: 3444 bytes are missing; copy the file again"),
    _melody("a reference that is no audio", "notes.txt", "BadReferenceError",
            "{notes.txt}: not an audio file that can be read; " + READABLE + " (…)"),
    _melody("`../` out of the manifest's folder, to what is no audio", "../" * 30 + "etc/hostname",
            "BadReferenceError",
            f"/etc/hostname: not an audio file that can be read; {READABLE} (…)"),
    _melody("AAC", "song.m4a", "BadReferenceError",
            "{song.m4a}: MP4/M4A/AAC is not supported; convert it to WAV, FLAC, OGG (Vorbis or "
            "Opus), MP3 or AIFF (…)"),
    _melody("a silent melody", "silent.flac", "BadReferenceError",
            "the melody is silent (its peak is below -80 dBFS): there is nothing to follow; give "
            "another file, or leave the melody empty"),
    _melody("audio with NaN samples", "nan.wav", "BadReferenceError",
            "{nan.wav}: holds NaN or infinite samples; export it again"),
    _melody("audio without samples", "no-samples.wav", "BadReferenceError",
            "{no-samples.wav}: the file holds no audio samples; give at least one"),
    _melody("a file of 300 MiB", "huge.wav", "UnreachableReferenceError",
            "{huge.wav} has 314,572,800 bytes, more than the limit of 268,435,456; cut or compress "
            "it; then `retry`"),
    _melody("a reference of 16 minutes", "long.wav", "BadReferenceError",
            "{long.wav}: 960 s of audio exceeds the limit of 900 s; cut the part that matters"),
    _melody("nine channels", "nine.wav", "BadReferenceError",
            "{nine.wav}: 9 channels exceed the limit of 8; mix it down to mono or stereo"),
    _melody("a folder as a reference", "sub", "UnreachableReferenceError",
            "{sub} is a folder: name a file in it; then `retry`"),
    _melody("a protocol that is not known", "gopher://host/song.wav", "UnreachableReferenceError",
            "cannot read gopher://host/song.wav: gopher:// is not known here; give a file, "
            "https://, s3:// or gs:// URI; then `retry`"),
    _melody("a reference in a bucket that does not exist", "s3://no-such-bucket-here/song.wav",
            "UnreachableReferenceError", "cannot read s3://no-such-bucket-here/song.wav: … (the "
            "bucket does not exist: create it, or check its name and the endpoint); then `retry`"),
    _row("a style for a model that takes none", "style", "UnsuitableRowError",
         "style is not something that tiny takes (it takes continuation, melody); remove it or "
         "choose another --model", style_uri="good.flac"),
    _row("a beginning as long as the whole clip", "all-given", "UnsuitableRowError",
         "continuation has 0.20 s, but duration_s=0.1 includes it; raise duration_s or cut the "
         "audio",
         continuation_uri="good.flac"),
    _row("windows that do not overlap", "stride", "UnsuitableRowError",
         "extend_stride=35 s must be shorter than the model's window of 10 s; 6 s suits it",
         duration_s=40.0, extend_stride_s=35.0),
    _row("double guidance with `--slots 1`", "beta", "UnsuitableRowError",
         "clip …: double guidance needs 3 rows, the engine has 2 (2 per slot); raise --slots to 2 "
         "or more", cfg_coef_beta=2.0),
)  # fmt: skip


def write_rows(folder: Path) -> Path:
    """The manifest of good and bad rows, and the files that they refer to."""
    _write_references(folder)
    rows = [{"prompt": "a song", "duration_s": 0.1} | row for row in GOOD]
    rows += [{"prompt": "a song", "duration_s": 0.1, "id": row.id} | row.columns for row in BAD]
    names = {name: None for row in rows for name in row}
    path = folder / "rows.parquet"
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def _write_references(folder: Path) -> None:
    def write(
        name: str, n_samples: int, channels: int = 1, rate: int = RATE_HZ, **how: Any
    ) -> Path:
        noise = np.random.default_rng(0).normal(0, 0.2, (n_samples, channels)).clip(-1, 1)
        sf.write(folder / name, noise.astype(np.float32), rate, **how)
        return folder / name

    (folder / "sub").mkdir()
    whole = write("good.flac", 3200)
    (folder / "truncated.flac").write_bytes(whole.read_bytes()[:3000])
    (folder / "truncated.wav").write_bytes(write("whole.wav", 3200).read_bytes()[:3000])
    write("no-samples.wav", 0)
    write("nine.wav", 800, channels=9)
    write("long.wav", 960 * 8, rate=8)
    sf.write(folder / "silent.flac", np.zeros((3200, 1), np.float32), RATE_HZ)
    sf.write(folder / "nan.wav", np.full((99, 1), np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("do re mi fa sol la ti")
    (folder / "song.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(500))
    with (folder / "huge.wav").open("wb") as file:
        file.truncate(300 * 2**20)  # takes no room
    (folder / "link.flac").symlink_to(whole)
    (folder / "dangling.flac").symlink_to(folder / "nothing")
    (folder / "loop.flac").symlink_to(folder / "loop.flac")
