"""Benchmarks: `make bench`, `make bench-pipeline`; GPUs have `tests/gpu`. Read in this order:

`shapes` (checkpoints), `workload` (clips), `machine` (what the hardware can do), `ours` and `peer`
(the two that are compared), `workers` (each in a process of its own), `engine`, `pipeline` (the
two benchmarks), `table` (their figures in docs/reference/benchmarks.md). `test_bench` runs
all of it, tiny.
"""
