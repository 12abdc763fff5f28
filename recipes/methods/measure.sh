#!/usr/bin/env bash
# What recipes/methods/run.sh measures of a trained arm; `speechssl sweep --after` runs it:
#   bash recipes/methods/measure.sh EXP MODEL NAME DEVICE "TRAIN SET ..." "EVAL SET ..." [options of speechssl diagnose]
# Embeds the sets of EXP/data, scores the trial lists, and diagnoses the embeddings of the last training set without
# labels (not those of the untrained encoder). What is there is not made again.
set -euo pipefail
exp=$1 model=$2 name=$3 device=$4
read -ra train_sets <<<"$5"
read -ra eval_sets <<<"$6"
shift 6

train=("${train_sets[@]/#/$exp/data/}")
embeddings=$exp/embeddings/$name
mkdir -p "$embeddings"
# For the mean that the scoring subtracts, every eighth utterance is enough.
[[ -f $embeddings/train.npz ]] || speechssl embed "$model" "${train[@]}" --every 8 \
    --device "$device" --precision auto --out "$embeddings/train.npz"
for set in "${eval_sets[@]}"; do
    [[ -f $embeddings/$set.npz ]] || speechssl embed "$model" "$exp/data/$set" \
        --device "$device" --precision auto --out "$embeddings/$set.npz"
    [[ -f $exp/eval/$name/$set/results.json ]] || speechssl evaluate verification "$embeddings/$set.npz" \
        --trials "$exp/data/$set/trials" --speakers "$exp/data/$set" --model "$name" \
        --subtract-mean "$embeddings/train.npz" --replicates 200 --out "$exp/eval/$name/$set"
done
[[ $name == untrained || -f $exp/diagnose/$name/diagnostics.json ]] || speechssl diagnose "$model" "${train[-1]}" "$@" \
    --device "$device" --out "$exp/diagnose/$name"
