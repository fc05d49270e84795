"""What can be wrong with a checkpoint, and how other libraries' errors are quoted."""


class ModelNotFoundError(ValueError):
    """The name leads to no usable checkpoint; the message says what was looked for and where."""


class CheckpointError(ValueError):
    """The configuration or the tensors are not those of a MusicGen that we can run."""


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).strip().splitlines() or [""])[0]
