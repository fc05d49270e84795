"""What a process frees, it keeps."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys
import torch
from pipeline.replica.malloc import keep_freed_memory

if {keep}:
    sys.exit("no glibc") if not keep_freed_memory() else None
torch.set_num_threads(1)
sizes = [10_000_000 + 3_000_000 * i for i in range(8)]  # floats: 40 to 124 MB
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in sizes:
        torch.zeros(size).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_large_tensors_come_from_what_was_freed() -> None:
    kept, usual = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.replace("{keep}", str(keep))]))
        for keep in (True, False)
    )
    assert usual > 1000
    assert kept < usual / 10
