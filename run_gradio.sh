#!/usr/bin/env bash
# Runs FramePack's page in the background, an instance per GPU and port: ./run_gradio.sh help
# The first start makes the Python environment.
set -euo pipefail
usage="\
./run_gradio.sh [start] [--gpus LIST] [--base-port PORT] [--f1] [options of demo_gradio.py]
    Starts the page, or starts it again if it runs: GPU 0 on port 7860 unless told otherwise;
    --gpus 0,1 starts two, the second one on port 7861. --gpu N and --port PORT mean the same for one.
    --together 0,1 starts one, whose GPUs make each video together (docs/several-gpus.md).
    The first time it makes the Python environment, which takes a few minutes.
./run_gradio.sh restart [PORT ...]   the same once more, with the options each was last started with
./run_gradio.sh stop [PORT ...]      ends them, by force where it takes longer than ten seconds
./run_gradio.sh status [PORT ...]    GPU, port, state and the job in work
./run_gradio.sh logs [PORT] [-f]     the end of output_PORT.log; -f follows it
Without PORT: all that run. An instance that crashes is started again, later each time, and the others go on.
All commands take --data DIR, the folder of everything that is written (or FRAMEPACK_DATA; docs/deploy.md).
Results of port 7860 are in outputs, those of other ports in outputs_PORT, unless --outputs says otherwise.

For the whole house: ./run_gradio.sh start --server 0.0.0.0 --allow-anonymous (or --auth FILE: docs/deploy.md)
Exit status: 0 done, 1 failed or not running, 2 a port is taken or an argument is wrong, 3 models are missing."
cd "$(dirname "${BASH_SOURCE[0]}")"

case ${1:-start} in
  help | -h | --help) echo "$usage" && exit ;;
  stop | status | logs)
    if [[ ! -e .venv/requirements.txt ]]; then # written last, by scripts/setup
      echo "FramePack is not set up here, or that is going on right now: ./run_gradio.sh does it and starts the page." >&2
      exit 1
    fi
    ;;
  *) scripts/setup ;;
esac
exec .venv/bin/python -m diffusers_helper.app.instances "$@"
