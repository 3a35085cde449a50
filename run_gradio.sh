#!/usr/bin/env bash
# Runs FramePack's page in the background; `./run_gradio.sh help` prints the block below.
usage() {
  cat <<'END'
./run_gradio.sh [start] [--gpu N] [--port PORT] [--f1] [options of demo_gradio.py]
    Starts the page, or starts it again if it runs: GPU 0 on port 7860 unless told otherwise.
    The first time it makes the Python environment, which takes a few minutes.
./run_gradio.sh restart [PORT]     the same once more, with the options it was last started with
./run_gradio.sh stop [PORT]        ends it, by force if it takes longer than ten seconds
./run_gradio.sh status [PORT]      says what runs; without PORT all that were started
./run_gradio.sh logs [PORT] [-f]   the end of output_PORT.log; -f follows it

One more on a second GPU:   ./run_gradio.sh start --gpu 1 --port 7861 --f1
For the whole house:        ./run_gradio.sh start --server 0.0.0.0 --allow-anonymous
Exit status: 0 done, 1 failed or not running, 2 the port is taken by another program or an argument is wrong.
END
}
# FRAMEPACK_PROGRAM=FILE runs that executable in place of .venv's Python and demo_gradio.py, with the same arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly START_SECONDS=180 STOP_SECONDS=10
port=7860 gpu='' program=demo_gradio.py address=127.0.0.1 options=()

fail() { # fail STATUS MESSAGE
  echo "$2" >&2
  exit "$1"
}

check_port() { [[ $1 =~ ^[0-9]{1,5}$ && $1 -gt 0 && $1 -lt 65536 ]] || fail 2 "'$1' is no port number."; }

parse() { # what is not ours goes to the program as it stands
  while [[ $# -gt 0 ]]; do
    case $1 in
      --port | --gpu | --server)
        [[ $# -gt 1 ]] || fail 2 "$1 needs a value."
        case $1 in
          --port) port=$2 ;;
          --gpu) gpu=$2 ;;
          --server) address=$2 options+=("$1" "$2") ;;
        esac
        shift
        ;;
      --f1) program=demo_gradio_f1.py ;;
      --) ;;
      *) options+=("$1") ;;
    esac
    shift
  done
  case $address in 0.0.0.0 | ::) address=127.0.0.1 ;; esac
  check_port "$port"
}

born() { # when process $1 started: with its number the name of one process for ever; empty if it is gone
  local stat
  if [[ -r /proc/self/stat ]]; then
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    read -r -a stat <<<"${stat##*) }"
    case ${stat[0]} in Z | X) ;; *) echo "${stat[19]}" ;; esac
  else
    ps -o lstart= -p "$1" || true
  fi
}

running() { # sets pid to the process of the port; false if it is gone, even if its number was given to another one
  local start
  pid=''
  [[ -r run/$1.pid ]] && read -r pid start <"run/$1.pid" && [[ -n $start && $(born "$pid") == "$start" ]]
}

answers() { # does anything speak HTTP at address $1, port $2?
  local line=''
  { printf 'HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3 && IFS= read -r -t 5 line <&3; } 3<>"/dev/tcp/$1/$2" || true
  [[ $line == HTTP/* ]]
} 2>/dev/null

taken() { : 3<>"/dev/tcp/$1/$2"; } 2>/dev/null

ended() { # waits for the process of port $1 to end; false if it is there after $2 seconds
  local tenth
  for ((tenth = 0; tenth < $2 * 10; tenth++)); do
    running "$1" || return 0
    sleep 0.1
  done
  return 1
}

signal() { kill "-$1" "$pid" 2>/dev/null || ! running "$2" || fail 1 "Process $pid belongs to another user."; }

stop() { # false if nothing ran
  if ! running "$1"; then
    rm -f "run/$1.pid"
    return 1
  fi
  signal TERM "$1"
  if ! ended "$1" "$STOP_SECONDS"; then
    echo "It did not end within $STOP_SECONDS seconds; ending it by force."
    signal KILL "$1"
    ended "$1" 5 || fail 1 "Process $pid does not end."
  fi
  rm -f "run/$1.pid"
}

start() {
  local option log command=(.venv/bin/python)
  parse "$@"
  command+=("$program")
  if [[ -n ${FRAMEPACK_PROGRAM:-} ]]; then
    command=("$FRAMEPACK_PROGRAM")
  else
    scripts/setup
  fi
  if stop "$port"; then
    echo "Stopped the one that ran on port $port."
  fi
  if taken "$address" "$port"; then
    fail 2 "Port $port is taken by another program. Choose another: ./run_gradio.sh start --port $((port + 1))"
  fi
  if ! command -v nvidia-smi >/dev/null; then
    [[ -z $gpu ]] || echo "There is no nvidia-smi here, so --gpu $gpu changes nothing."
  elif [[ -n $gpu || -z ${CUDA_VISIBLE_DEVICES:-} ]]; then
    export CUDA_VISIBLE_DEVICES=${gpu:-0}
  fi
  mkdir -p run
  for option; do printf '%s\n' "$option"; done >"run/$port.options"
  log=output_$port.log
  [[ ! -e $log ]] || mv "$log" "$log.1"

  set -m # a process group of its own, so that Ctrl-C here does not reach it
  nohup "${command[@]}" --port "$port" ${options[@]+"${options[@]}"} >"$log" 2>&1 </dev/null &
  set +m
  echo "$! $(born $!)" >"run/$port.pid"
  await_page "$!" "$log"
}

await_page() {
  local deadline=$((SECONDS + START_SECONDS)) status=0
  while ((SECONDS < deadline)); do
    if ! running "$port"; then
      wait "$1" || status=$?
      rm -f "run/$port.pid"
      echo "FramePack did not start. The end of $2:" >&2
      tail -n 20 "$2" >&2
      exit $((status == 2 ? 2 : 1))
    fi
    if answers "$address" "$port"; then
      echo "FramePack is at http://$address:$port (log: $2)"
      return
    fi
    sleep 0.2
  done
  fail 1 "FramePack still does not answer after $START_SECONDS seconds. Look with: ./run_gradio.sh logs $port"
}

restart() {
  local option saved=()
  if [[ -r run/$port.options ]]; then
    while IFS= read -r option; do saved+=("$option"); done <"run/$port.options"
  else
    saved=(--port "$port")
  fi
  start ${saved[@]+"${saved[@]}"}
}

status() {
  local file found=1
  for file in run/${1:-*}.pid; do
    file=${file##*/}
    if running "${file%.pid}"; then
      echo "Port ${file%.pid}: running as process $pid"
      found=0
    fi
  done
  [[ $found == 0 ]] || echo "FramePack does not run${1:+ on port $1}."
  return "$found"
}

action=start
case ${1:-} in
  start | restart | stop | status | logs)
    action=$1
    shift
    ;;
  help | -h | --help)
    usage
    exit
    ;;
  '' | -* | [0-9]*) ;;
  *) fail 2 "'$1' is no command; see ./run_gradio.sh help" ;;
esac
given=''
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  given=$1 port=$1
  check_port "$1"
  shift
fi
case $action in
  start) start ${given:+--port "$given"} "$@" ;;
  restart) restart ;;
  stop) if stop "$port"; then echo "Stopped."; else echo "FramePack does not run on port $port."; fi ;;
  status) status "$given" ;;
  logs) tail -n 50 "$@" "output_$port.log" ;;
esac
