#!/usr/bin/env bash
# The laptop demo, from nothing: installs what it needs, then renders faces, writes records, trains, evaluates, answers, exports.
#
#   ./launch/demo.sh [--out FOLDER] [...]      options go to `expllm demo`; see ./launch/demo.sh --help
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/setup.sh"

expllm_setup .venv base
exec "$expllm_root/.venv/bin/expllm" demo "$@"
