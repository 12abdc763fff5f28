#!/usr/bin/env bash
# An environment with Flower, .venv-federated in the repository's root:
#   bash recipes/federated/setup.sh [--dry-run]
#   SPEECHSSL_PYTHON=.venv-federated/bin/python bash recipes/federated/run.sh --engine flower
# Every release of Flower wants protobuf below 7, rich below 15, packaging below 26, and fixed releases of fastapi,
# starlette and uvicorn; the package's other extras are tested with newer ones. So Flower has an environment of its own,
# with the versions of constraints.txt beside this script, and those of tests/constraints.txt for all else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

own=recipes/federated/constraints.txt
venv=.venv-federated
[[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
# Names are compared as pip does: case, dash, underscore and dot do not count.
name() { sed 's/[=<>].*//; s/[-_.]/-/g' <<<"${1,,}"; }
declare -A replaced
while read -r line; do
    [[ -z $line || $line == \#* ]] || replaced[$(name "$line")]=yes
done <"$own"
while read -r line; do
    [[ -n $line && $line != \#* ]] || continue
    [[ -n ${replaced[$(name "$line")]:-} ]] || echo "$line"
done <tests/constraints.txt >"$venv/pins.txt"
cat "$own" >>"$venv/pins.txt"
pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check -c "$venv/pins.txt" "$@")
"${pip[@]}" torch
"${pip[@]}" -e '.[federated,ray]' pytest
