#!/usr/bin/env bash
# The tests, from nothing: installs what they need, then runs pytest in the checkout.
#
#   ./launch/test.sh            all of the default tests, on every core
#   ./launch/test.sh [...]      options go to pytest, e.g.  ./launch/test.sh tests/faces -k mirror
#   EXPLLM_VENV=.venv-parity EXPLLM_LOCK=parity ./launch/test.sh -m parity      numbers against other implementations
#   EXPLLM_VENV=.venv-fit EXPLLM_LOCK=fit ./launch/test.sh -m fit               programs for TPUs, by their compiler
#   EXPLLM_VENV=.venv-beam EXPLLM_LOCK=beam ./launch/test.sh tests/{records,engine}/test_beam.py     what runs on Apache Beam
set -euo pipefail
. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/setup.sh"

expllm_setup "${EXPLLM_VENV:-.venv}" "${EXPLLM_LOCK:-dev}"
cd -- "$expllm_root"
if [ $# -eq 0 ]; then set -- -n logical --dist loadgroup; fi
exec "$expllm_root/${EXPLLM_VENV:-.venv}/bin/python" -m pytest "$@"
