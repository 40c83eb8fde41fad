#!/usr/bin/env bash
# What the slow tests need beside Python: Chromium, node, kubectl, systemd-analyze, Prometheus with promtool.
# Installs what apt has when it may; Prometheus is only unpacked into .venv-tools, so that no service starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
have() { command -v "$1" >/dev/null; }

packages=()
have chromium || have google-chrome || packages+=(chromium)
have node || packages+=(nodejs)
have systemd-analyze || packages+=(systemd)
if [ "${#packages[@]}" -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "the slow tests need: sudo apt-get install ${packages[*]}" >&2; exit 2; }
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! have promtool && [ ! -x .venv-tools/usr/bin/promtool ]; then
  mkdir -p .venv-tools
  (cd .venv-tools && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb . && rm prometheus_*.deb)
fi

have kubectl || { echo "the slow tests need kubectl 1.27 or newer: https://kubernetes.io/docs/tasks/tools/" >&2; exit 2; }
