"""A Slurm cluster of one node on loopback, for the tests: no systemd, no cgroups, no accounting.

    python slurm_node.py start FOLDER
    python slurm_node.py stop FOLDER

Needs root and the daemons slurmctld, slurmd and munged (Debian: slurmctld slurmd slurm-client munge); the
account munge must be able to reach FOLDER.  Slurm's job steps look for the configuration at its compiled-in
place alone, so /etc/slurm/slurm.conf becomes a link into FOLDER; a file that is there is never touched.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
START_SECONDS = 30.0
OWNER = "saddleflow-test.pid"
"""File in a node's folder with the process that started it; the daemons alone outlive a killed test."""


def missing() -> str:
    """Why no node can be started here; empty if it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    absent = [
        n for n in ("slurmctld", "slurmd", "sbatch", "squeue", "munged") if not shutil.which(n, path=path)
    ]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    _stop_abandoned()
    if os.path.lexists(CONFIGURATION):
        return f"{CONFIGURATION} exists: this machine has a Slurm of its own"
    return ""


def start(folder: Path) -> None:
    """Start munge, the controller and the node; returns when the node is idle."""
    reason = missing()
    if reason:
        raise SystemExit(reason)
    for name in ("state", "spool", "log", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    _start_munge(folder)
    (folder / "slurm.conf").write_text(_configuration(folder))
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")
    host = socket.gethostname().split(".")[0]
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
    subprocess.run(["slurmctld"], check=True, env=environment)
    subprocess.run(["slurmd", "-N", host], check=True, env=environment)
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        state = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if state == "idle":
            return
        time.sleep(0.2)
    log = (folder / "log/slurmctld.log").read_text(errors="replace")[-2000:]
    stop(folder)
    raise SystemExit(f"the Slurm node did not come up in {START_SECONDS:.0f} s:\n{log}")


def stop(folder: Path) -> None:
    """Stop the daemons that wrote their process ids into `folder`, and take the link away."""
    for name in ("slurmd", "slurmctld", "munged"):
        _stop_daemon(folder / "run" / f"{name}.pid", name)
    if CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == folder / "slurm.conf":
        CONFIGURATION.unlink()


def _stop_abandoned() -> None:
    """Stop a node whose test was killed; the file of its owner says that it is one of ours."""
    if not CONFIGURATION.is_symlink():
        return
    folder = CONFIGURATION.readlink().parent
    try:
        os.kill(int((folder / OWNER).read_text()), 0)
    except ProcessLookupError:
        stop(folder)
    except (OSError, ValueError):
        return


def _start_munge(folder: Path) -> None:
    account = pwd.getpwnam("munge")
    home, run = folder / "munge", folder / "run"
    home.mkdir(exist_ok=True)
    key = home / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for path in (home, key, run):
        os.chown(path, account.pw_uid, account.pw_gid)
    home.chmod(0o700)
    run.chmod(0o755)
    files = {
        "key-file": key,
        "socket": run / "munge.socket",
        "pid-file": run / "munged.pid",
        "log-file": home / "munged.log",
        "seed-file": home / "munged.seed",
    }
    command = [shutil.which("munged", path="/usr/sbin:/usr/bin"), *(f"--{k}={v}" for k, v in files.items())]
    subprocess.run(command, check=True, user=account.pw_uid, group=account.pw_gid, extra_groups=[])


def _configuration(folder: Path) -> str:
    host = socket.gethostname().split(".")[0]
    controller, node = _free_ports(2)
    return f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
MinJobAge=3600
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={max(os.cpu_count() or 1, 2)} RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES DefaultTime=00:10:00 MaxTime=01:00:00 State=UP OverSubscribe=NO
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _stop_daemon(pid_file: Path, name: str) -> None:
    try:
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() != name:
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return  # it is gone


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).absolute())
