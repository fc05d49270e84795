"""`python -m pipeline.runtime.checkup.torch_probe`: prints what torch finds, as JSON."""

import json
from typing import Any


def facts() -> dict[str, Any]:
    """Versions of torch and torchaudio, and the GPUs that torch can use."""
    import torch

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "torchaudio": None,
        "torchaudio_error": None,
        "gpus": [],
        "gpu_error": None,
    }
    try:
        import torchaudio

        found["torchaudio"] = torchaudio.__version__
    except Exception as error:  # whatever a broken installation raises
        found["torchaudio_error"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    if torch.version.cuda is None:
        return found
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        found["gpu_error"] = str(error).strip().splitlines()[0][:300]
        return found
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        found["gpus"].append({"name": name, "free": free, "total": total, "capability": capability})
    return found


if __name__ == "__main__":
    print(json.dumps(facts()))  # noqa: T201
