"""The section `marks:` of the job's settings: which marks clips carry beside their tags."""

from importlib.util import find_spec
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

GENERATOR = "audioseal_wm_16bits"  # AudioSeal's name for its released generator
MESSAGE_BITS = 16


class MarksError(ValueError):
    """A mark that was asked for can't be made here; the message says why and the way out."""


class MarksSettings(BaseModel):
    """Marks of clips. Key and certificate of C2PA come from the environment alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    c2pa: Literal["auto", "off", "require"] = Field(
        "auto",
        description="Signed C2PA manifests: auto = where MUSICGEN_C2PA_KEY and MUSICGEN_C2PA_CERT "
        "are set; require = refuse to start without them.",
    )
    c2pa_prompt: bool = Field(
        False, description="C2PA manifests hold the prompt itself, not only its SHA-256."
    )
    watermark: Literal["none", "audioseal"] = Field(
        "none",
        description="Watermark in the samples; audioseal needs that package and its weights.",
    )
    watermark_strength: float = Field(
        1.0, gt=0, le=4, description="Factor of the watermark before it is added to the clip."
    )
    watermark_message: int = Field(
        0, ge=0, lt=2**MESSAGE_BITS, description="16 bits that the watermark carries."
    )

    @property
    def watermark_identity(self) -> str | None:
        """What the watermark adds to the identity of a clip: all that its samples depend on and
        that a job chooses. None without one."""
        if self.watermark == "none":
            return None
        return f"{GENERATOR} strength={self.watermark_strength!r} message={self.watermark_message}"

    def check_packages(self) -> None:
        """Raises MarksError where the watermark's package is not installed."""
        if self.watermark != "none" and find_spec("audioseal") is None:
            raise MarksError(
                "--watermark audioseal needs the package audioseal, which is not installed; "
                "pip install 'musicgen-batch[watermark]'"
            )
