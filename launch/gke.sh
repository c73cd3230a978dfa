#!/usr/bin/env bash
# Starts one training run on Google Kubernetes Engine: a JobSet with one job per TPU slice and one process per host.
#
#   ./launch/gke.sh EXPERIMENT --out FOLDER --topology TOPOLOGY --image IMAGE --bucket BUCKET [...] [-- MORE OF expllm train]
#
#   ./launch/gke.sh expllm_7b_rafdb --out /mnt/expllm/runs/a --topology v5e:4x4 --slices 2 --image REGISTRY/expllm:1 \
#       --bucket my-bucket --service-account trainer --set train.batch=512 --follow
#
# The image is made of the last commit:  git archive HEAD | docker build -f launch/Dockerfile -t REGISTRY/expllm:1 -
# The same command again attaches to what is queued or runs, and starts what has failed again, from its newest checkpoint.
#
#   --out FOLDER            where the run goes; below --mount, so that all hosts see it
#   --topology TOPOLOGY     as for `expllm fit`: v5e:4x4, v5p:4x4x8, tpu7x:2x2x2, ...
#   --slices N              (default: 1)
#   --chips-per-host N      4 for a 2x4 of v5e or v6e on two hosts (default: 8 for these; 1 for 1x1; else 4)
#   --image IMAGE           with expllm in it, as the cluster's nodes can pull it
#   --bucket BUCKET | --pvc CLAIM     what is mounted: a Cloud Storage bucket (GCS FUSE) or a claim that many may write to
#   --mount FOLDER          where it is mounted (default: /mnt/expllm)
#   --accelerator PRESET    one of `expllm config accelerators` (default: that of the topology)
#   --set KEY=VALUE         overrides a key of the experiment; may be repeated
#   --name NAME             of the JobSet (default: expllm- and the last part of FOLDER); the same name is taken for the
#                           same run
#   --namespace NAME        (default: default)
#   --context NAME          which cluster (default: the one kubectl is set to)
#   --queue NAME            a local queue of Kueue
#   --priority-class NAME  --reservation NAME  --spot  --service-account NAME
#   --label KEY=VALUE       of the JobSet and its pods; may be repeated
#   --env NAME=VALUE        an environment variable of the run; may be repeated
#   --max-restarts N        how often all processes are started again when one ends badly or is taken away (default: 100)
#   --grace SECONDS         that the run has to save when it is told to end (default: 300)
#   --follow                shows the log of the first process; exit status 0 if the run is complete
#   --delete                deletes the JobSet; the run in the bucket stays and can go on
#   --dry-run               prints the commands and the manifest, and does nothing
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/one_run.sh"

topology="" slices=1 chips_per_host_asked="" chips_per_host="" image="" bucket="" pvc="" mount=/mnt/expllm namespace=default
context="" queue="" priority_class="" reservation="" spot="" service_account="" max_restarts=100 grace=300 follow="" delete=""
all_label=() all_env=()

# What the flags say, checked; sets gke_accelerator, hosts and cluster (flags of every kubectl command).
check() {
    local setting
    if [ -z "$topology" ]; then expllm_fail "--topology is missing" "give the TPUs to run on: --topology v5e:4x4"; fi
    chips_per_host_asked="$chips_per_host"
    expllm_topology "$topology"
    if [ -n "$chips_per_host_asked" ] && [ "$chips_per_host_asked" != "$chips_per_host" ]; then
        if [ "$chips_per_host_asked:$chips" != 4:8 ] || [ "$hosts" -ne 1 ]; then
            expllm_fail "--chips-per-host $chips_per_host_asked does not go with $topology" "use $chips_per_host, or leave it out"
        fi
        chips_per_host=4 hosts=2
    fi
    expllm_check_number --slices "$slices" 1
    expllm_check_number --max-restarts "$max_restarts" 0
    expllm_check_number --grace "$grace" 1
    if ((slices > 1 && hosts == 1)); then
        expllm_fail "--slices $slices: GKE joins only slices of several hosts, and $topology has one" \
            "use a larger --topology, such as ${generation}:$([[ "$generation" == v[56]e ]] && echo 4x4 || echo 2x2x2)"
    fi
    case "$generation" in
        v4) gke_accelerator=tpu-v4-podslice ;;
        v5e) gke_accelerator=tpu-v5-lite-podslice ;;
        v5p) gke_accelerator=tpu-v5p-slice ;;
        v6e) gke_accelerator=tpu-v6e-slice ;;
        tpu7x) gke_accelerator=tpu7x ;;
    esac
    if [ -z "$image" ]; then
        expllm_fail "--image is missing" "build one with launch/Dockerfile (see $0 --help), push it and name it here"
    fi
    if [ -n "$bucket" ] && [ -n "$pvc" ]; then expllm_fail "--bucket does not go with --pvc" "use one of them"; fi
    if [ -z "$bucket$pvc" ]; then
        expllm_fail "--out $out is on no disk that outlives the pods and that all of them see" "give --bucket BUCKET or --pvc CLAIM"
    fi
    if [ -n "$bucket" ]; then expllm_check_bucket; fi
    expllm_check_mount "${bucket:+bucket}${pvc:+claim}"
    for setting in ${all_label[@]+"${all_label[@]}"}; do
        if ! [[ "$setting" =~ ^[A-Za-z0-9][-A-Za-z0-9_./]*=[-A-Za-z0-9_.]*$ ]]; then
            expllm_fail "--label $setting is no KEY=VALUE as Kubernetes takes it" "write for instance --label team=faces"
        fi
    done
    expllm_check_environment ${all_env[@]+"${all_env[@]}"}
    expllm_experiment_in_copy /opt/expllm # as launch/Dockerfile lays it down
    accelerator="${accelerator:-$generation}"
    cluster=(--namespace="$namespace")
    if [ -n "$context" ]; then cluster+=(--context="$context"); fi
}

print_manifest() {
    local values=("name=$name" "namespace=$namespace" "labels." "jobset_labels." "slices:int=$slices" "hosts:int=$hosts"
        "chips_per_host:int=$chips_per_host" "gke_accelerator=$gke_accelerator" "shape=$shape" "image=$image"
        "bucket=$bucket" "pvc=$pvc" "mount=$mount" "queue=$queue" "priority_class=$priority_class"
        "reservation=$reservation" "spot=$spot" "service_account=$service_account" "max_restarts:int=$max_restarts"
        "grace:int=$grace" "env@") word
    if [ -n "$queue" ]; then values+=("jobset_labels.kueue.x-k8s.io/queue-name=$queue"); fi
    for word in ${all_label[@]+"${all_label[@]}"}; do values+=("labels.$word" "jobset_labels.$word"); done
    for word in "${train_command[@]}"; do values+=("args+=$word"); done
    for word in ${all_env[@]+"${all_env[@]}"}; do values+=("env@=$word"); done
    python3 "$expllm_root/launch/gke/render.py" "$expllm_root/launch/gke/jobset.yaml" "${values[@]}"
}

# ABSENT, RUNNING (or queued), Completed or Failed.
jobset_state() {
    local words
    words="$(kubectl get jobset "$name" "${cluster[@]}" --ignore-not-found \
        '--output=jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}')" ||
        expllm_fail "kubectl cannot say what became of $name" "see its words above (--context, --namespace; is JobSet installed there?)"
    case " $words " in
        "  ") echo ABSENT ;;
        *" Completed "*) echo Completed ;;
        *" Failed "*) echo Failed ;;
        *) echo RUNNING ;;
    esac
}

# Shows the log of the first process, over all restarts, until the JobSet is over.
follow_run() {
    local state pods="jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    local logs=(kubectl logs "${cluster[@]}" --selector="$pods" --container=train --follow --tail=-1 --pod-running-timeout=1m)
    if [ -n "$dry_run" ]; then
        expllm_note "show the log of the first process, again after each restart"
        expllm_do "${logs[@]}"
        return
    fi
    while :; do
        state="$(jobset_state)" || exit $?
        case "$state" in
            RUNNING) "${logs[@]}" || true ;;
            Completed) return ;;
            *)
                expllm_say "error: $name: $state"
                exit 1
                ;;
        esac
        sleep "${EXPLLM_POLL:-10}"
    done
}

expllm_parse "topology slices chips-per-host image bucket pvc mount namespace context queue priority-class reservation \
service-account max-restarts grace" "spot follow delete" "label env" "$@"
check
expllm_train_command
expllm_need kubectl "install kubectl"
command -v python3 > /dev/null || expllm_fail "there is no python3 on this computer" "install Python 3"
if [ -n "$delete" ]; then
    expllm_do kubectl delete jobset "$name" "${cluster[@]}" --ignore-not-found
    exit
fi
manifest="$(print_manifest)"
if [ -n "$dry_run" ]; then
    expllm_note "$slices x $topology: $((chips * slices)) chips on $((hosts * slices)) hosts"
    expllm_here_document "$(expllm_quote kubectl apply "${cluster[@]}" --filename=-)" "$manifest"
else
    state="$(jobset_state)" || exit $?
    case "$state" in
        RUNNING) expllm_say "$name is there already" ;;
        Completed) expllm_say "$name is complete; --delete removes it, and then this command starts it again" ;;
        *)
            if [ "$state" = Failed ]; then
                expllm_say "$name has failed: starting it again"
                kubectl delete jobset "$name" "${cluster[@]}" || exit 1
            fi
            kubectl apply "${cluster[@]}" --filename=- <<< "$manifest" || exit 1
            ;;
    esac
fi
if [ -n "$follow" ]; then follow_run; fi
