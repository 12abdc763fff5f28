# shellcheck shell=bash
# To be sourced by the run scripts, which set `exp`, `stage` and `stop_stage` before.

# wanted N: is stage N between --stage and --stop-stage?
wanted() { ((${stage:?} <= $1 && $1 <= ${stop_stage:?})); }

# run N NAME COMMAND...: print one stage's command, run it, and note its seconds in $exp/seconds.tsv
run() {
    local number=$1 name=$2 begun=${EPOCHREALTIME//[.,]/} tenths # microseconds; the locale chooses point or comma
    shift 2
    echo "[stage $number] $*" >&2
    "$@"
    tenths=$(((${EPOCHREALTIME//[.,]/} - begun) / 100000))
    printf '%s\t%d.%d\n' "$name" $((tenths / 10)) $((tenths % 10)) >>"${exp:?}/seconds.tsv"
}
