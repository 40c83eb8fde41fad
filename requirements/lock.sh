#!/usr/bin/env bash
# Resolves pyproject.toml into the committed lock files, for every platform and Python >= 3.11, with hashes.
# Needs uv (extra `dev`); nothing is installed with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
           --upgrade pyproject.toml "${@:2}" --output-file "requirements/$1.txt"; }
lock base
lock test --extra dev --extra hub --extra docs
# The SDK release that the subnet's validators lock, with what it needs to import: it asks us for answers in the tests.
printf '%s\n' bittensor==9.12.2 async-substrate-interface==1.5.12 scalecodec==1.2.12 bittensor-wallet==4.0.1 bittensor-drand==1.1.0 \
  fastapi==0.110.3 starlette==0.37.2 uvicorn==0.38.0 pydantic==2.12.5 numpy==2.2.6 aiohttp==3.13.2 'setuptools<81' pillow |
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
    - --output-file requirements/dendrite.txt
