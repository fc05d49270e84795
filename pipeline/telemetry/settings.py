"""The section `price:` of the job's settings: what a GPU, a gigabyte and a request cost."""

from pydantic import BaseModel, ConfigDict, Field


class PriceSettings(BaseModel):
    """Prices for `plan`; what has none is counted and not priced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="Of the prices, e.g. EUR.")
    per_gpu_hour: float | None = Field(None, ge=0, description="Price of a GPU for an hour.")
    per_gb_month: float | None = Field(
        None, ge=0, description="Price of storage: 10^9 bytes for a month."
    )
    per_1000_requests: float | None = Field(
        None, ge=0, description="Price of 1 000 requests to the object store that write."
    )
    per_1000_reads: float | None = Field(
        None, ge=0, description="Price of 1 000 requests that read; default: as those that write."
    )
