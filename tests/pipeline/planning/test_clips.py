"""The types that travel through a job."""

import pytest

from manifests.row_errors import BadReferenceError
from musicgen.config import ArgumentError, WrongModelError
from pipeline.planning.clips import error_class


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("a"), "UnsuitableRowError"),
        (ArgumentError("a"), "UnsuitableRowError"),
        (WrongModelError("a"), "UnsuitableRowError"),
        (BadReferenceError("a"), "BadReferenceError"),
        (RuntimeError("a"), "RuntimeError"),
        (AssertionError("a"), "AssertionError"),
    ],
)
def test_what_the_model_refuses_is_an_unsuitable_row_whoever_else_raises_it(
    error: Exception, name: str
) -> None:
    """Scripts get subclasses of AssertionError and RuntimeError; failures are counted as before."""
    assert error_class(error) == name
