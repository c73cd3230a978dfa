# shellcheck shell=bash
# Sourced by tpu_vm.sh, gke.sh and slurm.sh: what starting one run has in common, wherever it runs.
#
# A script declares its flags with `expllm_parse`; the flag --some-name sets the variable some_name, and one that may stand
# several times the array all_some_name. Each script takes EXPERIMENT, --out, --accelerator, --set, --name and --dry-run,
# and after `--` whatever else `expllm train` takes. Bad input is one error and exit status 2, before anything is done.

. "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" > /dev/null && pwd -P)/setup.sh"

experiment="" out="" accelerator="" name="" dry_run=""
all_set=() train_extra=()

# The comment at the head of the script that was called is its help.
expllm_help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
}

# The flags are named without their dashes: those with a value, those without, and those with a value that may be repeated.
expllm_parse() { # VALUES SWITCHES LISTS ARGUMENTS...
    local values=" out accelerator name $1 " switches=" dry-run $2 " lists=" set $3 " flag variable joined
    shift 3
    while [ $# -gt 0 ]; do
        joined=""
        case "$1" in
            --) shift && train_extra=("$@") && break ;;
            -h | --help) expllm_help ;;
            --*=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                joined=yes
                ;;
            --*) ;;
            -*) expllm_fail "there is no flag $1" "see $0 --help" ;;
            *)
                if [ -n "$experiment" ]; then
                    expllm_fail "there are two experiments, $experiment and $1" "give one; a value with spaces needs quotes"
                fi
                experiment="$1"
                shift
                continue
                ;;
        esac
        flag="${1#--}"
        variable="${flag//-/_}"
        if ! [[ "$flag" =~ ^[a-z][-a-z]*$ ]]; then expllm_fail "there is no flag --$flag" "see $0 --help"; fi
        case "$switches" in
            *" $flag "*)
                if [ -n "$joined" ]; then expllm_fail "--$flag takes no value, and $2 was given" "write --$flag alone, or leave it out"; fi
                printf -v "$variable" yes
                shift
                continue
                ;;
        esac
        case "$values$lists" in
            *" $flag "*) ;;
            *) expllm_fail "there is no flag --$flag" "see $0 --help" ;;
        esac
        case "$joined:${2-}" in
            : | yes: | :--*) expllm_fail "--$flag has no value" "write --$flag VALUE, or --$flag=VALUE if it begins with dashes; see $0 --help" ;;
        esac
        case "$lists" in
            *" $flag "*) eval "all_$variable+=(\"\$2\")" ;;
            *) printf -v "$variable" '%s' "$2" ;;
        esac
        shift 2
    done
    expllm_check_common
}

expllm_check_common() {
    local setting
    if [ -z "$experiment" ]; then
        expllm_fail "no experiment is given" "name one from \`expllm config list\`, or a .py file; see $0 --help"
    fi
    if [ -z "$out" ]; then expllm_fail "--out is missing" "give the folder of the run: --out FOLDER"; fi
    expllm_check_line --out "$out"
    case "$out" in
        *[!/]*) ;;
        *) expllm_fail "--out $out is the root of all files" "give the run a folder of its own: --out FOLDER" ;;
    esac
    case "$out" in
        *://*) expllm_fail "--out $out is no path" "mount the bucket (see $0 --help) and give the folder below the mount" ;;
    esac
    for setting in ${all_set[@]+"${all_set[@]}"}; do
        case "$setting" in
            [A-Za-z]*=*) ;;
            *) expllm_fail "--set $setting is no KEY=VALUE" "write for instance --set train.steps=50" ;;
        esac
    done
    for setting in ${train_extra[@]+"${train_extra[@]}"}; do
        case "$setting" in
            --out | --out=*) expllm_fail "--out stands after -- as well" "give the folder of the run once, before --" ;;
        esac
    done
    if [ -z "$name" ]; then
        name="$(basename -- "$out" | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^-*//; s/-*$//' | cut -c 1-33)"
        name="expllm-${name%-}"
        name="${name%-}"
    fi
    if ! [[ "$name" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
        expllm_fail "--name $name cannot name a run" "use at most 40 small letters, digits and dashes, a letter first"
    fi
}

expllm_check_number() { # FLAG VALUE LEAST
    # No leading zeros: the shell would calculate with octal numbers.
    if ! [[ "$2" =~ ^(0|[1-9][0-9]{0,8})$ ]] || [ "$2" -lt "$3" ]; then
        expllm_fail "$1 $2 is not a whole number of $3 or more" "write for instance $1 $(($3 > 2 ? $3 : 2))"
    fi
}

expllm_check_line() { # FLAG VALUE
    case "$2" in
        *$'\n'*) expllm_fail "$1 holds a line break: $(head -n 1 <<< "$2")..." "write it on one line" ;;
    esac
}

expllm_check_environment() { # NAME=VALUE...
    local setting
    for setting in "$@"; do
        if ! [[ "$setting" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
            expllm_fail "--env $setting is no NAME=VALUE" "write for instance --env JAX_LOG_COMPILES=1"
        fi
    done
}

# Each is one whole line of shell: what is left open in it would swallow what comes after it.
expllm_check_prepare() { # COMMANDS...
    local line
    for line in "$@"; do
        expllm_check_line --prepare "$line"
        if ! bash -n <<< "$line" 2> /dev/null || [[ "$line" =~ \\$ ]]; then
            expllm_fail "--prepare $line is no whole line of shell" "close its quotes and brackets, and quote it as one word"
        fi
    done
}

# The name of a bucket in $bucket, without gs://.
expllm_check_bucket() {
    bucket="${bucket#gs://}"
    bucket="${bucket%/}"
    if ! [[ "$bucket" =~ ^[a-z0-9][a-z0-9._-]+$ ]]; then
        expllm_fail "--bucket $bucket names no bucket" "give the name alone, without folders: --bucket my-bucket"
    fi
}

# That the run lies below the folder where the bucket or the claim is mounted.
expllm_check_mount() { # WHAT IS MOUNTED
    case "$mount" in
        /*[!/]*) ;;
        *) expllm_fail "--mount $mount is no folder to mount a $1 on" "give one from the root: --mount /mnt/expllm" ;;
    esac
    expllm_check_line --mount "$mount"
    while [ "${mount%/}" != "$mount" ]; do mount="${mount%/}"; done
    case "$out/" in
        */../*) expllm_fail "--out $out goes up with .." "write the folder as it is" ;;
        "$mount"/*[!/]*) ;;
        *) expllm_fail "--out $out is not below --mount $mount, where the $1 is" "use --out $mount/runs/NAME" ;;
    esac
}

# An experiment that is a .py file of the checkout is there too, where the checkout is a copy; any other file is not.
expllm_experiment_in_copy() { # THE COPY'S FOLDER THERE
    local file
    case "$experiment" in
        *.py) ;;
        *) return ;;
    esac
    file="$(expllm_absolute "$experiment")"
    case "$file" in
        "$expllm_root"/*)
            if git -C "$expllm_root" ls-files --error-unmatch -- "$file" > /dev/null 2>&1; then
                experiment="$1/${file#"$expllm_root"/}"
                return
            fi
            ;;
    esac
    expllm_fail "the experiment $experiment is not committed in $expllm_root, so it would not be there" "put it into configs/ there and commit it"
}

# Prints the path from the root; the folder that holds it need not be there.
expllm_absolute() { # PATH
    local above
    case "$1" in
        */*) above="${1%/*}/" ;;
        *) above=. ;;
    esac
    if above="$(CDPATH='' cd -- "$above" 2> /dev/null && pwd -P)"; then
        printf '%s/%s\n' "${above%/}" "${1##*/}"
    else
        case "$1" in
            /*) printf '%s\n' "$1" ;;
            *) printf '%s/%s\n' "$PWD" "$1" ;;
        esac
    fi
}

# The arguments of `expllm` for this run, as the array train_command.
expllm_train_command() {
    local setting
    train_command=(train "$experiment" --out "$out")
    if [ -n "$accelerator" ]; then train_command+=(--accelerator "$accelerator"); fi
    for setting in ${all_set[@]+"${all_set[@]}"}; do train_command+=(--set "$setting"); done
    train_command+=(${train_extra[@]+"${train_extra[@]}"})
}

# Prints the words as one line that a shell reads back as the same words.
expllm_quote() { # WORDS...
    local word separator=""
    for word in "$@"; do
        case "$word" in
            "" | *[!A-Za-z0-9_./:=@%+,-]*)
                word="$(printf '%sx' "$word" | sed "s/'/'\\\\''/g")" # x: line breaks at its end would be lost
                word="'${word%x}'"
                ;;
        esac
        printf '%s%s' "$separator" "$word"
        separator=" "
    done
    printf '\n'
}

# Runs the command, or in a dry run prints it.
expllm_do() { # COMMAND...
    if [ -n "$dry_run" ]; then expllm_quote "$@"; else "$@"; fi
}

# Prints a command that reads the text from a here-document.
expllm_here_document() { # COMMAND AS A SHELL READS IT, TEXT
    local end=END_OF_TEXT
    while grep -qxF -- "$end" <<< "$2"; do end="${end}_"; done
    printf "%s <<'%s'\n%s\n%s\n" "$1" "$end" "$2" "$end"
}

# A line of a dry run that says why the next commands are run.
expllm_note() { # TEXT
    if [ -n "$dry_run" ]; then printf '# %s\n' "$1"; else expllm_say "$1"; fi
}

expllm_need() { # PROGRAM WHERE IT COMES FROM
    if [ -z "$dry_run" ] && ! command -v "$1" > /dev/null; then
        expllm_fail "there is no $1 on this computer" "$2; or add --dry-run to see what would be done"
    fi
}

# Reads a TPU topology as `expllm fit` names it, such as v5e:4x4, into: generation, shape, chips, hosts, chips_per_host.
# Chips per host: v4, v5p and tpu7x hosts have 4; v5e and v6e hosts have 1, 4 or 8 where they are a slice by themselves,
# else 4 (Google Cloud's tables of TPU configurations).
expllm_topology() { # TOPOLOGY
    local shapes="" a b c
    generation="${1%%:*}" shape="${1#*:}"
    case "$generation" in
        v5e | v6e) shapes="1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16" ;;
        v4 | v5p | tpu7x) shapes="2x2x1 2x2x2 2x2x4 2x4x4" ;;
        *) expllm_fail "--topology $1 names no TPU" "use v4, v5e, v5p, v6e or tpu7x, a colon and the shape: v5e:4x4, v5p:4x4x8" ;;
    esac
    case "$([[ "$shape" =~ ^[0-9x]+$ ]] && echo " $shapes ")" in
        *" $shape "*) ;;
        *)
            if ! [[ "$shape" =~ ^([0-9]{1,2})x([0-9]{1,2})x([0-9]{1,2})$ ]] || [[ "$generation" == v[56]e ]]; then
                expllm_fail "$generation has no topology $shape" "use one of: $shapes$([[ "$generation" == v[56]e ]] || echo ", or three multiples of 4 in rising order such as 4x4x8")"
            fi
            a=$((10#${BASH_REMATCH[1]})) b=$((10#${BASH_REMATCH[2]})) c=$((10#${BASH_REMATCH[3]}))
            if ((a % 4 || b % 4 || c % 4 || a == 0 || a > b || b > c)); then
                expllm_fail "$generation has no topology $shape" "use one of: $shapes, or three multiples of 4 in rising order such as 4x4x8"
            fi
            ;;
    esac
    chips=$((${shape//x/*}))
    case "$generation:$shape" in
        v[56]e:1x1 | v[56]e:2x4) chips_per_host=$chips ;;
        *) chips_per_host=4 ;;
    esac
    # shellcheck disable=SC2034  # read by the scripts
    hosts=$((chips / chips_per_host))
}
