"""The section `parts:` of the job's settings: when a part is due and where its audio goes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

AudioMode = Literal["files", "parquet", "webdataset"]


class PartsSettings(BaseModel):
    """A part is committed at the latest at one of the three limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part_clips: int = Field(64, ge=1, le=10_000, description="Commit at the latest after N clips.")
    part_seconds: float = Field(300.0, gt=0, description="Commit at the latest after S seconds.")
    part_megabytes: float = Field(64.0, gt=0, description="Commit at the latest after M MB.")
    audio: AudioMode = Field("files", description="Where audio goes: objects, Parquet or tars.")
