"""What a reference may be, cost and reach: the settings, and the bounds of one fetch."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from manifests.identity import ContentHash
from manifests.redaction import shown_uri
from manifests.uris.errors import StorageError
from manifests.uris.filesystems import split_uri

MAX_REFERENCE_BYTES = 256 * 2**20
SHARED_MB = 1024  # a prepare actor itself, its libraries, and a block of prepared rows
LOCAL = ("file", "memory")


class ReferencePolicy(BaseModel):
    """Limits on what is read for a reference, and where it may lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_reference_bytes: int = Field(
        MAX_REFERENCE_BYTES,
        ge=1,
        le=MAX_REFERENCE_BYTES,
        description="Largest file of reference audio; counted while it is read.",
    )
    reference_timeout_s: float = Field(
        120.0, gt=0, le=3600, description="Longest time to fetch a reference, tries included."
    )
    reference_idle_timeout_s: float = Field(
        20.0, gt=0, le=3600, description="Longest time for which a web server may send nothing."
    )
    prepare_timeout_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Longest time to decode and analyse the references of a row, beside what it "
        "takes to fetch them.",
    )
    prepare_memory_mb: int = Field(
        2048,
        ge=1280,
        le=2**20,
        description="Memory of a prepare actor and its processes together, whatever it reads.",
    )
    max_redirects: int = Field(
        5, ge=0, le=20, description="Redirects that a web reference may take."
    )
    allow_private_hosts: bool = Field(
        False,
        description="Let web references reach loopback, link-local and private addresses.",
    )
    allow_local_references: bool = Field(
        False, description="Let a manifest that is not local name files of this machine."
    )

    @property
    def readers_mb(self) -> int:
        """What is left of `prepare_memory_mb` for the audio itself."""
        return self.prepare_memory_mb - SHARED_MB

    def reading_limit_s(self, n_references: int) -> float:
        """How long a process may have a row with so many references in hand."""
        return self.prepare_timeout_s + n_references * self.reference_timeout_s


DEFAULT_POLICY = ReferencePolicy()


@dataclass(frozen=True)
class ReferenceAccess:
    """All that the opening of a job's references depends on; plain data, it travels to actors.

    Attributes:
        policy: Limits, and what is allowed.
        storage_options: fsspec options for s3 and the like.
        manifest_uri: The manifest; where it is not local, references must not be either.
    """

    policy: ReferencePolicy = DEFAULT_POLICY
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    manifest_uri: str = ""

    def plain(self) -> ReferenceAccess:
        """The same with a policy of no subclass, for processes that need not import its module."""
        fields = {name: getattr(self.policy, name) for name in ReferencePolicy.model_fields}
        return replace(self, policy=ReferencePolicy(**fields))

    @property
    def may_read_local(self) -> bool:
        """Whether the manifest may name files of this machine."""
        return self.policy.allow_local_references or split_uri(self.manifest_uri)[0] in LOCAL


class Bounds:
    """What one fetch may take, its tries together: the time runs from here."""

    def __init__(self, uri: str, policy: ReferencePolicy) -> None:
        self.where = shown_uri(uri)
        self.policy = policy
        self.ends = time.monotonic() + policy.reference_timeout_s

    def left_s(self) -> float:
        """Seconds that are left; StorageError where none are."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise self.too_slow()
        return left

    def check_size(self, size: int) -> None:
        """Refuses what says itself that it is too large."""
        limit = self.policy.max_reference_bytes
        if size > limit:
            raise StorageError(
                f"{self.where} has {size:,} bytes, more than the limit of {limit:,}; "
                "cut or compress it"
            )

    def too_large(self) -> StorageError:
        """The error of content that goes on past the limit, whatever its size was said to be."""
        return StorageError(
            f"{self.where} has more bytes than the limit of "
            f"{self.policy.max_reference_bytes:,}; cut or compress it"
        )

    def too_slow(self) -> StorageError:
        """The error of a fetch that has used up its time."""
        return StorageError(
            f"cannot read {self.where}: it was not there after "
            f"{self.policy.reference_timeout_s:g} s; use a faster host, or raise "
            "--reference-timeout-s"
        )


class Content:
    """The bytes of one try as they come in: counted and hashed, and kept where they are wanted."""

    def __init__(self, bounds: Bounds, keep: bool) -> None:
        self._bounds = bounds
        self._hash = ContentHash()
        self._kept = io.BytesIO() if keep else None
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Takes the next bytes; StorageError past the limits."""
        self.size += len(chunk)
        if self.size > self._bounds.policy.max_reference_bytes:
            raise self._bounds.too_large()
        self._bounds.left_s()
        self._hash.update(chunk)
        if self._kept is not None:
            self._kept.write(chunk)

    @property
    def token(self) -> str:
        """`bytes_token` of all bytes."""
        return self._hash.token

    @property
    def data(self) -> bytes:
        """All bytes; none unless they were to be kept."""
        return b"" if self._kept is None else self._kept.getvalue()
