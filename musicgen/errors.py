"""What can be wrong with a checkpoint."""


class ModelNotFoundError(ValueError):
    """The name leads to no usable checkpoint; the message says what was looked for and where."""


class CheckpointError(ValueError):
    """The configuration or the tensors are not those of a MusicGen that we can run."""
