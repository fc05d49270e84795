"""The decode step as fused Triton kernels, for GPUs.

`table` and `select` import without Triton; the other modules hold kernels and need it.
"""
