#!/usr/bin/env bash
# Every check of the repository, set-up included: bash tests/run.sh [--slow] [--coverage] [arguments of pytest]
# bash tests/run.sh --hostile [--quick]: no checks, but the table of what hostile files were tried and what held.
# --slow adds the tests marked slow. --coverage measures which lines of speechssl/ ran, in the commands that tests
# start as well, and fails below the floor in pyproject.toml; it takes half as long again, so CI does it.
# Stops at the first group that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == --hostile ]]; then
    shift
    # shellcheck source=egs/setup.sh
    source egs/setup.sh dev,scale,ray,av,log,track,sweep,export,page,notebooks,hub,transformers
    SPEECHSSL_PYTHON="$(command -v python)"
    export SPEECHSSL_PYTHON
    exec env OMP_NUM_THREADS=1 python -m tests.hostile.table "$@"
fi

# The pages are tested in a Chromium (slow tests). Debian's package is installed where this is root's machine; elsewhere
# the tests take the browser that is there, or say that they are skipped.
browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null && return
    done
    [[ $(id -u) == 0 && -f /etc/debian_version ]] && ! grep -qi ubuntu /etc/os-release || return 0
    echo "set-up: installing chromium, for the tests of the pages" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y --no-install-recommends chromium; } \
        >/dev/null 2>&1 || echo "set-up: no chromium; the tests of the pages will be skipped" >&2
}

options=()
while [[ ${1:-} == --slow || ${1:-} == --coverage ]]; do
    if [[ $1 == --slow ]]; then
        options+=(-m "slow or not slow")
    else
        options+=(--cov --cov-report=term:skip-covered)
    fi
    shift
done

SECONDS=0
# shellcheck source=egs/setup.sh
source egs/setup.sh dev,scale,ray,av,log,track,sweep,export,page,notebooks,hub,transformers
[[ " ${options[*]} " != *" slow or not slow "* ]] || browser
echo "ok   set-up (${SECONDS} s)"

# check NAME COMMAND...: quiet when it passes, its whole output and the end of the run when it fails
check() {
    local name="$1" start=$SECONDS output
    shift
    if ! output="$("$@" 2>&1)"; then
        printf '%s\nFAILED %s; run it alone: %s\n' "$output" "$name" "$*"
        exit 1
    fi
    echo "ok   $name ($((SECONDS - start)) s)"
}

scripts() {
    find .ci egs recipes tests -type d -name exp -prune -o \( -name '*.sh' -o -path .ci/run \) -print 2>/dev/null
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "import-linter" lint-imports
mapfile -t files < <(scripts)
check "shellcheck (${#files[@]} scripts)" shellcheck -x "${files[@]}"
check "mypy" mypy

# The scripts that tests run take this environment as it is: several at once must not install into it.
SPEECHSSL_PYTHON="$(command -v python)"
export SPEECHSSL_PYTHON
# One thread a process: the processes of xdist share the cores. pytest's summary is the last line.
export OMP_NUM_THREADS=1
exec python -m pytest -q -n auto --maxprocesses 4 "${options[@]}" "$@"
