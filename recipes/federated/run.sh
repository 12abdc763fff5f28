#!/usr/bin/env bash
# Federated training against each client alone and against all data together, in one table:
#   bash recipes/federated/run.sh [--data DIR] [--clients "SET SET ..."] [--eval "SET ..."] [--strategies "NAME ..."]
#                                 [--seeds "N ..."] [--rounds R] [--steps N] [--config FILE] [--engine local|flower]
#                                 [--noise DIR] [--rir DIR] [--device D] [--exp DIR] [--stage N] [--stop-stage N] [key=value ...]
#   bash recipes/federated/run.sh --tiny      # generated voices, two rounds: does everything run?
# DIR (default: $SPEECHSSL_DATA) holds folders of audio; each of --clients is one client's, and labels of none are read.
# R rounds of N steps a client; alone and together there are as many steps as in all rounds of all the clients in question.
# Stages: 1 prepare, 2 train, 3 embed and evaluate, 4 table. What is done is not repeated; what was broken off goes on.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

data=${SPEECHSSL_DATA:-} clients="librispeech_train dspspeech_train"
evals="librispeech_test alphanumeric_eval arabic_commands" strategies="fedavg fedema" seeds="0 1 2"
rounds=8 steps=12 config=recipes/federated/conf/two_clients.yaml engine=local noise="" rir=""
device=auto exp="" tiny=false stage=1 stop_stage=4
read_options "--data --clients --eval:evals --strategies --seeds --rounds --steps --config --engine --noise --rir \
    --device --exp --tiny --stage --stop-stage key=value" "$@"
# shellcheck source=egs/setup.sh
source egs/setup.sh log
# shellcheck source=egs/stages.sh
source egs/stages.sh
[[ -n $exp ]] || exp=$($tiny && echo exp/federated-tiny || echo exp/federated)
mkdir -p "$exp/data" "$exp/runs"
if $tiny; then
    clients="low high" evals=eval seeds=0 rounds=2 steps=2 strategies=fedavg
    overrides=(
        encoder.width=16 encoder.scale=2 encoder.embedding_dim=16 features.n_mels=24 "data.crops=[{count: 2, seconds: 0.5}]"
        train.batch_size=8 augment.rir_prob=0 "${overrides[@]}"
    )
else
    [[ -d $data ]] || refuse "--data '$data' is not a folder; give the folder of audio"
fi
[[ -z $noise ]] || overrides+=("augment.noise=$noise")
[[ -z $rir ]] || overrides+=("augment.rir=$rir")

if wanted 1; then
    if $tiny; then
        for number in 1 2; do
            name=$(cut -d ' ' -f $number <<<"$clients")
            [[ -f $exp/data/$name/wav.scp ]] || {
                run 1 generate speechssl prepare synthetic "$exp/audio-$name" "$exp/generated-$name" --speakers 6 \
                    --utterances 4 --evaluation-speakers 4 --shortest 1 --longest 1.5 --seed "$number"
                cp -r "$exp/generated-$name/train" "$exp/data/$name"
                [[ -d $exp/data/eval ]] || cp -r "$exp/generated-$name/eval" "$exp/data/eval"
            }
        done
    else
        for set in $clients $evals; do
            [[ -f $exp/data/$set/wav.scp ]] ||
                run 1 "prepare-$set" speechssl prepare folder "$data/$set" "$exp/data/$set" --trim 35
        done
    fi
fi
directories=()
for set in $clients; do directories+=("$exp/data/$set"); done
list=$(IFS=, && echo "${directories[*]}")
count=${#directories[@]}

# federate NAME SEED STEPS LIST key=value...: one run of speechssl federate, going on with what is there
federate() {
    local out=$exp/runs/$1-seed$2
    [[ -f $out/model/config.yaml ]] || run 2 "$1-seed$2" speechssl federate "$config" --out "$out" --resume --engine "$engine" \
        --device "$device" "data.train=[$4]" seed="$2" "federated.rounds=$rounds" "federated.local_steps=$3" \
        "${overrides[@]}" "${@:5}"
}
names=(untrained)
for set in $clients; do names+=("alone-$set"); done
for strategy in $strategies; do names+=("$strategy"); done
names+=(together)
if wanted 2; then
    for seed in $seeds; do
        for strategy in $strategies; do
            federate "$strategy" "$seed" "$steps" "$list" "federated.strategy=$strategy"
        done
        for set in $clients; do
            federate "alone-$set" "$seed" "$steps" "$exp/data/$set" federated.optimizer=kept federated.rate=step
        done
        # One client that has all directories: its map names everybody's utterances. Each directory gets as many
        # visits, as each client gets steps above.
        cat "${directories[@]/%//wav.scp}" | awk '{print $1, "all"}' >"$exp/data/all2client"
        federate together "$seed" "$((steps * count))" "$list" "federated.clients=$exp/data/all2client" \
            data.source_temperature=1e9 federated.optimizer=kept federated.rate=step
    done
fi
if wanted 3; then
    for seed in $seeds; do
        for name in "${names[@]}"; do
            model=$exp/runs/$name-seed$seed/model
            [[ $name != untrained ]] || model=$exp/runs/together-seed$seed/untrained
            for set in $evals; do
                out=$exp/eval/$name/seed$seed/$set
                [[ ! -f $out/results.json ]] || continue
                mkdir -p "$out"
                run 3 "embed-$name-$set" speechssl embed "$model" "$exp/data/$set" --out "$out/embeddings.npz" \
                    --device "$device"
                run 3 "score-$name-$set" speechssl evaluate verification "$out/embeddings.npz" \
                    --trials "$exp/data/$set/trials" --speakers "$exp/data/$set" --model "$name" --out "$out" \
                    --replicates 0
            done
        done
    done
fi
if wanted 4; then
    read -ra sets <<<"$evals"
    python recipes/federated/table.py "$exp/eval" --models "${names[@]}" --sets "${sets[@]}" | tee "$exp/table.md"
fi
