"""Take away the lock that a killed snakemake left in this folder; the lock of one that runs stays.

Run from the project's root with the .venv's python: python tools/unlock.py
"""

import subprocess
import sys
from pathlib import Path

import psutil  # comes with snakemake


def is_working_here(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is a snakemake in this folder; one that may not be looked at counts as one."""
    try:
        words = process.cmdline()[:4]
        if "snakemake" not in {Path(word).name for word in words}:
            return False
        return Path(process.cwd()).resolve() == folder
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    except psutil.AccessDenied:
        return True


folder = Path().resolve()
if any(Path(".snakemake/locks").glob("*.lock")):
    if any(is_working_here(process, folder) for process in psutil.process_iter()):
        sys.exit("saddleflow: error: another snakemake works in this folder; wait for it or stop it first")
    print("saddleflow: an earlier snakemake was killed here; going on where it was", flush=True)
    command = [sys.executable, "-m", "snakemake", "--unlock", *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False).returncode)
