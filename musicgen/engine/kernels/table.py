"""Launch configurations of the kernels, one per GPU architecture: nothing is tuned at run time.

Timing candidates at run time would make the order of sums, and so the bits of a clip, depend on
what else the GPU did meanwhile.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SPLIT = 256  # cells of a row that one program of the self-attention reads


@dataclass(frozen=True)
class Configuration:
    """How the kernels are launched on one architecture.

    Attributes:
        tile_bytes: Bytes of keys, and again of values, that a program has in flight at a time.
        attend_warps: Warps of a program of either attention.
        row_warps: Warps of a program that normalises or embeds a row.
        gelu_block: Elements that a program of the GELU takes.
        decide_warps: Warps of a program that decides one token.
        product_outputs: Outputs of a program of the int8 product.
        product_columns: Columns that it has in flight at a time.
        product_warps: Its warps.
    """

    tile_bytes: int
    attend_warps: int
    row_warps: int = 4
    gelu_block: int = 1024
    decide_warps: int = 4
    product_outputs: int = 16
    product_columns: int = 256
    product_warps: int = 4

    def tile_cells(self, cache: Tensor) -> int:
        """Cells of a tile of `cache` [R, H, cells, D / H]: a power of two in 16 .. `SPLIT`."""
        cells = self.tile_bytes // (cache.shape[-1] * cache.element_size())
        return min(SPLIT, max(16, 1 << (cells.bit_length() - 1)))


# By compute capability, times ten. With these a program of the self-attention uses at most 120
# registers a thread and spills none, by ptxas. On newer GPUs it asks for a whole split in 16 bits
# at once, because with few clips there are fewer programs than places for them, and each then waits
# for memory a single time.
CONFIGURATIONS = {
    80: Configuration(tile_bytes=16384, attend_warps=8),
    90: Configuration(tile_bytes=32768, attend_warps=8),
    100: Configuration(tile_bytes=32768, attend_warps=8),
}
OLDEST = min(CONFIGURATIONS)


def configuration(capability: int) -> Configuration:
    """The configuration for a GPU of `capability`, times ten: that of the newest one in the table
    which is not newer.

    Raises:
        ValueError: The GPU is older than all of them.
    """
    known = [at for at in CONFIGURATIONS if at <= capability]
    if not known:
        raise ValueError(
            f"compute capability {capability / 10}: the Triton kernels need {OLDEST / 10} or "
            "newer; take kernels='eager'"
        )
    return CONFIGURATIONS[max(known)]


def capability_of(device: torch.device) -> int:
    """The compute capability of `device`, times ten; that of the oldest GPU in the table for a
    CPU, on which Triton's interpreter runs the kernels."""
    if device.type != "cuda":
        return OLDEST
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
