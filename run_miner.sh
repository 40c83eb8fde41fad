#!/usr/bin/env bash
# The front door. With no arguments: a miner and a mock validator on this machine, and a report.
# Makes its own environment (.venv) on the first call and again whenever the locked requirements change.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/requirements/environment.sh"
environment "$root/.venv" "$root/requirements/base.txt"
unset MINER_PYTHON  # it was for the line above; the miner itself refuses names it does not know
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$root/.venv/bin/python" -P -m miner "$@"
