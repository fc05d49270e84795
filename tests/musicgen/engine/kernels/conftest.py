"""Without Triton only the choice between kernels and eager step is tested."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["test_compile.py", "test_interpreter.py"]
