#!/usr/bin/env bash
# Makes what the tests need and runs them: style, types, layers, then the tests.
#   ./run_tests.sh          all of it: fast, slow (real processes and sockets), training and adapters (torch),
#                           vlm (the real vLLM on the CPU)
#   ./run_tests.sh fast     what a change needs before it is committed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
part=${1:-all}
case "$part" in all | fast) ;; *) echo "expected nothing, or: fast; got: $part" >&2; exit 2 ;; esac
source requirements/environment.sh
environment "$PWD/.venv-test" requirements/test.txt
bin=$PWD/.venv-test/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
others=(--ignore=tests/training --ignore=tests/adapters --ignore=tests/vlm)   # these have environments of their own
covering=(tests/cascade tests/test_gate.py tests/test_decode.py tests/test_service.py)
"$bin/python" -m pytest -m "not slow" "${covering[@]}" --cov   # apart: under coverage everything takes twice as long
"$bin/python" -m pytest -m "not slow" "${others[@]}" "${covering[@]/#/--ignore=}"
[ "$part" = fast ] && exit
"$bin/python" requirements/audit.py

requirements/tools.sh                                         # Chromium, Prometheus, node
export PATH="$PATH:$PWD/.venv-tools/usr/bin"
environment "$PWD/.venv-dendrite" requirements/dendrite.txt   # the SDK release that validators lock
"$bin/python" -m pytest -m slow "${others[@]}"
environment "$PWD/.venv-torch" requirements/test.txt requirements/torch.txt
"$PWD/.venv-torch/bin/python" -m pytest tests/training tests/adapters
requirements/vllm.sh                                          # the real vLLM, and what asks it
"$PWD/.venv-vllm/bin/python" -m pytest --confcutdir tests/vlm tests/vlm \
  -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning  # a killed engine's sockets are collected, not closed
