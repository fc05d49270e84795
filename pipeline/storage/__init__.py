"""Objects in a folder or an object store, written as a whole. `store` holds the class."""

from manifests.redaction import redact, shown_options, shown_uri
from manifests.uris.errors import ObjectNotFoundError, RetryPolicy, StorageError
from pipeline.storage.store import THREADS, ObjectInfo, Storage, open_storage

__all__ = [
    "THREADS",
    "ObjectInfo",
    "ObjectNotFoundError",
    "RetryPolicy",
    "Storage",
    "StorageError",
    "open_storage",
    "redact",
    "shown_options",
    "shown_uri",
]
