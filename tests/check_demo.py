"""The end of `make demo`: only the row that is bad on purpose failed, and the output is whole."""

import sys

from pipeline import ledger
from pipeline.ledger.verify import verify
from pipeline.storage import open_storage

EXPECTED = {"broken-melody"}


def main(output: str) -> int:
    storage = open_storage(output)
    failed = {row["id"] for row in ledger.read_dead_letters(storage).to_pylist()}
    report = verify(storage)
    if failed != EXPECTED or not report.ok or not report.n_clips:
        sys.stderr.write(f"demo: failed rows {failed}, expected {EXPECTED}; {report}\n")
        return 1
    sys.stdout.write(
        f"demo: {report.n_clips} clips verified, and the one bad row is in failed/ as expected\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
