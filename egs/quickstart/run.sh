#!/usr/bin/env bash
# From nothing to an honest EER in minutes on a CPU, with generated voices and no download:
#   bash egs/quickstart/run.sh [--stage N] [--stop-stage N] [--exp DIR] [--data DIR] [key=value ...]
# Stages: 1 generate, 2 train, 3 embed, 4 evaluate, 5 report. key=value goes to the training configuration.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

stage=1 stop_stage=5 exp=exp/quickstart data=data/quickstart
read_options "--stage --stop-stage --exp --data key=value" "$@"
# shellcheck source=egs/setup.sh
source egs/setup.sh log,page
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp"

if wanted 1; then
    : >"$exp/seconds.tsv"
    run 1 generate speechssl prepare synthetic "$data/audio" "$data"
fi
if wanted 2; then
    rm -rf "$exp/dino"
    run 2 train speechssl train egs/quickstart/conf/quickstart.yaml --out "$exp/dino" \
        "data.train=[$data/train]" "${overrides[@]}"
fi
if wanted 3; then
    for model in untrained model; do
        for set in train eval; do
            run 3 "embed-$model-$set" speechssl embed "$exp/dino/$model" "$data/$set" \
                --precision auto --out "$exp/embeddings/$model/$set.npz"
        done
    done
fi
if wanted 4; then
    for name in untrained trained; do
        model=${name/#trained/model}
        run 4 "evaluate-$name" speechssl evaluate verification "$exp/embeddings/$model/eval.npz" \
            --trials "$data/eval/trials" --speakers "$data/eval" --model "$name" \
            --subtract-mean "$exp/embeddings/$model/train.npz" --out "$exp/eval/$name/generated"
    done
fi
if wanted 5; then
    echo "[stage 5] speechssl report $exp" >&2
    speechssl report "$exp"
    speechssl report "$exp" --html "$exp/page.html" --data "$data/train" "$data/eval"
    echo "page to look at and listen to: $exp/page.html; figures: $exp/results.json" >&2
fi
