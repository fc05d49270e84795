"""The sentence that cards and reports say of marks."""

import pyarrow as pa

from pipeline.audio.marks.counts import count_marks


def test_rows_with_marks_are_counted_and_named() -> None:
    clips = pa.table(
        {
            "c2pa": ["embedded", "embedded", "sidecar", None],
            "watermark": pa.array([None, None, None, "audioseal_wm_16bits"]),
        }
    )

    counts = count_marks(clips)

    assert (counts.clips, counts.c2pa, counts.watermarked) == (4, 3, 1)
    assert count_marks(clips).text == (
        "signed C2PA manifest: 3 of 4 clips (2 inside the file, 1 in a .c2pa sidecar); watermark "
        "in the samples: 1 of 4 clips; `ai_generated` in the row and provenance in the file's "
        "comment tag: all clips"
    )


def test_rows_of_earlier_versions_have_none() -> None:
    words = count_marks(pa.table({"clip_id": ["a", "b"]})).text
    assert words.startswith("signed C2PA manifest: no clip; watermark in the samples: no clip;")
    nothing = pa.table({"clip_id": pa.array([], pa.string())})
    assert count_marks(nothing).text == "there are no clips"
