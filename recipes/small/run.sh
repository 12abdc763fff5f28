#!/usr/bin/env bash
# The model that comes with the package (speechssl/models/small), made again from audio:
#   bash recipes/small/run.sh [--data DIR] [--exp DIR] [--out DIR] [--stage N] [--stop-stage N] [key=value ...]
# DIR (default: $SPEECHSSL_DATA) holds the folders that egs/real/README.md describes. Only sets whose licence lets
# weights be published train it, no label does. key=value goes to the training (egs/real/run.sh).
# Stages: 1 prepare, train, fit, shift, embed, evaluate and report (egs/real/run.sh); 2 pack in half precision;
# 3 calibrate: the threshold at each length and for telephones, on the two sets that chose the recipe. About 20 minutes of one core for the training.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

data=${SPEECHSSL_DATA:-} exp=exp/small out="" stage=1 stop_stage=3
read_options "--data --exp --out --stage --stop-stage key=value" "$@"
[[ -n $out ]] || out=$exp/packed
# shellcheck source=egs/setup.sh
source egs/setup.sh log
# shellcheck source=egs/stages.sh
source egs/stages.sh

if wanted 1; then
    bash egs/real/run.sh --publishable --telephone --config contrastive-small --data "$data" --exp "$exp" \
        "${overrides[@]}"
fi
mkdir -p "$exp"
if wanted 2; then
    run 2 pack python recipes/small/pack.py "$exp/banded" "$out"
fi
if wanted 3; then
    chosen=()
    : >"$exp/calibration-trials"
    : >"$exp/calibration-utt2dur"
    for set in arabic_commands alphanumeric_eval; do
        # Cut to lengths drawn by lot, once as they are and once with every other recording by telephone: what a score
        # means depends on both.
        for version in "$set" "$set-mixed"; do
            [[ -d $exp/data/$version ]] || continue
            beginnings=$exp/beginnings/$version
            python egs/real/beginnings.py "$exp/data/$version" "$beginnings" --prefix "$version/"
            chosen+=("$beginnings")
            cat "$beginnings/trials" >>"$exp/calibration-trials"
            cat "$beginnings/utt2dur" >>"$exp/calibration-utt2dur"
        done
    done
    ((${#chosen[@]})) || refuse "$exp/data holds none of the two sets; run stage 1"
    run 3 embed-chosen speechssl embed "$out" "${chosen[@]}" --out "$exp/chosen.npz"
    run 3 calibrate speechssl calibrate "$out" "$exp/chosen.npz" --trials "$exp/calibration-trials" \
        --durations "$exp/calibration-utt2dur" --data "${chosen[@]}"
fi
echo "model: $out" >&2
