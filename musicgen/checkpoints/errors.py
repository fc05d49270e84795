"""Errors of checkpoints, and the quotation of other libraries' errors in them."""


class ModelNotFoundError(ValueError):
    """The name leads to no usable checkpoint; the message says what was looked for and where."""


class CheckpointError(ValueError):
    """The configuration or the tensors are not those of a MusicGen that we can run."""


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [""])[0]
