"""What the checks ran on."""

import platform
from typing import Any

import numpy as np
import torch
import transformers

from tests.gpu.case import Context


def describe(context: Context) -> dict[str, Any]:
    """Device and versions."""
    found: dict[str, Any] = {
        "device": str(context.device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "triton": _triton(),
    }
    if context.on_cuda:
        properties = torch.cuda.get_device_properties(context.device)
        found |= {
            "card": properties.name,
            "memory_bytes": properties.total_memory,
            "free_bytes": context.free_bytes(),
            "capability": f"{properties.major}.{properties.minor}",
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    version: str = triton.__version__
    return version
