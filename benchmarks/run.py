"""Every benchmark, one process each, one after the other: what `make bench` runs."""

import os
import subprocess
import sys
from pathlib import Path

ALL = (
    *("startup.py", "demo.py", "v_one.py"),
    *("pgd.py", "training.py", "effective.py", "carlini.py", "minimal.py", "auto_attack.py", "growth.py", "frozen.py"),
    "intervals.py",
)
NEEDS_DATA = ALL[3:]


def main() -> None:
    """Run them; those that need real data say so where there are none."""
    for name in ALL:
        print(f"\n== {name}", flush=True)
        if name in NEEDS_DATA and not os.environ.get("STEELMAN_DATA"):
            print("skipped: set STEELMAN_DATA to a folder with MNIST/raw and trades_smallcnn_mnist.safetensors")
            continue
        subprocess.run([sys.executable, Path(__file__).with_name(name)], check=True)


if __name__ == "__main__":
    main()
