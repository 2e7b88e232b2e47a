"""What one seed gives in processes whose strings hash differently."""

from __future__ import annotations

import os
import subprocess
import sys


def fingerprints(module: str, seed: int) -> list[str]:
    """Of a run of three nodes of this module's World, in two processes."""
    program = (
        f"from {module} import World; w = World({seed}, 3); w.run(); print(w.trace.fingerprint)"
    )
    return [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "4711")
    ]
