# Sourced by run_miner.sh and run_tests.sh: makes a virtual environment out of a lock file, once.

# The newest Python that is at least 3.11; MINER_PYTHON chooses another.
python_of_choice() {
  local candidate
  for candidate in "${MINER_PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  echo "expected Python 3.11 or newer (with its venv module) on PATH; got $(python3 --version 2>&1 || echo none)." \
       "Install it, or name one: MINER_PYTHON=/path/to/python3" >&2
  return 2
}

# environment DIRECTORY LOCK_FILE [MORE]: DIRECTORY holds exactly what LOCK_FILE says, checked by hash, then MORE.
environment() {
  local directory=$1 lock=$2 more=${3:-} wanted python
  wanted=$(cat "$lock" ${more:+"$more"} | cksum)
  [ "$(cat "$directory/lock.cksum" 2>/dev/null)" = "$wanted" ] && return
  python=$(python_of_choice)
  echo "Making $directory with $("$python" --version), once; this takes a minute ..." >&2
  rm -rf "$directory"
  "$python" -m venv "$directory" || { echo "$python has no working venv module; on Debian and Ubuntu: apt install python3-venv" >&2; return 2; }
  local pip=("$directory/bin/python" -m pip install -qq --disable-pip-version-check --no-compile)
  "${pip[@]}" --no-deps --require-hashes -r "$lock"
  [ -z "$more" ] || "${pip[@]}" -r "$more"
  echo "$wanted" > "$directory/lock.cksum"
  echo "Ready: $(du -sm "$directory" | cut -f1) MB." >&2
}
