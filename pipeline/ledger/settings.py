"""The section `parts:` of the job's settings: when a part is due and where its audio goes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

AudioMode = Literal["files", "parquet", "webdataset"]
MOST_METADATA_CLIPS = 1_000_000


class PartsSettings(BaseModel):
    """A part is committed at the latest at one of the three limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part_clips: int = Field(64, ge=1, le=10_000, description="Commit at the latest after N clips.")
    part_seconds: float = Field(300.0, gt=0, description="Commit at the latest after S seconds.")
    part_megabytes: float = Field(64.0, gt=0, description="Commit at the latest after M MB.")
    audio: AudioMode = Field("files", description="Where audio goes: objects, Parquet or tars.")
    metadata_clips: int = Field(
        MOST_METADATA_CLIPS,
        ge=0,
        description="With --audio files, write metadata.parquet, by which Hugging Face datasets "
        "opens them, while the output has at most N clips; 0 for never.",
    )
