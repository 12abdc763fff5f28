# shellcheck shell=bash
# To be sourced by the run scripts: `source egs/setup.sh EXTRA,EXTRA`. Afterwards `python` and `speechssl` are
# those of the environment. Does the set-up once (the first run takes minutes, later ones no time):
#   * SPEECHSSL_PYTHON=/path/to/python, or an activated virtual environment: used as it is, nothing is installed
#     (for GPU machines with a torch of their own: `pip install -e '.[EXTRAS]'` there first);
#   * otherwise .venv in the repository's root, with the versions pinned in tests/constraints.txt.
# On Linux without a GPU, point pip at PyTorch's CPU wheels first (PIP_EXTRA_INDEX_URL) to save some GB of CUDA.

_setup_fail() {
    echo "setup: $1" >&2
    exit 2
}

# The first interpreter that the pinned versions support.
_setup_find_python() {
    local candidate
    for candidate in python3 python3.12 python3.11 python3.13 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

_setup_install() {
    local root="$1" extras="$2" found
    if [[ ! -x $root/.venv/bin/python ]]; then
        found="$(_setup_find_python)"
        [[ -n $found ]] || _setup_fail "no Python 3.11 or newer found; install one, or set SPEECHSSL_PYTHON"
        "$found" -m venv "$root/.venv" \
            || _setup_fail "'$found -m venv' failed (on Debian and Ubuntu: install python3-venv)"
    fi
    local python="$root/.venv/bin/python" pins="$root/tests/constraints.txt"
    local stamp
    stamp="$root/.venv/.installed-$({
        cat "$root/pyproject.toml" "$pins"
        echo "$extras"
    } | cksum | tr ' ' '-')"
    [[ -e $stamp ]] && return
    echo "setup: installing into .venv (once; some minutes)" >&2
    # torch first, by its pin alone, so that nothing else decides which build is fetched
    local pip=("$python" -m pip install -qq --disable-pip-version-check -c "$pins")
    if ! { "${pip[@]}" torch && "${pip[@]}" -e "${root}[$extras]"; }; then
        _setup_fail "the installation failed; pip's message is above"
    fi
    # librosa compiles some functions when it is first imported. Processes that do so at once can leave code on the disk
    # that crashes whoever loads it (numba's issue 10128).
    "$python" -c 'import librosa; librosa.yin, librosa.zero_crossings, librosa.beat.beat_track, librosa.util.localmax' \
        || _setup_fail "librosa cannot be imported; the error is above"
    touch "$stamp"
}

_setup() {
    local root python
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    if [[ -n ${SPEECHSSL_PYTHON:-} ]]; then
        python="$(command -v "$SPEECHSSL_PYTHON")" || _setup_fail "SPEECHSSL_PYTHON=$SPEECHSSL_PYTHON is not a program"
    elif [[ -n ${VIRTUAL_ENV:-} && ! $VIRTUAL_ENV -ef $root/.venv ]]; then
        python="$VIRTUAL_ENV/bin/python"
    else
        _setup_install "$root" "$1"
        python="$root/.venv/bin/python"
    fi
    (cd / && "$python" -c 'import speechssl') 2>/dev/null \
        || _setup_fail "$python has no speechssl; run: $python -m pip install -e '${root}[$1]'"
    PATH="$(dirname "$python"):$PATH"
    export PATH
}

_setup "${1:-log}"
