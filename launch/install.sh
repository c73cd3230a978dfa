#!/usr/bin/env bash
# Installs the package into .venv of the checkout, for the processor that will train.
#
#   ./launch/install.sh [base|tpu|cuda]      base: CPUs; tpu: on a TPU VM; cuda: NVIDIA GPUs (default: base)
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/setup.sh"

case "$#:${1-base}" in
    [01]:base | 1:tpu | 1:cuda) expllm_setup .venv "${1-base}" ;;
    *) expllm_fail "there is nothing to install for '$*'" "use one of base, tpu and cuda" ;;
esac
