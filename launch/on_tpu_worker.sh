#!/usr/bin/env bash
# What tpu_vm.sh does on each worker of a TPU slice; this file comes there with the checkout, in ~/expllm/NAME/checkout.
#
#   on_tpu_worker.sh install                     Python 3.11 where it is missing, and what launch/lock/tpu.txt pins
#   on_tpu_worker.sh mount BUCKET FOLDER         mounts the bucket with gcsfuse, unless it is mounted
#   on_tpu_worker.sh start NAME COMMAND...       starts the command, unless the run is going on; does not wait for it
#   on_tpu_worker.sh stop NAME                   asks the run to save and end, and waits for it
#   on_tpu_worker.sh follow NAME                 shows the log until the run has ended; ends with its exit status (130: stopped)
#
# While the run (or anything that it started) lives, it holds a lock on ~/expllm/NAME/lock, so that it never runs twice.
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/setup.sh"

task="${1-}"
folder="$HOME/expllm/${2-}" # for the tasks that have a NAME

is_running() {
    [ -e "$folder/lock" ] && ! flock -n "$folder/lock" true
}

case "$task" in
    install)
        if ! command -v python3.11 > /dev/null && [ -z "${EXPLLM_PYTHON:-}" ]; then
            expllm_say "installing Python 3.11"
            sudo apt-get update -qq
            sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3.11 python3.11-venv
        fi
        expllm_setup .venv tpu
        ;;
    mount)
        if mountpoint -q "$3"; then exit; fi
        if ! command -v gcsfuse > /dev/null; then
            expllm_fail "there is no gcsfuse on $(hostname)" "install it with --prepare COMMAND, which runs on every worker"
        fi
        sudo mkdir -p -- "$3"
        sudo chown "$(id -u):$(id -g)" -- "$3"
        gcsfuse --implicit-dirs "$2" "$3"
        ;;
    start)
        exec 9> "$folder/lock"
        if ! flock -n 9; then
            expllm_say "$2 is running on $(hostname) already"
            exit
        fi
        shift 2
        rm -f -- "$folder/status" "$folder/stopped" "$folder/pid"
        # The shell outlives a TERM that is sent to the whole group, and writes down how the run ended.
        # shellcheck disable=SC2016
        setsid nohup bash -c '
            trap : TERM
            folder="$1"
            shift
            "$@" &
            echo "$$" > "$folder/pid"
            while wait "$!"; status=$?; [ "$status" -gt 128 ] && kill -0 "$!" 2> /dev/null; do :; done
            echo "$status" > "$folder/status"' run "$folder" "$@" >> "$folder/log.txt" 2>&1 < /dev/null &
        # Whoever stops the run from now on finds it.
        until [ -s "$folder/pid" ]; do
            kill -0 "$!" 2> /dev/null || [ -s "$folder/pid" ] ||
                expllm_fail "the run could not be started on $(hostname)" "see $folder/log.txt there"
            sleep 0.05
        done
        ;;
    stop)
        if is_running; then
            touch "$folder/stopped"
            kill -TERM -- "-$(cat "$folder/pid")" 2> /dev/null || true
            if ! flock -w 300 "$folder/lock" true; then
                expllm_fail "the run did not end within 300 s" "see $folder/log.txt on $(hostname)"
            fi
        fi
        ;;
    follow)
        tail -n 200 -F "$folder/log.txt" 2> /dev/null &
        # shellcheck disable=SC2064
        trap "kill $!" EXIT
        flock "$folder/lock" true
        sleep 1 # the last lines
        if [ -e "$folder/stopped" ]; then exit 130; fi
        exit "$(cat "$folder/status" 2> /dev/null || echo 1)"
        ;;
    *) expllm_fail "on_tpu_worker.sh has no task '$task'" "see its first lines" ;;
esac
