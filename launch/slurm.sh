#!/usr/bin/env bash
# Starts one training run as a Slurm job that goes on by itself after its time limit, a pre-emption or a failed node.
#
#   ./launch/slurm.sh EXPERIMENT --out FOLDER [--nodes N] [--gpus-per-node [TYPE:]N] [...] [-- MORE OPTIONS OF expllm train]
#
#   ./launch/slurm.sh raf_db --out /shared/runs/a --accelerator h100 --nodes 4 --gpus-per-node 8 --time 12:00:00 \
#       --partition gpu --set train.batch=256 --follow
#
# The checkout and FOLDER have to lie where every node sees them; ./launch/install.sh cuda installs into the checkout. The
# script and the job's log are kept in FOLDER.slurm. The same command again never starts a second job: it attaches to the one
# that is queued or running, and once that is over it starts another one, which goes on from the newest checkpoint.
#
#   --out FOLDER            where the run goes, on a file system that all nodes share
#   --accelerator PRESET    one of `expllm config accelerators`: h100, h200, cpu, ...
#   --set KEY=VALUE         overrides a key of the experiment; may be repeated
#   --name NAME             of the job (default: expllm- and the last part of FOLDER)
#   --nodes N               (default: 1)
#   --gpus-per-node N       or TYPE:N, such as h100:8 (default: none asked for)
#   --tasks-per-node N      processes a node (default: one per GPU, else 1)
#   --cpus-per-task N  --mem SIZE  --time LIMIT  --partition NAME  --account NAME  --qos NAME  --constraint FEATURES
#   --reservation NAME  --exclusive
#   --sbatch OPTION         any other option of sbatch, such as --sbatch=--exclude=node7; may be repeated
#   --prepare COMMAND       a line of shell that the job runs first, such as 'module load cuda'; may be repeated
#   --env NAME=VALUE        an environment variable of the run; may be repeated
#   --save-before SECONDS   how long before the time limit the run is told to save and go on later (default: 120); the same
#                           happens on: scancel --batch --signal=USR1 JOB
#   --expllm PROGRAM        the program to run (default: .venv/bin/expllm in the checkout)
#   --not-shared            FOLDER is on this computer only, and so is the one node
#   --follow                shows the log until the job is over; exit status 0 if the run is complete
#   --cancel                cancels the job; the run stays and can go on
#   --dry-run               prints the script and the command that submits it, and does nothing
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/one_run.sh"

nodes=1 gpus_per_node="" tasks_per_node="" cpus_per_task="" mem="" time="" partition="" account="" qos="" constraint=""
reservation="" exclusive="" save_before=120 expllm="$expllm_root/.venv/bin/expllm" not_shared="" follow="" cancel=""
all_sbatch=() all_prepare=() all_env=()

# What the flags say, checked; sets gpus (a number), tasks_per_node, folder (beside the run) and script.
check() {
    local setting parent
    expllm_check_number --nodes "$nodes" 1
    expllm_check_number --save-before "$save_before" 1
    gpus="${gpus_per_node##*:}"
    if [ -n "$gpus" ]; then expllm_check_number --gpus-per-node "$gpus" 1; fi
    tasks_per_node="${tasks_per_node:-${gpus:-1}}"
    expllm_check_number --tasks-per-node "$tasks_per_node" 1
    if [ -n "$gpus" ] && ((tasks_per_node != 1 && tasks_per_node != gpus)); then
        expllm_fail "--tasks-per-node $tasks_per_node does not go with $gpus GPUs a node" \
            "use $gpus (one process per GPU) or 1 (one process for all of them)"
    fi
    if [ -n "$cpus_per_task" ]; then expllm_check_number --cpus-per-task "$cpus_per_task" 1; fi
    if [ -n "$time" ] && ! [[ "$time" =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]]; then
        expllm_fail "--time $time is no time limit" "write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS"
    fi
    for setting in ${all_env[@]+"${all_env[@]}"}; do
        if ! [[ "$setting" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
            expllm_fail "--env $setting is no NAME=VALUE" "write for instance --env JAX_LOG_COMPILES=1"
        fi
    done
    case "$out" in
        /*) ;;
        *) out="$PWD/$out" ;;
    esac
    out="${out%/}"
    folder="$out.slurm" script="$out.slurm/job.sh"
    case "$out" in *%*) expllm_fail "--out $out holds a % sign, which Slurm replaces" "choose another folder with --out" ;; esac
    if [ -n "$not_shared" ] && ((nodes > 1)); then
        expllm_fail "--not-shared does not go with --nodes $nodes" "put the run where all nodes see it, or use --nodes 1"
    fi
    parent="$out"
    while [ ! -e "$parent" ]; do parent="$(dirname -- "$parent")"; done
    case "$(stat -f -c %T -- "$parent" 2> /dev/null || true):$out/" in
        tmpfs:* | ramfs:* | *:/tmp/* | *:/var/tmp/* | *:/dev/shm/*)
            if [ -z "$not_shared" ]; then
                expllm_fail "--out $out is on this computer only: another node, or the same job after a requeue, would not find it" \
                    "choose a folder on the file system that the nodes share (or add --not-shared, for a cluster of one node)"
            fi
            ;;
    esac
}

# The job, as sbatch reads it.
print_job() {
    local option
    printf '#!/usr/bin/env bash\n'
    printf '#SBATCH %s\n' "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks_per_node"
    for option in "gpus-per-node=$gpus_per_node" "cpus-per-task=$cpus_per_task" "mem=$mem" "time=$time" \
        "partition=$partition" "account=$account" "qos=$qos" "constraint=$constraint" "reservation=$reservation"; do
        if [ -n "${option#*=}" ]; then printf '#SBATCH --%s=%s\n' "${option%%=*}" "$(expllm_quote "${option#*=}")"; fi
    done
    if [ -n "$exclusive" ]; then printf '#SBATCH --exclusive\n'; fi
    for option in ${all_sbatch[@]+"${all_sbatch[@]}"}; do printf '#SBATCH %s\n' "$option"; done
    printf '#SBATCH --requeue\n#SBATCH --open-mode=append\n#SBATCH --signal=B:USR1@%s\n' "$save_before"
    cat << 'JOB'

set -uo pipefail

# Slurm tells this shell alone that the time limit is near; it tells the processes of the run, which save and end.
save_and_go_on="" signalled=""
time_is_up() {
    echo "expllm: the time limit is near; the run saves and is queued again"
    save_and_go_on=yes signalled=yes
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap time_is_up USR1
# When Slurm ends the job (cancelled, pre-empted, queued again), it tells the processes itself: here we only wait for them.
trap 'signalled=yes' TERM

JOB
    for option in ${all_prepare[@]+"${all_prepare[@]}"}; do printf '%s || exit 2\n' "$option"; done
    for option in ${all_env[@]+"${all_env[@]}"}; do
        printf 'export %s=%s\n' "${option%%=*}" "$(expllm_quote "${option#*=}")"
    done
    printf 'cd -- %s || exit 2\n\n' "$(expllm_quote "$expllm_root")"
    printf 'seen=(%s)\n' "$(expllm_quote "$script" "$expllm")"
    printf 'run=(%s)\n' "$(expllm_quote "$expllm" "${train_command[@]}")"
    cat << 'JOB'

# Every node has to see the run and the program.
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c '
    for file in "$@"; do
        if ! [ -e "$file" ]; then
            printf "expllm: error: node %s does not see %s\n  to mend it: put it where all nodes see it\n" "$(hostname)" "$file" >&2
            exit 2
        fi
    done' seen "${seen[@]}" || exit 2

# Each process sees all GPUs of its node and takes its share of them. When one process ends badly the others cannot go on:
# Slurm ends them.
JOB
    # shellcheck disable=SC2016
    printf 'srun%s --kill-on-bad-exit=1 "${run[@]}" &\n' \
        "${cpus_per_task:+ --cpus-per-task=$cpus_per_task}${gpus:+ --gpu-bind=none}"
    cat << 'JOB'
step=$!
while :; do
    signalled=""
    wait "$step"
    status=$?
    if [ -z "$signalled" ]; then break; fi # else a signal came, and the run is still saving
done
# The same job goes on later, from the checkpoint. (137: another process ended first, with everything saved.)
if [ -n "$save_and_go_on" ] && { [ "$status" -eq 143 ] || [ "$status" -eq 137 ]; }; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$status"
JOB
}

# Prints the id of the job that is queued or running under this name; nothing where there is none.
job_id() {
    squeue --noheader --user="$(id -un)" --name="$name" --format=%A | head -n 1
}

# Shows the log until the job has left the queue; ends with its exit status.
follow_job() { # ID
    local id="$1" log="$folder/log-$1.txt" tail_pid state="" shown ended
    touch "$log"
    tail -n +1 -F "$log" 2> /dev/null &
    tail_pid=$!
    # shellcheck disable=SC2064
    trap "kill $tail_pid 2> /dev/null || true" EXIT
    while :; do
        state="$(squeue --noheader --job="$id" --format=%T 2> /dev/null || true)"
        case "$state" in
            "" | COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY | BOOT_FAIL | DEADLINE) break ;;
        esac
        sleep "${EXPLLM_POLL:-10}"
    done
    sleep 1
    shown="$(scontrol show job "$id" --oneliner 2> /dev/null || true)"
    ended="$(sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p' <<< "$shown")"
    expllm_say "job $id: ${ended:-over}; log: $log"
    [ "$ended" = COMPLETED ]
}

expllm_parse "nodes gpus-per-node tasks-per-node cpus-per-task mem time partition account qos constraint reservation \
save-before expllm" "exclusive not-shared follow cancel" "sbatch prepare env" "$@"
check
expllm_train_command
submit=(sbatch --parsable --output="$folder/log-%j.txt" "$script")

if [ -n "$dry_run" ]; then
    printf '# %s:\n' "$script"
    print_job
    printf '\n# submitted by:\n%s\n' "$(expllm_quote "${submit[@]}")"
    exit 0
fi
for program in sbatch squeue scontrol scancel; do
    expllm_need "$program" "run this on a login node of the cluster"
done
if [ -n "$cancel" ]; then
    id="$(job_id)"
    if [ -z "$id" ]; then expllm_fail "no job $name is queued or running" "see squeue --me; --name names another one"; fi
    scancel "$id"
    expllm_say "job $id is cancelled; the same command without --cancel goes on with the run"
    exit 0
fi
if [ ! -x "$expllm" ]; then
    expllm_fail "there is no program $expllm" "install it with ./launch/install.sh cuda (or base), or name another one with --expllm"
fi
id="$(job_id)"
if [ -n "$id" ]; then
    expllm_say "job $id runs $name already"
else
    if ! mkdir -p -- "$folder" 2> /dev/null || ! print_job > "$script"; then
        expllm_fail "cannot write to $folder" "choose another folder with --out, where you may write"
    fi
    if ! id="$("${submit[@]}")"; then exit 1; fi
    id="${id%%;*}"
    expllm_say "submitted job $id; log: $folder/log-$id.txt"
fi
if [ -n "$follow" ]; then follow_job "$id"; fi
