# Sourced by the scripts beside it: makes a Python environment in the checkout and installs what launch/lock/ pins into it.
#
#   expllm_setup FOLDER LOCK     FOLDER: .venv, .venv-parity, .venv-fit or .venv-beam
#                                LOCK: base; dev, which includes base; parity or fit, which include dev; tpu or cuda (base,
#                                and what drives the processor); or beam, which stands alone
#
# A stamp in the environment holds the SHA-256 of the lock files and of setup.cfg: while it matches, nothing is installed and
# no network is needed. EXPLLM_PYTHON names the Python 3.11 to use. Environment problems are one error and exit status 2.

expllm_root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." > /dev/null && pwd -P)"

# A user's own settings must not leak into the pinned environment.
export PYTHONNOUSERSITE=1
# Large pages for large buffers: training on CPUs is a tenth faster.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

expllm_say() { printf 'expllm: %s\n' "$*" >&2; }

expllm_fail() { # PROBLEM REMEDY
    printf 'expllm: error: %s\n  to mend it: %s\n' "$1" "$2" >&2
    exit 2
}

# Prints the path of a Python 3.11 that can make environments.
expllm_find_python() {
    local candidate
    local probe='import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11)); '
    if [ -n "${EXPLLM_PYTHON:-}" ]; then
        if ! "$EXPLLM_PYTHON" -c "$probe" > /dev/null 2>&1; then
            expllm_fail "EXPLLM_PYTHON=$EXPLLM_PYTHON is not a Python 3.11 with the venv module" \
                "set EXPLLM_PYTHON to a Python 3.11 (on Debian and Ubuntu: apt install python3.11-venv)"
        fi
        printf '%s\n' "$EXPLLM_PYTHON"
        return
    fi
    for candidate in python3.11 python3 python /usr/bin/python3.11; do
        if "$candidate" -c "$probe" > /dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    expllm_fail "no Python 3.11 with the venv module found (tried python3.11, python3, python)" \
        "install Python 3.11 (Debian, Ubuntu: apt install python3.11-venv; macOS: brew install python@3.11) or set EXPLLM_PYTHON=/path/to/python3.11"
}

# Runs pip quietly; what it said is kept in the environment, and shown in one line, only if it failed.
expllm_pip() { # VENV ARGUMENTS...
    local venv="$1" log="$1/pip.log" words cause
    shift
    rm -f "$log"
    if words="$("$venv/bin/python" -m pip --disable-pip-version-check --no-input -q "$@" 2>&1)"; then return; fi
    if grep -q 'No space left on device' <<< "$words"; then
        expllm_fail "the disk is full while installing into $venv" "free about 2 GB (4 GB for the parity tests) and run this again"
    fi
    printf '%s\n' "$words" > "$log"
    # Without a network pip's last word is that the package does not exist; the reason stands in the warnings before it.
    cause="$(grep -oE 'NewConnectionError|NameResolutionError|Connect(ion)?TimeoutError|ReadTimeoutError|ProxyError|SSLError' <<< "$words" | head -n 1 || true)"
    if [ -n "$cause" ]; then
        expllm_fail "PyPI cannot be reached ($cause); pip's own words are in $log" \
            "connect to the internet, or point pip to your mirror (pip config set global.index-url ...), and run this again"
    fi
    cause="$(grep -E '^ *(ERROR|error):' <<< "$words" | tail -n 1 || true)"
    expllm_fail "pip could not install into $venv: ${cause:-no reason given}; all it said is in $log" \
        "see the reason; if the environment itself is damaged, delete $venv and run this again"
}

expllm_setup() { # FOLDER LOCK
    local folder="$1" lock="$2" venv="$expllm_root/$1"
    if [ ! -f "$expllm_root/launch/lock/$lock.txt" ]; then
        expllm_fail "there is no launch/lock/$lock.txt" "use one of: base, dev, parity, fit, tpu, cuda, beam"
    fi
    if expllm_is_ready "$venv" "$lock"; then return; fi

    # Two first runs at once would write the same files; the second waits and then finds everything done.
    if ! { exec 9> "$venv.lock"; } 2> /dev/null; then
        expllm_fail "cannot write to $expllm_root" "make the checkout writable, or check it out where you may write"
    fi
    if command -v flock > /dev/null && ! flock -n 9; then
        expllm_say "another run is installing into $folder; waiting for it"
        flock 9
    fi
    if ! expllm_is_ready "$venv" "$lock"; then expllm_install "$folder" "$lock"; fi
    exec 9>&-
}

# Prints a lock with those that it includes.
expllm_locks() { # LOCK
    case "$1" in
        base) echo "base" ;;
        tpu | cuda) echo "base $1" ;;
        dev) echo "base dev" ;;
        beam) echo "beam" ;;  # its pins contradict those of base
        *) echo "base dev $1" ;;
    esac
}

expllm_is_ready() { # VENV LOCK
    local fingerprint
    fingerprint="$(expllm_fingerprint "$1" "$2" 2> /dev/null)" &&
        [ "$(cat "$1/.expllm-$2.sha256" 2> /dev/null)" = "$fingerprint" ]
}

# Prints the SHA-256 of all that decides what is installed; fails where the environment has no working Python 3.11. Its place
# counts as well: the scripts in an environment name their interpreter by its full path, so a moved one is installed again.
expllm_fingerprint() { # VENV LOCK
    # shellcheck disable=SC2046
    "$1/bin/python" - "$expllm_root" "$1" $(expllm_locks "$2") << 'PYTHON'
import hashlib
import pathlib
import sys

if sys.version_info[:2] != (3, 11):
    sys.exit(1)
root, environment, *locks = sys.argv[1:]
digest = hashlib.sha256(f"{environment} {sys.version}".encode())
for name in [f"launch/lock/{lock}.txt" for lock in locks] + ["setup.cfg", "pyproject.toml"]:
    digest.update(pathlib.Path(root, name).read_bytes())
print(digest.hexdigest())
PYTHON
}

expllm_install() { # FOLDER LOCK
    local venv="$expllm_root/$1" lock="$2" python output included fingerprint started=$SECONDS
    if ! "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' > /dev/null 2>&1; then
        python="$(expllm_find_python)" || exit $?
        expllm_say "making $1 with $("$python" --version)"
        if ! output="$("$python" -m venv --clear "$venv" 2>&1)"; then
            expllm_fail "cannot make the Python environment $venv: $(printf '%s\n' "$output" | tail -n 1)" \
                "make sure that $expllm_root is writable and its disk has 2 GB free"
        fi
    fi
    if [ -e "$venv/.expllm-$lock.sha256" ]; then
        expllm_say "bringing $1 up to date with launch/lock/$lock.txt and setup.cfg"
    else
        expllm_say "installing what launch/lock/$lock.txt pins from PyPI into $1 ($(expllm_size "$lock"); only once)"
    fi
    expllm_pip "$venv" install -r "$expllm_root/launch/lock/$lock.txt"
    expllm_pip "$venv" install --no-build-isolation --no-deps -e "$expllm_root"
    for included in $(expllm_locks "$lock"); do
        fingerprint="$(expllm_fingerprint "$venv" "$included")" ||
            expllm_fail "cannot read launch/lock and setup.cfg in $expllm_root" "check the project out again"
        printf '%s\n' "$fingerprint" > "$venv/.expllm-$included.sha256"
    done
    expllm_say "installed in $((SECONDS - started)) s"
}

# What a first installation costs on Linux x86-64: measured, but for cuda, which is an estimate.
expllm_size() { # LOCK
    case "$1" in
        base) echo "about 83 packages, about 1.3 GB on disk, a minute or two" ;;
        dev) echo "about 95 packages, about 1.4 GB on disk, a minute or two" ;;
        parity) echo "about 130 packages, about 2.9 GB on disk, a few minutes" ;;
        fit) echo "about 96 packages, about 2.0 GB on disk, a few minutes" ;;
        tpu) echo "about 84 packages, about 2.0 GB on disk, a minute or two" ;;
        cuda) echo "about 98 packages, about 6 GB on disk, some minutes" ;;
        beam) echo "about 102 packages, about 1.5 GB on disk, a minute or two" ;;
    esac
}
