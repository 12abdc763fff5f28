#!/usr/bin/env bash
# Every method and every predictor, for the same number of steps on the same audio, in one table and one figure:
#   bash recipes/methods/run.sh --data DIR [--steps N] [--arms "NAME ..."] [--exp DIR] [--config FILE]
#                               [--train "SET ..."] [--eval "SET ..."] [--noise DIR] [--rir DIR] [--device D]
#                               [--jobs N] [--stage N] [--stop-stage N] [key=value ... seed=0..4]
#   bash recipes/methods/run.sh --tiny      # on generated voices, two steps each: does everything run?
# DIR is laid out as for egs/real/run.sh; of the sets of --train and --eval those that it holds are used. The arms are the lines of conf/arms.tsv; --arms names some of them.
# Stages: 1 prepare, 2 sweep (train every arm, --jobs at once, and measure it), 3 table, figure and page. What is done is not
# repeated, and a training that was cut off goes on.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

data=${SPEECHSSL_DATA:-} steps="" arms="" exp="" config=recipes/methods/conf/base.yaml device=auto tiny=false
train_sets="librispeech_train speechocean_train emogator_train dspspeech_train small_train game_dialogue_train"
train_sets+=" debian_voices_train indian_commands_train unlabelled"
eval_sets="librispeech_test arabic_commands ravdess speechocean_eval alphanumeric_eval emogator_eval"
noise="" rir="" jobs=1 stage=1 stop_stage=3
read_options "--data --steps --arms --exp --config --train:train_sets --eval:eval_sets --noise --rir --device \
    --jobs --tiny --stage --stop-stage key=value" "$@"
# shellcheck source=egs/setup.sh
source egs/setup.sh log,page
# shellcheck source=egs/stages.sh
source egs/stages.sh
[[ -n $exp ]] || exp=$($tiny && echo exp/methods-tiny || echo exp/methods)
mkdir -p "$exp/data"
diagnose=(--precision auto)
if $tiny; then
    steps=${steps:-2} train_sets=train eval_sets=eval
    overrides=(
        encoder.width=16 encoder.scale=2 encoder.embedding_dim=16 features.n_mels=24 "data.crops=[{count: 2, seconds: 0.5}]"
        train.batch_size=16 train.precision=float32 augment.rir_prob=0 data.workers=0 train.log_every=1
        "${overrides[@]}"
    )
    diagnose+=(--utterances 20 --views 2 --seconds 0.5)
else
    [[ -d $data ]] || refuse "--data '$data' is not a folder; give the folder of audio"
    [[ -n $noise || ! -d $data/noise ]] || noise=$data/noise
    [[ -n $rir || ! -d $data/rir ]] || rir=$data/rir
    diagnose+=(--utterances 600)
    steps=${steps:-100}
fi

if wanted 1; then
    if $tiny; then
        [[ -f $exp/data/eval/trials ]] || run 1 generate speechssl prepare synthetic "$exp/audio" "$exp/data" \
            --speakers 12 --utterances 4 --evaluation-speakers 4 --shortest 1 --longest 1.5
    else
        for set in $train_sets $eval_sets; do
            [[ -d $data/$set && ! -f $exp/data/$set/wav.scp ]] || continue
            shortest=0.5
            [[ ! -f $data/$set/trials ]] || shortest=0.1 # trials name short recordings as well
            run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$exp/data/$set" --trim 35 --min-seconds $shortest
        done
    fi
fi
train=() evals=()
for set in $train_sets; do [[ ! -d $exp/data/$set ]] || train+=("$exp/data/$set"); done
for set in $eval_sets; do [[ ! -f $exp/data/$set/trials ]] || evals+=("$set"); done
((${#train[@]})) || refuse "none of the training sets ($train_sets) is in '$data' and prepared (stage 1); name yours with --train"
train_sets="${train[*]##*/}"
list=$(IFS=, && echo "${train[*]}")

if wanted 2; then
    options=("data.train=[$list]" "train.steps=$steps" "${overrides[@]}")
    [[ -z $noise ]] || options+=("augment.noise=$noise")
    [[ -z $rir ]] || options+=("augment.rir=$rir")
    read -ra names <<<"$arms"
    ((!${#names[@]})) || names=(--only "${names[@]}")
    echo "[stage 2] speechssl sweep: train and measure every arm; logs in $exp/logs" >&2
    speechssl sweep "$config" "${options[@]}" --arms recipes/methods/conf/arms.tsv "${names[@]}" --out "$exp" \
        --jobs "$jobs" --device "$device" --after \
        "bash recipes/methods/measure.sh {out} {run} {name} {device} '$train_sets' '${evals[*]}' ${diagnose[*]}"
fi
if wanted 3; then
    untrained=("$exp"/runs/*/untrained)
    bash recipes/methods/measure.sh "$exp" "${untrained[0]}" untrained "$device" "$train_sets" "${evals[*]}"
    echo "[stage 3] speechssl report $exp --compare" >&2
    speechssl report "$exp" --compare
    directories=("${train[@]}")
    for set in "${evals[@]}"; do directories+=("$exp/data/$set"); done
    speechssl report "$exp" --html "$exp/page.html" --data "${directories[@]}"
    echo "table: $exp/comparison.md; figure: $exp/comparison.png; numbers: $exp/comparison.json" >&2
    echo "page to look at and listen to: $exp/page.html" >&2
    echo "with several seeds: means, spreads and paired differences in $exp/sweep.md" >&2
fi
