"""The CUDA path, settled by one command: `make gpu-check`, or without the project's environment

    python3 -m tests.gpu.check --out DIR

Needs torch, transformers, triton and numpy, no network and no files: weights are drawn on the GPU.
`checks` names the checks by theme, `check` runs them one after the other in a process that is
replaced when a check breaks or hangs it.
"""
