#!/usr/bin/env bash
# Embeddings of real speech, from scratch, and what they are worth on speaker verification:
#   bash egs/real/run.sh [--data DIR] [--minutes M] [--config NAME|FILE] [--warm-up NAME|FILE|none] [--exp DIR]
#                        [--train "SET ..."] [--publishable] [--eval "SET ..."] [--telephone] [--noise DIR] [--rir DIR]
#                        [--device D] [--at "STEP ..."] [--stage N] [--stop-stage N] [key=value ...]
# DIR (default: $SPEECHSSL_DATA) holds folders of audio. Those of --train (default: every training set of
# README.md that is there, with --publishable those whose licence lets weights be published; else DIR itself) are
# trained on without labels; those of --eval that have a `trials` file are evaluated, with --telephone as telephones
# would hand them on, and with every other recording so (mixed), too. DIR/noise and DIR/rir, where they exist, augment.
# --minutes chooses the numbers of steps by timing a few, a quarter of the time for the warm-up; without it the
# configurations' counts. The default is contrastive-small without a warm-up; the recipe of before is
# `--config dino-small --warm-up simclr-small`. key=value goes to the training after the warm-up. --at evaluates the
# model as it was after those steps, too (multiples of train.save_every). After training the last layer is fitted in closed form (last_layer.py), of the untrained
# encoder as well; $exp/fitted is the model. With --telephone an ECAPA encoder also learns what telephone recordings
# have in common, and takes it out (band_shift.py); $exp/banded is the model then.
# Stages: 1 prepare, 2 train, 3 fit, 4 embed, 5 evaluate, 6 report. A finished stage 2 is resumed, not repeated.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

data=${SPEECHSSL_DATA:-} minutes="" config=contrastive-small warm_up=none
exp=exp/real device=auto
publishable_sets="librispeech_train unlabelled speechocean_train emogator_train dspspeech_train small_train"
train_sets="$publishable_sets game_dialogue_train debian_voices_train indian_commands_train"
eval_sets="librispeech_test arabic_commands ravdess speechocean_eval alphanumeric_eval emogator_eval"
publishable=false telephone=false noise="" rir="" at="" stage=1 stop_stage=6
read_options "--data --minutes --config --warm-up --exp --train:train_sets --publishable --eval:eval_sets \
    --telephone --noise --rir --device --at --stage --stop-stage key=value" "$@"
if $publishable; then train_sets=$publishable_sets; fi
[[ -d $data ]] || refuse "--data '$data' is not a folder; give the folder of audio"
[[ -n $noise || ! -d $data/noise ]] || noise=$data/noise
[[ -n $rir || ! -d $data/rir ]] || rir=$data/rir
[[ $warm_up == none ]] && warm_up=""
# shellcheck source=egs/setup.sh
source egs/setup.sh log,page
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp/data"

# The sets that exist; a folder with none of the training sets is itself the training set.
train=() evals=()
for set in $train_sets; do [[ -d $data/$set ]] && train+=("$set"); done
for set in $eval_sets; do [[ -f $data/$set/trials ]] && evals+=("$set"); done
((${#train[@]})) || train=(.)
directory() { [[ $1 == . ]] && echo "$exp/data/all" || echo "$exp/data/$1"; }
train_directories=()
for set in "${train[@]}"; do train_directories+=("$(directory "$set")"); done

if wanted 1; then
    : >"$exp/seconds.tsv"
    for set in "${train[@]}"; do
        run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$(directory "$set")" --trim 35
    done
    for set in "${evals[@]}"; do # their trials name short recordings as well
        run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$(directory "$set")" --trim 35 --min-seconds 0.1
    done
    if $telephone; then
        for set in "${evals[@]}"; do
            run 1 "telephone-$set" python egs/real/telephone.py "$(directory "$set")" "$exp/data/$set-telephone"
            run 1 "mixed-$set" python egs/real/telephone.py "$(directory "$set")" "$exp/data/$set-mixed" --mixed
        done
        for path in "${train_directories[@]}"; do # for band_shift.py
            run 1 "telephone-${path##*/}" python egs/real/telephone.py "$path" "$path-telephone" --every 8
        done
    fi
fi
if $telephone; then
    for set in "${evals[@]}"; do evals+=("$set-telephone" "$set-mixed"); done
fi

# fit NAME CONFIG SHARE key=value...: train into $exp/NAME, going on with what is there
fit() {
    local name=$1 file=$2 share=$3 list
    shift 3
    list=$(IFS=, && echo "${train_directories[*]}")
    local options=(--device "$device" "data.train=[$list]")
    [[ -n $minutes ]] && options+=(--minutes "$(awk "BEGIN{print $minutes * $share}")")
    [[ -n $noise ]] && options+=("augment.noise=$noise")
    [[ -n $rir ]] && options+=("augment.rir=$rir")
    [[ -f $exp/$name/last.pt ]] && options+=(--resume)
    run 2 "train-$name" speechssl train "$file" --out "$exp/$name" "${options[@]}" "$@"
}
if wanted 2 && [[ -n $warm_up ]]; then
    fit warm-up "$warm_up" 0.25
    fit dino "$config" 0.75 "train.init=$exp/warm-up/model" "${overrides[@]}"
elif wanted 2; then
    fit dino "$config" 1 "${overrides[@]}"
fi

is_banded() { $telephone && grep -qs '^  name: ecapa$' "$exp/dino/config.yaml"; }
if wanted 3; then
    # Of an encoder with early statistics: those alone before training, beside the trained embedding after it.
    early=() both=()
    if grep -q 'early_statistics: true' "$exp/dino/config.yaml"; then
        early=(--early-only) both=(--beside 1.4)
    fi
    fit_last_layer=(python egs/real/last_layer.py)
    more=(data.min_seconds=0.5 augment.codec_prob=0.5)
    run 3 fitted-untrained "${fit_last_layer[@]}" "$exp/dino/untrained" "$exp/dino/config.yaml" \
        "$exp/fitted-untrained" "${early[@]}" "${more[@]}"
    run 3 fitted "${fit_last_layer[@]}" "$exp/dino/model" "$exp/dino/config.yaml" "$exp/fitted" "${both[@]}" "${more[@]}"
    if is_banded; then
        run 3 banded python egs/real/band_shift.py "$exp/fitted" "$exp/banded" --wide "${train_directories[@]}" \
            --narrow "${train_directories[@]/%/-telephone}"
    fi
fi

# The models to evaluate: MFCC statistics, the encoder before any training, after the warm-up, at the steps of --at,
# at the end, and with the last layer fitted.
names=(mfcc untrained)
[[ -z $warm_up ]] || names+=(warm-up)
for step in $at; do names+=("step-$step"); done
names+=(trained fitted-untrained fitted)
if is_banded; then names+=(banded); fi
folder() {
    case $1 in
        mfcc) echo mfcc ;;
        untrained) [[ -n $warm_up ]] && echo "$exp/warm-up/untrained" || echo "$exp/dino/untrained" ;;
        warm-up) echo "$exp/warm-up/model" ;;
        trained) echo "$exp/dino/model" ;;
        fitted* | banded) echo "$exp/$1" ;;
        *) echo "$exp/dino/$1" ;;
    esac
}

if wanted 4; then
    total=$(cat "${train_directories[@]/%//wav.scp}" | wc -l)
    every=$((total / 2000 + 1)) # some 2,000 utterances are enough for a mean and a whitening
    for step in $at; do
        speechssl average "$exp/dino" --last 1 --until "$step" --out "$(folder "step-$step")"
    done
    for name in "${names[@]}"; do
        embed=(speechssl embed "$(folder "$name")" --device "$device" --precision auto)
        run 4 "embed-$name-train" "${embed[@]}" "${train_directories[@]}" --every "$every" \
            --out "$exp/embeddings/$name/train.npz"
        for set in "${evals[@]}"; do
            run 4 "embed-$name-$set" "${embed[@]}" "$(directory "$set")" --out "$exp/embeddings/$name/$set.npz"
        done
    done
fi
if wanted 5; then
    # Cosines twice: with the mean of the training embeddings subtracted, and whitened on them as well.
    for name in "${names[@]}"; do
        for set in "${evals[@]}"; do
            for scoring in subtract-mean whiten; do
                row=$name
                [[ $scoring == subtract-mean ]] || row=$name-whitened
                run 5 "evaluate-$row-$set" speechssl evaluate verification "$exp/embeddings/$name/$set.npz" \
                    --trials "$(directory "$set")/trials" --speakers "$(directory "$set")" --model "$name" \
                    "--$scoring" "$exp/embeddings/$name/train.npz" --out "$exp/eval/$row/$set"
            done
        done
    done
fi
if wanted 6; then
    echo "[stage 6] speechssl report $exp" >&2
    ((!${#evals[@]})) || speechssl report "$exp"
    directories=("${train_directories[@]}")
    for set in "${evals[@]}"; do directories+=("$(directory "$set")"); done
    speechssl report "$exp" --html "$exp/page.html" --data "${directories[@]}"
    echo "page to look at and listen to: $exp/page.html" >&2
fi
model=$exp/fitted
if is_banded; then model=$exp/banded; fi
echo "model: $model (speechssl embed $model FOLDER --out FILE.npz)" >&2
