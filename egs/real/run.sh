#!/usr/bin/env bash
# DINO on real speech, from scratch, and what it is worth on speaker verification:
#   bash egs/real/run.sh --data DIR [--minutes M] [--config NAME|FILE] [--warm-up NAME|FILE|none] [--exp DIR]
#                        [--train "SET ..."] [--eval "SET ..."] [--noise DIR] [--rir DIR] [--device D]
#                        [--at "STEP ..."] [--stage N] [--stop-stage N] [key=value ...]
# DIR holds folders of audio. Those of --train (default: librispeech_train unlabelled, else DIR itself) are trained
# on without labels; those of --eval that have a `trials` file are evaluated. DIR/noise and DIR/rir, where they
# exist, augment. --minutes chooses the numbers of steps by timing a few, a quarter of the time for the warm-up;
# without it the configurations' counts. key=value goes to the training after the warm-up.
# --at evaluates the model as it was after those steps, too (multiples of train.save_every).
# Stages: 1 prepare, 2 train, 3 embed, 4 evaluate, 5 report. A finished stage 2 is resumed, not repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

data=${SPEECHSSL_DATA:-} minutes="" config=dino-small warm_up=simclr-small
exp=exp/real device=auto
train_sets="librispeech_train unlabelled" eval_sets="librispeech_test arabic_commands ravdess"
noise="" rir="" at="" stage=1 stop_stage=5
overrides=()
usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
while (($#)); do
    case $1 in
        --data) data=$2 && shift 2 ;;
        --minutes) minutes=$2 && shift 2 ;;
        --config) config=$2 && shift 2 ;;
        --warm-up) warm_up=$2 && shift 2 ;;
        --exp) exp=$2 && shift 2 ;;
        --train) train_sets=$2 && shift 2 ;;
        --eval) eval_sets=$2 && shift 2 ;;
        --noise) noise=$2 && shift 2 ;;
        --rir) rir=$2 && shift 2 ;;
        --at) at=$2 && shift 2 ;;
        --device) device=$2 && shift 2 ;;
        --stage) stage=$2 && shift 2 ;;
        --stop-stage) stop_stage=$2 && shift 2 ;;
        *=*) overrides+=("$1") && shift ;;
        *) usage ;;
    esac
done
[[ -d $data ]] || { echo "run.sh: --data '$data' is not a folder; give the folder of audio" >&2 && exit 2; }
[[ -n $noise || ! -d $data/noise ]] || noise=$data/noise
[[ -n $rir || ! -d $data/rir ]] || rir=$data/rir
[[ $warm_up == none ]] && warm_up=""
# shellcheck source=egs/setup.sh
source egs/setup.sh log
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp/data"

# The sets that exist; a folder with none of the training sets is itself the training set.
train=() evals=()
for set in $train_sets; do [[ -d $data/$set ]] && train+=("$set"); done
for set in $eval_sets; do [[ -f $data/$set/trials ]] && evals+=("$set"); done
((${#train[@]})) || train=(.)
directory() { [[ $1 == . ]] && echo "$exp/data/all" || echo "$exp/data/$1"; }

if wanted 1; then
    : >"$exp/seconds.tsv"
    for set in "${train[@]}" "${evals[@]}"; do
        run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$(directory "$set")" --trim 35
    done
fi

# fit NAME CONFIG SHARE key=value...: train into $exp/NAME, going on with what is there
fit() {
    local name=$1 file=$2 share=$3 list
    shift 3
    list=$(for set in "${train[@]}"; do directory "$set"; done | paste -sd,)
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

# The models to evaluate: the encoder before any training, after the warm-up, at the steps of --at, at the end.
names=(untrained)
[[ -z $warm_up ]] || names+=(warm-up)
for step in $at; do names+=("step-$step"); done
names+=(trained)
folder() {
    case $1 in
        untrained) [[ -n $warm_up ]] && echo "$exp/warm-up/untrained" || echo "$exp/dino/untrained" ;;
        warm-up) echo "$exp/warm-up/model" ;;
        trained) echo "$exp/dino/model" ;;
        *) echo "$exp/dino/$1" ;;
    esac
}

if wanted 3; then
    directories=()
    for set in "${train[@]}"; do directories+=("$(directory "$set")"); done
    for step in $at; do
        speechssl average "$exp/dino" --last 1 --until "$step" --out "$(folder "step-$step")"
    done
    for name in "${names[@]}"; do
        embed=(speechssl embed "$(folder "$name")" --device "$device" --precision auto)
        run 3 "embed-$name-train" "${embed[@]}" "${directories[@]}" --out "$exp/embeddings/$name/train.npz"
        for set in "${evals[@]}"; do
            run 3 "embed-$name-$set" "${embed[@]}" "$(directory "$set")" --out "$exp/embeddings/$name/$set.npz"
        done
    done
fi
if wanted 4; then
    # Cosines twice: with the mean of the training embeddings subtracted, and whitened on them as well.
    for name in "${names[@]}"; do
        for set in "${evals[@]}"; do
            for scoring in subtract-mean whiten; do
                row=$name
                [[ $scoring == subtract-mean ]] || row=$name-whitened
                run 4 "evaluate-$row-$set" speechssl evaluate verification "$exp/embeddings/$name/$set.npz" \
                    --trials "$(directory "$set")/trials" --speakers "$(directory "$set")" --model "$name" \
                    "--$scoring" "$exp/embeddings/$name/train.npz" --out "$exp/eval/$row/$set"
            done
        done
    done
fi
if wanted 5 && ((${#evals[@]})); then
    echo "[stage 5] speechssl report $exp" >&2
    speechssl report "$exp"
fi
echo "model: $exp/dino/model (speechssl embed $exp/dino/model FOLDER --out FILE.npz)" >&2
