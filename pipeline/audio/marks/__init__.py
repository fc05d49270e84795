"""Marks that say a clip was made by AI: signed C2PA manifests and a watermark (docs/marking.md)."""
