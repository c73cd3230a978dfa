#!/usr/bin/env bash
# A real Slurm on this one computer, for tests: a controller and one node with two processors, all of it below FOLDER.
#
#   tests/launch/one_node_slurm.sh start FOLDER      installs Debian's slurm-wlm first where it is missing
#   export SLURM_CONF=FOLDER/slurm.conf              and then sbatch, squeue, ... talk to it
#   tests/launch/one_node_slurm.sh stop FOLDER
#
# Needs root, and apt where Slurm is not installed; without them it says so and ends with status 77 (nothing was tested).
# No munge and no cgroups: whoever can reach the controller's port may start jobs, so this is for a throw-away computer.
set -euo pipefail

cannot() {
    printf 'one_node_slurm: skipped: %s\n' "$1" >&2
    exit 77
}

install_slurm() {
    if command -v slurmctld > /dev/null && command -v slurmd > /dev/null; then return; fi
    command -v apt-get > /dev/null || cannot "Slurm is not installed, and there is no apt-get to install it with"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends slurm-wlm; } > "$folder/apt.log" 2>&1 ||
        cannot "apt-get could not install slurm-wlm: $(tail -n 1 "$folder/apt.log")"
}

start() {
    local host port
    [ "$(id -u)" -eq 0 ] || cannot "it takes root to start Slurm's daemons"
    mkdir -p -- "$folder/state" "$folder/spool"
    install_slurm
    host="$(hostname -s)"
    # Two free ports, so that a Slurm which is here already is left alone.
    port="$(python3 -c 'import socket; a, b = socket.socket(), socket.socket(); a.bind(("", 0)); b.bind(("", 0)); print(a.getsockname()[1], b.getsockname()[1])')"
    # cred_expire: a job that is queued again waits this long, 120 s by default. KillWait: how long a job may save.
    cat > "$folder/slurm.conf" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${port% *}
SlurmdPort=${port#* }
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
KillWait=20
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -c
    slurmd -c
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ]; then
            printf 'one_node_slurm: ready; export SLURM_CONF=%s\n' "$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
    printf 'one_node_slurm: the node did not come up in 30 s\n' >&2
    exit 1
}

stop() {
    local daemon pid
    # Jobs outlive the daemons.
    if [ -e "$folder/slurmctld.pid" ]; then
        export SLURM_CONF="$folder/slurm.conf"
        scancel --user="$(id -un)" || true
        for _ in $(seq 120); do
            [ -n "$(squeue --noheader 2> /dev/null)" ] || break
            sleep 0.25
        done
    fi
    for daemon in slurmd slurmctld; do
        if pid="$(cat "$folder/$daemon.pid" 2> /dev/null)"; then kill "$pid" 2> /dev/null || true; fi
    done
    for _ in $(seq 40); do
        [ -e "$folder/slurmd.pid" ] || [ -e "$folder/slurmctld.pid" ] || return 0
        sleep 0.25
    done
}

case "${1-} ${2-}" in
    "start "?* | "stop "?*)
        mkdir -p -- "$2"
        folder="$(cd -- "$2" && pwd -P)"
        "$1"
        ;;
    *)
        printf 'usage: %s start|stop FOLDER\n' "$0" >&2
        exit 2
        ;;
esac
