#!/usr/bin/env bash
# The picture at the top of the README, made again: a map of embeddings beside a collapse.
#   bash egs/front/run.sh --data DIR [--set NAME] [--exp DIR] [--out DIR] [--stage N] [--stop-stage N] [key=value ...]
# Left: DIR/NAME (default speechocean_eval) is a folder of audio with speakers, as egs/real/README.md describes them; it is
# embedded by the model in the package. Right: SimSiam on generated voices, once without a predictor and once with
# DirectPred, a minute each on one core. key=value goes to both trainings. --out: where the two files are written (egs/front).
# Stages: 1 generate and prepare, 2 train, 3 embed, 4 draw. What is done is not repeated.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

data=${SPEECHSSL_DATA:-} set=speechocean_eval exp=exp/front out=egs/front stage=1 stop_stage=4
read_options "--data --set --exp --out --stage --stop-stage key=value" "$@"
[[ -d $data/$set ]] || refuse "$data/$set is not a folder; give --data and --set"
# shellcheck source=egs/setup.sh
source egs/setup.sh page
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp"

if wanted 1; then
    [[ -f $exp/voices/train/wav.scp ]] || run 1 generate speechssl prepare synthetic "$exp/audio" "$exp/voices" \
        --speakers 100 --utterances 4 --evaluation-speakers 4
    [[ -f $exp/$set/wav.scp ]] || run 1 prepare speechssl prepare folder "$data/$set" "$exp/$set" --trim 35
fi
if wanted 2; then
    for predictor in none directpred; do
        [[ -f $exp/simsiam-$predictor/model/config.yaml ]] ||
            run 2 "train-$predictor" speechssl train recipes/methods/conf/base.yaml "data.train=[$exp/voices/train]" \
                method=simsiam "method.predictor=$predictor" optimizer.lr=3e-4 features.n_mels=40 \
                encoder.width=32 encoder.embedding_dim=128 "data.crops=[{count: 2, seconds: 0.6}]" \
                augment.noise_prob=0.3 augment.rir_prob=0 monitor.every=5 train.steps=120 train.save_every=1000 \
                train.precision=float32 train.threads=1 data.workers=0 "${overrides[@]}" \
                --resume --out "$exp/simsiam-$predictor"
    done
fi
if wanted 3; then
    [[ -f $exp/$set.npz ]] || run 3 embed speechssl embed small "$exp/$set" --out "$exp/$set.npz"
fi
if wanted 4; then
    run 4 draw python egs/front/picture.py --embeddings "$exp/$set.npz" --speakers "$exp/$set" \
        --runs "without predictor=$exp/simsiam-none" "DirectPred=$exp/simsiam-directpred" --out "$out"
fi
