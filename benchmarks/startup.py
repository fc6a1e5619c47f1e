"""`steelman --help`, as a whole process."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from timing import verdict


def main() -> None:
    """Print the times and the verdict."""
    command = [str(Path(sys.executable).parent / "steelman"), "--help"]
    seconds: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    print(f"steelman --help: {min(seconds):.3f} to {max(seconds):.3f} s")
    value = statistics.median(seconds)
    verdict("median seconds", value, "<= 0.3", holds=value <= 0.3)


if __name__ == "__main__":
    main()
