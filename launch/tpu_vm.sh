#!/usr/bin/env bash
# Starts one training run on TPU VMs (v4, v5e, v5p, v6e): asks for them as a queued resource, waits until they are there,
# copies the checkout's last commit to every worker, installs it and starts the run on all of them.
#
#   ./launch/tpu_vm.sh EXPERIMENT --out FOLDER --topology TOPOLOGY --zone ZONE --bucket BUCKET [...] [-- MORE OF expllm train]
#
#   ./launch/tpu_vm.sh expllm_7b_rafdb --out /mnt/expllm/runs/a --topology v5e:4x4 --zone us-west4-a --bucket my-bucket --spot \
#       --set train.batch=256 --follow
#
# The same command again goes on from wherever things stand: it waits for what is queued, attaches to what runs, starts the
# run again where it stopped, and asks for new TPUs where the old ones were taken away; the run then goes on from its newest
# checkpoint. TPUs cost money until --delete. tpu7x is not offered as a VM: use ./launch/gke.sh.
#
#   --out FOLDER              where the run goes; below --mount, so that all workers see it and it outlives them
#   --topology TOPOLOGY       as for `expllm fit`: v5e:4x4, v5p:4x4x4, ...
#   --slices N                (default: 1)
#   --zone ZONE  --project PROJECT     (project default: the one gcloud is set to)
#   --bucket BUCKET           a Cloud Storage bucket, mounted with gcsfuse on every worker
#   --mount FOLDER            where it is mounted (default: /mnt/expllm)
#   --accelerator PRESET      one of `expllm config accelerators` (default: that of the topology)
#   --set KEY=VALUE           overrides a key of the experiment; may be repeated
#   --name NAME               of the queued resource, its nodes and the run (default: expllm- and the last part of FOLDER);
#                             the same name is taken for the same run
#   --spot | --reserved       (default: on demand)
#   --runtime-version VERSION (default: the one that Google names for the TPU)
#   --service-account EMAIL  --network NAME  --subnetwork NAME  --internal-ips
#   --label KEY=VALUE         of the queued resource's nodes; may be repeated
#   --env NAME=VALUE          an environment variable of the run; may be repeated
#   --prepare COMMAND         a line of shell that every worker runs before the install; may be repeated
#   --poll SECONDS            between two looks at the queue (default: 30)
#   --follow                  shows the log of the first worker until the run has ended; exit status 0 if it is complete
#   --until-done              as --follow, and starts again by itself after a pre-emption
#   --stop                    the run saves and ends; the TPUs stay
#   --delete                  deletes the TPUs; the run in the bucket stays and can go on
#   --dry-run                 prints the commands for a run of which nothing is there yet, and does nothing
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/one_run.sh"

topology="" slices=1 zone="" project="" bucket="" mount=/mnt/expllm spot="" reserved="" runtime_version="" service_account=""
network="" subnetwork="" internal_ips="" poll=30 follow="" until_done="" stop="" delete=""
all_label=() all_env=() all_prepare=()

# What the flags say, checked; sets accelerator_type, runtime_version, place (flags of every gcloud command) and nodes.
check() {
    local setting number default_shape=""
    if [ -z "$topology" ]; then expllm_fail "--topology is missing" "give the TPUs to ask for: --topology v5e:4x4"; fi
    expllm_topology "$topology"
    expllm_check_number --slices "$slices" 1
    expllm_check_number --poll "$poll" 0
    if [ -z "$zone" ]; then expllm_fail "--zone is missing" "give the zone that has your TPUs: --zone us-west4-a"; fi
    if [ -n "$spot" ] && [ -n "$reserved" ]; then
        expllm_fail "--spot does not go with --reserved" "use one of them, or neither for TPUs on demand"
    fi
    # Google names v4 and v5p by TensorCores, of which a chip has two, and the others by chips.
    case "$generation" in
        v4) accelerator_type="v4-$((2 * chips))" runtime_version="${runtime_version:-tpu-ubuntu2204-base}" ;;
        v5e) accelerator_type="v5litepod-$chips" runtime_version="${runtime_version:-v2-alpha-tpuv5-lite}" ;;
        v5p) accelerator_type="v5p-$((2 * chips))" runtime_version="${runtime_version:-v2-alpha-tpuv5}" ;;
        v6e) accelerator_type="v6e-$chips" runtime_version="${runtime_version:-v2-alpha-tpuv6e}" ;;
        *) expllm_fail "--topology $topology: Google offers $generation on GKE only" "use ./launch/gke.sh" ;;
    esac
    # By number alone one gets the shape that is closest to a cube.
    case "$generation" in
        v4 | v5p)
            for setting in 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16; do
                if [ "$setting" = "$shape" ]; then default_shape=yes; fi
            done
            if [ -z "$default_shape" ]; then
                expllm_fail "--topology $topology: as a VM $generation comes as 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, ..." \
                    "use one of these, or ./launch/gke.sh for other shapes"
            fi
            ;;
    esac
    if [ -n "$bucket" ]; then
        expllm_check_bucket
        expllm_check_mount bucket
    elif ((hosts * slices > 1)) || [ -n "$spot" ]; then
        expllm_fail "--out $out is on no disk that outlives the workers and that all $((hosts * slices)) of them see" \
            "give a bucket: --bucket BUCKET --out ${mount%/}/runs/NAME"
    fi
    for setting in ${all_label[@]+"${all_label[@]}"}; do
        if ! [[ "$setting" =~ ^[a-z][-_a-z0-9]*=[-_a-z0-9]*$ ]]; then
            expllm_fail "--label $setting is no KEY=VALUE of small letters, digits and dashes" "write for instance --label team=faces"
        fi
    done
    expllm_check_environment ${all_env[@]+"${all_env[@]}"}
    expllm_check_prepare ${all_prepare[@]+"${all_prepare[@]}"}
    expllm_experiment_in_copy "expllm/$name/checkout"
    accelerator="${accelerator:-$generation}"
    place=(--zone="$zone")
    if [ -n "$project" ]; then place+=(--project="$project"); fi
    nodes=("$name")
    if ((slices > 1)); then
        nodes=()
        for ((number = 0; number < slices; number++)); do nodes+=("$name-$number"); done
    fi
}

# The state of the queued resource: ABSENT, WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, ...
resource_state() {
    local words
    if words="$(gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)' 2>&1)"; then
        tail -n 1 <<< "$words"
    elif grep -qi 'not.found' <<< "$words"; then
        echo ABSENT
    else
        printf '%s\n' "$words" >&2
        expllm_fail "gcloud cannot say what became of $name" "see its words above (gcloud auth login; --project; --zone)"
    fi
}

create() {
    local asked=(gcloud compute tpus queued-resources create "$name" "${place[@]}"
        --accelerator-type="$accelerator_type" --runtime-version="$runtime_version") labels
    if ((slices > 1)); then
        asked+=(--node-count="$slices" --node-prefix="$name")
    else
        asked+=(--node-id="$name")
    fi
    if [ -n "$spot" ]; then asked+=(--spot); fi
    if [ -n "$reserved" ]; then asked+=(--reserved); fi
    if [ -n "$internal_ips" ]; then asked+=(--internal-ips); fi
    if [ -n "$service_account" ]; then asked+=(--service-account="$service_account"); fi
    if [ -n "$network" ]; then asked+=(--network="$network"); fi
    if [ -n "$subnetwork" ]; then asked+=(--subnetwork="$subnetwork"); fi
    if [ "${#all_label[@]}" -gt 0 ]; then
        labels="$(IFS=,; printf '%s' "${all_label[*]}")"
        asked+=(--labels="$labels")
    fi
    expllm_note "ask for $slices x $topology ($accelerator_type): $((chips * slices)) chips on $((hosts * slices)) hosts"
    expllm_do "${asked[@]}" || exit 1
}

delete_resource() {
    expllm_do gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet || exit 1
}

# Returns once the TPUs are there.
obtain() {
    local state before=""
    if [ -n "$dry_run" ]; then
        create
        expllm_note "every $poll s, until it says ACTIVE (after SUSPENDED or FAILED the resource is deleted and asked for again)"
        expllm_do gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)'
        return
    fi
    state="$(resource_state)" || exit $?
    case "$state" in
        SUSPENDED | SUSPENDING | FAILED)
            expllm_say "$name is $state: asking for new TPUs"
            delete_resource
            create
            ;;
        ABSENT) create ;;
        *) expllm_say "$name is there" ;;
    esac
    while :; do
        state="$(resource_state)" || exit $?
        if [ "$state" != "$before" ]; then expllm_say "$name: $state"; fi
        before="$state"
        case "$state" in
            ACTIVE) return ;;
            FAILED | SUSPENDED | SUSPENDING | ABSENT)
                expllm_say "error: the TPUs will not come ($state)"
                expllm_say "see: $(expllm_quote gcloud compute tpus queued-resources describe "$name" "${place[@]}")"
                exit 1
                ;;
        esac
        sleep "$poll"
    done
}

# Runs the command on every worker of every slice, all slices at once; ends the script where one of them fails.
on_all_workers() { # WHAT IS DONE, COMMAND
    local node pids=() failed="" index
    expllm_note "$1"
    for node in "${nodes[@]}"; do
        if [ -n "$dry_run" ]; then
            expllm_do gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$2"
        else
            gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$2" &
            pids+=("$!")
        fi
    done
    for index in ${pids[@]+"${!pids[@]}"}; do
        wait "${pids[$index]}" || failed="$failed ${nodes[$index]}"
    done
    if [ -n "$failed" ]; then
        expllm_say "error: '$1' failed on a worker of$failed"
        expllm_say "  to mend it: see its words above; the same command goes on from here"
        exit 1
    fi
}

copy_checkout() { # the last commit, to every worker
    local archive="expllm-$name.tar.gz" node unpack line
    if [ -z "$dry_run" ]; then
        archive="$(mktemp -d)/$archive"
        if ! git -C "$expllm_root" archive --format=tar.gz --output="$archive" HEAD; then
            expllm_fail "$expllm_root is no git checkout" "start from a clone of the repository"
        fi
    else
        archive="${TMPDIR:-/tmp}/$archive"
        expllm_do git -C "$expllm_root" archive --format=tar.gz --output="$archive" HEAD
    fi
    expllm_note "copy the checkout's last commit"
    for node in "${nodes[@]}"; do
        if ! expllm_do gcloud compute tpus tpu-vm scp "$archive" "$node:" "${place[@]}" --worker=all; then
            expllm_say "error: cannot copy to a worker of $node; the same command goes on from here"
            exit 1
        fi
    done
    if [ -z "$dry_run" ]; then rm -rf -- "$(dirname -- "$archive")"; fi
    # What an earlier commit had is removed; the environment that is installed stays.
    unpack="set -e; mkdir -p expllm/$name/checkout; cd expllm/$name/checkout"
    unpack="$unpack; find . -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +; tar -xzf ~/expllm-$name.tar.gz"
    for line in ${all_prepare[@]+"${all_prepare[@]}"}; do unpack="$unpack"$'\n'"$line"; done
    on_all_workers "unpack it${all_prepare[0]+ and prepare}" "$unpack"
}

# How many workers run it now.
running_workers() {
    local node found=0 count
    for node in "${nodes[@]}"; do
        count="$(gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all \
            --command="test -e expllm/$name/lock && ! flock -n expllm/$name/lock true && echo expllm-is-running || true" |
            grep -c expllm-is-running)" || true
        found=$((found + ${count:-0}))
    done
    echo "$found"
}

start_or_attach() {
    local running=0 worker="expllm/$name/checkout/launch/on_tpu_worker.sh"
    # On the workers, the program of the checkout there; variables of the shell there are meant.
    # shellcheck disable=SC2088
    local program="expllm/$name/checkout/.venv/bin/expllm"
    if [ -z "$dry_run" ]; then running="$(running_workers)"; fi
    if ((running == hosts * slices)); then
        expllm_say "$name runs on all $running workers already"
        return
    fi
    if ((running > 0)); then
        expllm_say "$name runs on $running of $((hosts * slices)) workers, which wait for the others in vain"
        on_all_workers "stop it everywhere" "if test -e $worker; then bash $worker stop $name; fi"
    fi
    copy_checkout
    if [ -n "$bucket" ]; then
        on_all_workers "mount the bucket" "bash $worker mount $(expllm_quote "$bucket" "$mount")"
    fi
    on_all_workers "install" "bash $worker install"
    on_all_workers "start the run" \
        "bash $worker start $name env $(expllm_quote ${all_env[@]+"${all_env[@]}"} "$program" "${train_command[@]}")"
}

follow_run() {
    expllm_note "show the log of the first worker"
    expllm_do gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${place[@]}" --worker=0 \
        --command="bash expllm/$name/checkout/launch/on_tpu_worker.sh follow $name"
}

expllm_parse "topology slices zone project bucket mount runtime-version service-account network subnetwork poll" \
    "spot reserved internal-ips follow until-done stop delete" "label env prepare" "$@"
check
expllm_train_command
expllm_need gcloud "install the Google Cloud CLI"
if [ -n "$delete" ]; then
    delete_resource
    exit
fi
if [ -n "$stop" ]; then
    on_all_workers "stop the run" "bash expllm/$name/checkout/launch/on_tpu_worker.sh stop $name"
    exit
fi
if [ -z "$dry_run" ] && ! git -C "$expllm_root" diff --quiet HEAD 2> /dev/null; then
    expllm_fail "the checkout has changes that are not committed, and the last commit is what would run" "commit them, or git stash"
fi
while :; do
    obtain
    start_or_attach
    if [ -z "$follow$until_done" ]; then break; fi
    status=0
    follow_run || status=$?
    if [ "$status" -eq 0 ]; then
        if [ -z "$dry_run" ]; then expllm_say "the run is complete; --delete gives the TPUs back"; fi
        break
    fi
    state="$(resource_state)" || exit $?
    expllm_say "the run ended, or the connection to it, with status $status; $name is $state; the same command goes on"
    # Taken away (143: the run was told so, and has saved; 255: the connection broke). Anything else would only repeat itself.
    case "$until_done:$status:$state" in
        yes:143:* | yes:255:* | yes:*:SUSPEND*) sleep "$poll" ;;
        *) exit 1 ;;
    esac
done
