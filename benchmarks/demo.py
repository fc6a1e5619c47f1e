"""The README's demo as a whole process: wall time and peak memory."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import verdict


def main() -> None:
    """Print the time, the memory and the verdicts."""
    steelman = Path(sys.executable).parent / "steelman"
    with tempfile.TemporaryDirectory() as folder:
        words = "study finetune --data digits --preset corrected --scale smoke --out"
        began = time.perf_counter()
        subprocess.run([steelman, *words.split(), f"{folder}/finetune"], check=True, capture_output=True)
        seconds = time.perf_counter() - began
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print("the demo:")
    verdict("seconds", seconds, "<= 90", holds=seconds <= 90)
    verdict("peak GB", gigabytes, "<= 1.5", holds=gigabytes <= 1.5)


if __name__ == "__main__":
    main()
