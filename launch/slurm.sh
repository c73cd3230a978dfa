#!/usr/bin/env bash
# Starts one training run as a Slurm job that goes on by itself after its time limit, a pre-emption or a failed node.
#
#   ./launch/slurm.sh EXPERIMENT --out FOLDER [--nodes N] [--gpus-per-node [TYPE:]N] [...] [-- MORE OPTIONS OF expllm train]
#
#   ./launch/slurm.sh expllm_7b_rafdb --out /shared/runs/a --accelerator h100 --nodes 4 --gpus-per-node 8 --time 12:00:00 \
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
    local option parent
    expllm_check_number --nodes "$nodes" 1
    expllm_check_number --save-before "$save_before" 1
    gpus="${gpus_per_node##*:}"
    if [ -n "$gpus_per_node" ]; then
        if ! [[ "$gpus_per_node" =~ ^([A-Za-z0-9][-A-Za-z0-9_.]*:)?[^:]+$ ]]; then
            expllm_fail "--gpus-per-node $gpus_per_node is neither N nor TYPE:N" "write for instance --gpus-per-node h100:8"
        fi
        expllm_check_number --gpus-per-node "$gpus" 1
    fi
    tasks_per_node="${tasks_per_node:-${gpus:-1}}"
    expllm_check_number --tasks-per-node "$tasks_per_node" 1
    if [ -n "$gpus" ] && ((tasks_per_node != 1 && tasks_per_node != gpus)); then
        expllm_fail "--tasks-per-node $tasks_per_node does not go with $gpus GPUs a node" \
            "use $gpus (one process per GPU) or 1 (one process for all of them)"
    fi
    if [ -n "$cpus_per_task" ]; then expllm_check_number --cpus-per-task "$cpus_per_task" 1; fi
    if [ -n "$time" ]; then check_time; fi
    # A line break would end the #SBATCH line, and what follows it would be run.
    for option in mem partition account qos constraint reservation expllm; do expllm_check_line "--$option" "${!option}"; done
    for option in ${all_sbatch[@]+"${all_sbatch[@]}"}; do
        expllm_check_line --sbatch "$option"
        case "$option" in
            -?*) ;;
            *) expllm_fail "--sbatch $option is no option of sbatch" "write it with its dashes: --sbatch=--exclude=node7" ;;
        esac
    done
    expllm_check_environment ${all_env[@]+"${all_env[@]}"}
    expllm_check_prepare ${all_prepare[@]+"${all_prepare[@]}"}
    # The job starts in the checkout.
    expllm="$(expllm_absolute "$expllm")"
    case "$experiment" in
        *.py)
            if [ ! -f "$experiment" ]; then
                expllm_fail "there is no experiment $experiment" "name one from \`expllm config list\`, or a .py file that is there"
            fi
            experiment="$(expllm_absolute "$experiment")"
            ;;
    esac
    case "$out" in
        /*) ;;
        *) out="$PWD/$out" ;;
    esac
    while [ "${out%/}" != "$out" ]; do out="${out%/}"; done
    folder="$out.slurm" script="$out.slurm/job.sh"
    case "$out" in
        *[%\\]*) expllm_fail "--out $out holds a % or a \\, which mean something else to Slurm" "choose another folder with --out" ;;
    esac
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

# That the time limit is one, and leaves time to train before the run is told to save: else it would be queued for ever.
check_time() {
    local days=0 rest="$time" seconds parts
    if ! [[ "$time" =~ ^([0-9]{1,4}-)?[0-9]{1,6}(:[0-9]{1,2}){0,2}$ ]]; then
        expllm_fail "--time $time is no time limit" "write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS"
    fi
    case "$rest" in
        *-*) days="${rest%%-*}" rest="${rest#*-}" ;;
    esac
    IFS=: read -r -a parts <<< "$rest"
    seconds=$((10#${parts[0]})) # hours after days or before minutes and seconds, else minutes
    if [ "$days" != 0 ] || [ "$rest" != "$time" ] || [ "${#parts[@]}" -eq 3 ]; then
        seconds=$((3600 * seconds + 60 * 10#${parts[1]:-0} + 10#${parts[2]:-0}))
    else
        seconds=$((60 * seconds + 10#${parts[1]:-0}))
    fi
    seconds=$((86400 * 10#$days + seconds))
    if ((seconds > 0 && seconds <= save_before)); then # 0: no limit
        expllm_fail "--time $time is over before the run is told to save, $save_before s before its end" \
            "ask for more time, or give a smaller --save-before SECONDS"
    fi
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
    for option in ${all_sbatch[@]+"${all_sbatch[@]}"}; do
        case "$option" in
            --*=*) printf '#SBATCH %s=%s\n' "${option%%=*}" "$(expllm_quote "${option#*=}")" ;;
            *) printf '#SBATCH %s\n' "$option" ;;
        esac
    done
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
    for option in ${all_prepare[@]+"${all_prepare[@]}"}; do
        printf '{\n%s\n} || exit 2\n' "$option"
    done
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
    local id command
    if ! command="$("${queue[@]}")"; then
        expllm_fail "squeue cannot say which jobs there are" "see its words above; the same command may be given again"
    fi
    read -r id command <<< "$command" || true
    if [ -n "$id" ] && [ "$command" != "$script" ]; then
        expllm_fail "job $id has the name $name and runs $command" "give this run another --name"
    fi
    printf '%s\n' "$id"
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
queue=(squeue --noheader --user="$(id -un)" --name="$name" "--format=%A %o")

if [ -n "$dry_run" ]; then
    if [ -n "$cancel" ]; then
        expllm_note "the first word is the number of the job"
        printf 'scancel "$(%s | cut -d " " -f 1)"\n' "$(expllm_quote "${queue[@]}")"
        exit
    fi
    expllm_note "unless a job of this name is there already"
    expllm_quote mkdir -p -- "$folder"
    expllm_here_document "cat > $(expllm_quote "$script")" "$(print_job)"
    expllm_quote "${submit[@]}"
    exit
fi
for program in sbatch squeue scontrol scancel; do
    expllm_need "$program" "run this on a login node of the cluster"
done
if [ -n "$cancel" ]; then
    id="$(job_id)" || exit $?
    if [ -z "$id" ]; then expllm_fail "no job $name is queued or running" "see squeue --me; --name names another one"; fi
    scancel "$id"
    expllm_say "job $id is cancelled; the same command without --cancel goes on with the run"
    exit
fi
if ! [ -x "$expllm" ] || [ -d "$expllm" ]; then
    expllm_fail "there is no program $expllm" "install it with ./launch/install.sh cuda (or base), or name another one with --expllm"
fi
id="$(job_id)" || exit $?
if [ -n "$id" ]; then
    expllm_say "job $id runs $name already"
else
    if ! mkdir -p -- "$folder" 2> /dev/null || ! print_job 2> /dev/null > "$script"; then
        expllm_fail "cannot write to $folder" "choose another folder with --out, where you may write"
    fi
    if ! id="$("${submit[@]}")"; then exit 1; fi
    id="${id%%;*}"
    expllm_say "submitted job $id; log: $folder/log-$id.txt"
fi
if [ -n "$follow" ]; then follow_job "$id"; fi
