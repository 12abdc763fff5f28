#!/usr/bin/env bash
# Every method and every predictor, for the same number of steps on the same audio, in one table and one figure:
#   bash recipes/methods/run.sh --data DIR [--steps N] [--arms "NAME ..."] [--exp DIR] [--config FILE]
#                               [--train "SET ..."] [--eval "SET ..."] [--noise DIR] [--rir DIR] [--device D]
#                               [--stage N] [--stop-stage N] [key=value ...]
#   bash recipes/methods/run.sh --tiny      # on generated voices, two steps each: does everything run?
# DIR is laid out as for egs/real/run.sh. The arms are the lines of conf/arms.tsv; --arms names some of them.
# Stages: 1 prepare, 2 train, 3 embed and evaluate, 4 diagnose, 5 table and figure. What is done is not repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

data=${SPEECHSSL_DATA:-} steps=100 chosen="" exp="" config=recipes/methods/conf/base.yaml device=auto tiny=
train_sets="librispeech_train unlabelled" eval_sets="librispeech_test arabic_commands ravdess"
noise="" rir="" stage=1 stop_stage=5
overrides=()
usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
while (($#)); do
    case $1 in
        --tiny) tiny=yes && shift ;;
        --data) data=$2 && shift 2 ;;
        --steps) steps=$2 && shift 2 ;;
        --arms) chosen=$2 && shift 2 ;;
        --exp) exp=$2 && shift 2 ;;
        --config) config=$2 && shift 2 ;;
        --train) train_sets=$2 && shift 2 ;;
        --eval) eval_sets=$2 && shift 2 ;;
        --noise) noise=$2 && shift 2 ;;
        --rir) rir=$2 && shift 2 ;;
        --device) device=$2 && shift 2 ;;
        --stage) stage=$2 && shift 2 ;;
        --stop-stage) stop_stage=$2 && shift 2 ;;
        *=*) overrides+=("$1") && shift ;;
        *) usage ;;
    esac
done
# shellcheck source=egs/setup.sh
source egs/setup.sh log
# shellcheck source=egs/stages.sh
source egs/stages.sh
exp=${exp:-exp/methods${tiny:+-tiny}}
mkdir -p "$exp/data"
diagnose=(--precision auto --device "$device")
if [[ $tiny ]]; then
    steps=2 train_sets=train eval_sets=eval
    overrides=(
        encoder.width=16 encoder.scale=2 encoder.embedding_dim=16 features.n_mels=24 "data.crops=[{count: 2, seconds: 0.5}]"
        train.batch_size=16 train.precision=float32 augment.rir_prob=0 data.workers=0 train.log_every=1
        "${overrides[@]}"
    )
    diagnose+=(--utterances 20 --views 2 --seconds 0.5)
else
    [[ -d $data ]] || { echo "run.sh: --data '$data' is not a folder; give the folder of audio" >&2 && exit 2; }
    [[ -n $noise || ! -d $data/noise ]] || noise=$data/noise
    [[ -n $rir || ! -d $data/rir ]] || rir=$data/rir
    diagnose+=(--utterances 600)
fi

if wanted 1; then
    if [[ $tiny ]]; then
        [[ -f $exp/data/eval/trials ]] || run 1 generate speechssl prepare synthetic "$exp/audio" "$exp/data" \
            --speakers 12 --utterances 4 --evaluation-speakers 4 --shortest 1 --longest 1.5
    else
        for set in $train_sets $eval_sets; do
            [[ -f $exp/data/$set/wav.scp ]] ||
                run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$exp/data/$set" --trim 35
        done
    fi
fi
train=() evals=()
for set in $train_sets; do train+=("$exp/data/$set"); done
for set in $eval_sets; do [[ ! -f $exp/data/$set/trials ]] || evals+=("$set"); done
list=$(IFS=, && echo "${train[*]}")

# The arms that were asked for, and what each puts over the configuration.
names=() settings=()
while IFS=$'\t' read -r name words; do
    [[ -z $name || $name == \#* ]] && continue
    [[ -z $chosen || " $chosen " == *" $name "* ]] || continue
    names+=("$name") settings+=("$words")
done <recipes/methods/conf/arms.tsv
((${#names[@]})) || { echo "run.sh: no arm of conf/arms.tsv is named '$chosen'; its first column has them" >&2 && exit 2; }

# split WORDS: overrides of one arm, one a line; braces hold together.
split() { grep -oE '[^ ={]+=(\{.*\}|[^ ]+)' <<<"$1"; }

if wanted 2; then
    for i in "${!names[@]}"; do
        [[ ! -d $exp/runs/${names[i]}/model ]] || continue
        mapfile -t words < <(split "${settings[i]}")
        options=("data.train=[$list]" "train.steps=$steps" "${overrides[@]}")
        [[ -z $noise ]] || options+=("augment.noise=$noise")
        [[ -z $rir ]] || options+=("augment.rir=$rir")
        rm -rf "$exp/runs/${names[i]}"
        run 2 "train-${names[i]}" speechssl train "$config" --out "$exp/runs/${names[i]}" --device "$device" \
            "${words[@]}" "${options[@]}"
    done
fi
# evaluate NAME MODEL: embeddings and the error of each trial list
evaluate() {
    local set
    for set in train "${evals[@]}"; do
        local inputs=("$exp/data/$set")
        [[ $set != train ]] || inputs=("${train[@]}" --every 8) # for the mean
        [[ -f $exp/embeddings/$1/$set.npz ]] || run 3 "embed-$1-$set" speechssl embed "$2" "${inputs[@]}" \
            --device "$device" --precision auto --out "$exp/embeddings/$1/$set.npz"
    done
    for set in "${evals[@]}"; do
        [[ -f $exp/eval/$1/$set/results.json ]] || run 3 "evaluate-$1-$set" speechssl evaluate verification \
            "$exp/embeddings/$1/$set.npz" --trials "$exp/data/$set/trials" --speakers "$exp/data/$set" --model "$1" \
            --subtract-mean "$exp/embeddings/$1/train.npz" --replicates 200 --out "$exp/eval/$1/$set"
    done
}
if wanted 3; then
    evaluate untrained "$exp/runs/${names[0]}/untrained"
    for name in "${names[@]}"; do evaluate "$name" "$exp/runs/$name/model"; done
fi
if wanted 4; then
    for name in "${names[@]}"; do
        [[ -f $exp/diagnose/$name/diagnostics.json ]] || run 4 "diagnose-$name" speechssl diagnose \
            "$exp/runs/$name" "${train[-1]}" "${diagnose[@]}" --out "$exp/diagnose/$name"
    done
fi
if wanted 5; then
    echo "[stage 5] speechssl report $exp --compare" >&2
    speechssl report "$exp" --compare
    echo "table: $exp/comparison.md; figure: $exp/comparison.png; numbers: $exp/comparison.json" >&2
fi
