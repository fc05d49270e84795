"""A worker of `make gpu-check` whose checks misbehave; free of torch, so that it starts at once."""

import os
import time
from multiprocessing.connection import Connection


def serve(pipe: Connection, device: str, tiny: bool) -> None:
    """A process that knows a check that passes, one that kills it, and one that hangs."""
    while True:
        asked = pipe.recv()
        if asked == "describe":
            pipe.send(({"device": device}, {"kills": 1.0, "hangs": 0.2, "passes": 1.0}))
        elif asked == "kills":
            os._exit(1)
        elif asked == "hangs":
            time.sleep(60)
        else:
            pipe.send(
                {"name": asked, "verdict": "PASS", "seconds": 0.1, "message": "", "figures": {}}
            )
