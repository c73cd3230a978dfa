#!/usr/bin/env bash
# Two processes train the experiment `tiny` on a real Slurm of one node, which launch/slurm.sh submits: once undisturbed, and
# once told to save, queued again, and going on from the checkpoint. Both have to learn the same. Takes about two minutes.
#
#   tests/launch/slurm_run.sh [PROGRAM]      PROGRAM: expllm, as installed (default: .venv/bin/expllm in the checkout)
#
# Exit status 77 where there can be no Slurm (see one_node_slurm.sh).
set -euo pipefail
here="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)"
root="$(cd -- "$here/../.." && pwd -P)"
program="$(realpath -- "${1:-$root/.venv/bin/expllm}")"

scratch="$(mktemp -d "${TMPDIR:-/tmp}/expllm-slurm.XXXXXX")"
finish() {
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

echo "== undisturbed"
submit "$scratch/whole" --follow

# The records are the same, and need not be made again.
echo "== told to save after ten updates, and queued again"
submit "$scratch/parts"
job="$(squeue --noheader --format=%A)"
until [ "$(updates "$scratch/parts")" -ge 10 ]; do
    if [ -z "$(squeue --noheader --job="$job")" ]; then cat "$scratch/parts.slurm"/log-* && exit 1; fi
    sleep 0.1
done
scancel --batch --signal=USR1 "$job"
submit "$scratch/parts" --follow

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
print(f"{len(losses['whole'])} updates in one go, {len(losses['parts'])} in {restarts + 1} parts")
assert restarts == 1, f"the job was queued again {restarts} times"
assert "the run saves and is queued again" in log
assert len(losses["whole"]) == 40, sorted(losses["whole"])
differing = [step for step in losses["whole"] if losses["parts"].get(step) != losses["whole"][step]]
assert not differing, f"the losses differ at updates {differing}"
print("the losses are the same, bit for bit")
PYTHON
