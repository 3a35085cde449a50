#!/usr/bin/env bash
# Runs FramePack's page in the background, an instance per GPU and port: ./run_gradio.sh help
# The first start makes the Python environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case ${1:-start} in
  stop | status | logs | help | -h | --help)
    if [[ ! -x .venv/bin/python ]]; then
      echo "FramePack was not started here yet: ./run_gradio.sh starts it." >&2
      exit 1
    fi
    ;;
  *) scripts/setup ;;
esac
exec .venv/bin/python -m diffusers_helper.service.instances "$@"
