#!/usr/bin/env bash
# Sets up everything that saddleflow needs, as far as it is not there yet:
#   tools/environment.sh run      .venv with all Python packages, and Psi4
#   tools/environment.sh test     the same and Slurm's daemons for the tests on a real scheduler
# Psi4 comes from the Debian/Ubuntu package where apt and root (or sudo) are there, else from conda-forge with
# mamba, micromamba, conda or pixi (environment.yaml).  A Psi4 on PATH is used as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv
conda_env=$root/.conda

say() { printf 'saddleflow: %s\n' "$*" >&2; }
fail() { printf 'saddleflow: error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- apt, where it may be used without asking anybody
superuser=none
if [ "$(id -u)" = 0 ]; then
  superuser=""
elif have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  superuser=sudo
fi
can_apt() { have apt-get && [ "$superuser" != none ]; }
apt_lists=old
apt_update() {
  [ "$apt_lists" = fresh ] || $superuser apt-get update -qq || say "apt-get update failed; going on with the old lists"
  apt_lists=fresh
}
# No pipe into `grep -q`: it ends early, apt-cache dies of SIGPIPE, and pipefail would call the package absent.
apt_offers() { [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [0-9] ]]; }
apt_install() {
  local package
  can_apt || return 1
  for package in "$@"; do
    apt_offers "$package" || apt_update
    apt_offers "$package" || return 1
  done
  say "installing with apt: $*"
  apt_get_install "$@" && return 0
  apt_update # lists that are too old name files which the mirror has no longer
  $superuser dpkg --configure -a >/dev/null # after an installation that was killed
  apt_get_install "$@"
}
apt_get_install() { # an apt that runs already, such as one left by a killed set-up, is waited for
  $superuser env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=600 "$@" >/dev/null
}

# ---- conda-forge: Psi4 and, should there be none, a Python, in .conda (the venv stays the place of all else)
conda_install() {
  local tool
  for tool in mamba micromamba conda pixi; do
    have "$tool" || continue
    if [ -e "$conda_env.unfinished" ]; then # an installation was killed here
      rm -rf "$conda_env"
    elif [ -e "$conda_env" ]; then
      say "$conda_env was not made here and lacks what is needed; move it away to let saddleflow make its own"
      return 1
    fi
    : >"$conda_env.unfinished"
    say "installing Psi4 from conda-forge with $tool (environment.yaml) into .conda"
    if [ "$tool" = pixi ]; then
      pixi init --import environment.yaml "$conda_env" || return 1
      pixi install --manifest-path "$conda_env/pixi.toml" || return 1
    elif [ "$tool" = micromamba ]; then
      micromamba create -y -p "$conda_env" -f environment.yaml || return 1
    else
      "$tool" env create -y -p "$conda_env" -f environment.yaml || return 1
    fi
    rm "$conda_env.unfinished"
    return 0
  done
  return 1
}
conda_bin() { # folder of the programs in .conda, whichever tool made it
  local folder
  for folder in "$conda_env/bin" "$conda_env/.pixi/envs/default/bin"; do
    [ -x "$folder/python" ] && { echo "$folder"; return 0; }
  done
  return 1
}

# ---- a Python for the venv: 3.11 or newer, able to make one
usable_python() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 "$(conda_bin || true)/python"; do
    have "$candidate" && usable_python "$candidate" && { echo "$candidate"; return 0; }
  done
  return 1
}

get_python() { # apt's python3 may be too old, then it may have a newer one beside it; else conda-forge
  local package
  for package in python3-venv python3.13-venv python3.12-venv python3.11-venv; do
    apt_install "$package" >&2 && find_python && return 0
  done
  conda_install >&2 && find_python
}

find_psi4() { PATH="$(conda_bin || true):$PATH" command -v psi4; }
if ! find_psi4 >/dev/null && ! apt_install psi4 && ! conda_install; then
  say "Psi4 is not here and can't be installed (no apt with root or sudo that offers it, no mamba, conda or pixi)."
  say "Going on without it: choose 'engine: pyscf' or 'engine: xtb' in the configuration; 'saddleflow doctor' says more."
fi

# The venv is remade when it was made elsewhere (its scripts hold its path) and brought up to date when
# pyproject.toml changed.
wanted="$root $(cksum <pyproject.toml)"
if [ "$(cat "$venv/.saddleflow" 2>/dev/null)" != "$wanted" ]; then
  python=$(find_python) || python=$(get_python) ||
    fail "no Python 3.11 or newer with the module venv found (tried python3, python3.13, python3.12, python3.11); install one or set PYTHON=/path/to/python"
  made_in=$(sed 's/ .*//' "$venv/.saddleflow" 2>/dev/null || true)
  if [ -n "$made_in" ] && [ "$made_in" != "$root" ]; then
    say "making .venv anew: this folder was moved or copied"
    "$python" -m venv --clear "$venv"
  elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv "$venv"
  fi
  say "installing Python packages into .venv with $python (a few minutes the first time)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[workflow,pyscf,test]'
  printf '%s' "$wanted" >"$venv/.saddleflow"
fi

# Snakemake's Slurm plugin does not even load where there is no `which` (small containers).
if ! have which; then
  printf '#!/bin/sh\ncommand -v "$1"\n' >"$venv/bin/which"
  chmod +x "$venv/bin/which"
fi

# Psi4 from .conda is not on the user's PATH, .venv/bin is; the worker finds its interpreter by this name.
if bin=$(conda_bin) && [ -x "$bin/psi4" ]; then ln -sfn "$bin/psi4" "$venv/bin/psi4"; fi

if [ "${1:-run}" = test ] && ! { have slurmctld && have slurmd && have sbatch && have munged; }; then
  apt_install slurmctld slurmd slurm-client munge ||
    say "Slurm's daemons can't be installed here: the tests that need them will be skipped and say so"
fi
