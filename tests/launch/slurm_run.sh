#!/usr/bin/env bash
# Two processes train the experiment `tiny` on a real Slurm of one node, which launch/slurm.sh submits: once undisturbed, and
# once told to save, queued again, and going on from the checkpoint. Both have to learn the same.
#
#   tests/launch/slurm_run.sh [PROGRAM]      PROGRAM: expllm, as installed (default: .venv/bin/expllm in the checkout)
#
# Exit status 77, with the reason, where there can be no Slurm (see one_node_slurm.sh); 1 and the logs where a run failed.
set -euo pipefail
here="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)"
root="$(cd -- "$here/../.." && pwd -P)"
program="${1:-$root/.venv/bin/expllm}"
if ! [ -x "$program" ]; then
    printf 'slurm_run: there is no program %s; install it with ./launch/install.sh base\n' "$program" >&2
    exit 2
fi

scratch="$(mktemp -d "${TMPDIR:-/tmp}/expllm-slurm.XXXXXX")"
finish() {
    local status=$?
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
        tail -n 40 "$scratch"/*.slurm/log-* "$scratch"/slurm/slurm*.log >&2 2> /dev/null || true
    fi
    "$here/one_node_slurm.sh" stop "$scratch/slurm"
    rm -rf -- "$scratch"
}
trap finish EXIT
"$here/one_node_slurm.sh" start "$scratch/slurm"
export SLURM_CONF="$scratch/slurm/slurm.conf" EXPLLM_POLL=1

submit() { # FOLDER, MORE FLAGS OF slurm.sh
    local folder="$1"
    shift
    "$root/launch/slurm.sh" tiny --out "$folder" --not-shared --tasks-per-node 2 --time 10 --expllm "$program" \
        --set train.checkpoint_every=5 "$@"
}

updates() { # FOLDER; how many are in its log
    cat "$1/metrics.jsonl" 2> /dev/null | wc -l
}

give_up_after() { # SECONDS, FOLDER, CONDITION; waits for it, while the job is there
    local end=$((SECONDS + $1)) folder="$2"
    shift 2
    until "$@"; do
        if ((SECONDS > end)) || [ -z "$(squeue --noheader --format=%A)" ]; then
            printf 'slurm_run: %s: it did not come to "%s"\n' "$folder" "$*" >&2
            exit 1
        fi
        sleep 0.1
    done
}

has_updates() { # FOLDER, HOW MANY
    [ "$(updates "$1")" -ge "$2" ]
}

echo "== undisturbed"
submit "$scratch/whole" --follow
echo "== undisturbed: $SECONDS s"

# The records and the features are the same, and need not be made again.
mkdir "$scratch/parts"
for made in "$scratch"/whole/*; do
    case "${made##*/}" in
        checkpoints | metrics.jsonl | run.json | tensorboard) ;;
        *) cp -R -- "$made" "$scratch/parts/" ;;
    esac
done
echo "== told to save after ten updates, and queued again"
submit "$scratch/parts"
job="$(squeue --noheader --format=%A)"
give_up_after 300 "$scratch/parts" has_updates "$scratch/parts" 10
scancel --batch --signal=USR1 "$job"
submit "$scratch/parts" --follow
echo "== told to save after ten updates, and queued again: done after $SECONDS s"

python3 - "$scratch" "$(scontrol show job "$job" --oneliner)" << 'PYTHON'
import json
import pathlib
import re
import sys

scratch, job = pathlib.Path(sys.argv[1]), sys.argv[2]
restarts = int(re.search(r"Restarts=(\d+)", job)[1])
losses = {
    name: {row["step"]: row["loss"] for row in map(json.loads, (scratch / name / "metrics.jsonl").read_text().splitlines())}
    for name in ("whole", "parts")
}
log = next((scratch / "parts.slurm").glob("log-*.txt")).read_text()
assert restarts == 1, f"the job was queued again {restarts} times"
assert "the run saves and is queued again" in log
saved = int(re.search(r"stopped after update (\d+)", log)[1])
assert 10 <= saved < 40, saved
assert f"training {saved + 1}/40 " in log, "the second part did not go on from the checkpoint"
print(f"{len(losses['whole'])} updates in one go, and {saved} + {len(losses['parts']) - saved} in two parts")
assert len(losses["whole"]) == 40, sorted(losses["whole"])
differing = [step for step in losses["whole"] if losses["parts"].get(step) != losses["whole"][step]]
assert not differing, f"the losses differ at updates {differing}"
print("the losses are the same, bit for bit")
PYTHON
