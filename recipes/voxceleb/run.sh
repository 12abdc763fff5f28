#!/usr/bin/env bash
# VoxCeleb, from the downloaded corpus to EER, and on through iterative pseudo-labelling. No speaker label is read.
#   bash recipes/voxceleb/run.sh --voxceleb1 DIR --voxceleb2 DIR [--musan DIR] [--rirs DIR] [--lists DIR]
#        [--config NAME|FILE] [--pseudolabel FILE] [--rounds N] [--average N] [--data DIR] [--exp-dir DIR]
#        [--nj N] [--ngpu N] [--launcher torchrun|slurm|ray] [--nodes N] [--sbatch "OPTIONS"] [--shards yes]
#        [--trials "NAME ..."] [--cohort N] [--partial yes] [--device D] [--stage N] [--stop-stage N] [key=value ...]
# Stages: 1 prepare   2 shards (only with --shards yes)   3 train DINO   4 average teachers, extract   5 score
#         6 export    7 cluster    8 train on pseudo-labels    9 more rounds, large margin, extract, score
#         10 results table
# Folders are taken from the repository's root. key=value goes to stage 3. What is done is not repeated; what was broken off goes on. README.md explains each stage.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

voxceleb1="" voxceleb2="" musan="" rirs="" lists=""
config=dino pseudolabel=recipes/voxceleb/conf/pseudolabel.yaml
rounds=2 average=10 data=data/voxceleb exp=exp/voxceleb nj=8 ngpu="" shards="" cohort=50
launcher=torchrun nodes=1 sbatch="" trials="O E H" partial="" device=auto stage=1 stop_stage=10
read_options "--voxceleb1 --voxceleb2 --musan --rirs --lists --config --pseudolabel --rounds --average --data \
    --exp-dir:exp --nj --ngpu --launcher --nodes --sbatch --shards --trials --cohort --partial --device --stage --stop-stage key=value" "$@"
# shellcheck source=egs/setup.sh
source egs/setup.sh log,av
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp/done"
[[ -n $ngpu ]] || ngpu=$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')

# What starts the ranks of a command, which follows; those of training come back when one is lost, and go on.
launch=()
case $launcher in
    torchrun)
        ((nodes == 1)) || refuse "--nodes $nodes needs --launcher slurm or ray (or torchrun by hand: README.md)"
        ((ngpu == 1)) || launch=(torchrun --standalone --nproc-per-node "$ngpu" --max-restarts 3 -m)
        ;;
    slurm)
        command -v sbatch >/dev/null || refuse "--launcher slurm: there is no sbatch here; run it where Slurm's commands are"
        launch=(bash recipes/launch/slurm.sh --nodes "$nodes" --per-node "$ngpu" --log "$exp/slurm-%j.log")
        [[ -z $sbatch ]] || launch+=(--sbatch "$sbatch")
        launch+=(--)
        ;;
    ray)
        launch=(python recipes/launch/on_ray.py --processes $((nodes * ngpu)) --max-restarts 3)
        ((nodes == 1)) || launch+=(--address auto)
        [[ $device == cpu ]] || launch+=(--gpus 1)
        launch+=(--)
        ;;
    *) refuse "--launcher $launcher: give torchrun, slurm or ray" ;;
esac

# once N NAME COMMAND...: like run, and not again once it has ended well; another command of that name is refused
once() {
    local marker=$exp/done/$2 command="${*:3}"
    if [[ -e $marker ]]; then
        [[ -s $marker && $(<"$marker") != "$command" ]] || return 0
        refuse "$marker was made by another command; remove it, and what follows it, or give another --exp-dir"
    fi
    run "$@"
    echo "$command" >"$marker"
}

train=$data/vox2
[[ $shards != yes ]] || train=$data/vox2-shards
if wanted 1; then
    [[ -n $voxceleb1 && -n $voxceleb2 ]] || refuse "give --voxceleb1 DIR and --voxceleb2 DIR"
    words=(--jobs "$nj")
    [[ $partial != yes ]] || words+=(--partial)
    once 1 prepare-vox1 speechssl prepare voxceleb1 "$voxceleb1" "$data/vox1" "${words[@]}" \
        --lists "${lists:-$voxceleb1}"
    once 1 prepare-vox2 speechssl prepare voxceleb2 "$voxceleb2" "$data/vox2" "${words[@]}"
    [[ -z $musan ]] || once 1 prepare-musan speechssl prepare musan "$musan" "$data/musan" "${words[@]}"
    [[ -z $rirs ]] || once 1 prepare-rirs speechssl prepare rirs_noises "$rirs" "$data/rirs" "${words[@]}"
fi
if wanted 2 && [[ $shards == yes ]]; then
    [[ -e $data/vox2-shards/wav.scp ]] || rm -f "$data"/vox2-shards/shard-*.tar # of a run that was broken off
    once 2 shards speechssl shard "$data/vox2" "$data/vox2-shards"
fi

augment=()
[[ ! -d $data/musan ]] || augment+=("augment.noise=$data/musan")
[[ ! -d $data/rirs ]] || augment+=("augment.rir=$data/rirs")
if wanted 3; then
    once 3 train "${launch[@]}" speechssl train "$config" --out "$exp/dino" --resume --device "$device" \
        "data.train=[$train]" "${augment[@]}" "${overrides[@]}"
fi

embed=(speechssl embed)
options=(--device "$device" --jobs "$ngpu" --precision auto --resume)
# extract N NAME MODEL: embeddings of the test utterances, of every so many-th training utterance as a cohort
extract() {
    once "$1" "extract-$2-vox1" "${embed[@]}" "$3" "$data/vox1" "${options[@]}" --out "$exp/embeddings/$2/vox1.npz"
    once "$1" "extract-$2-cohort" "${embed[@]}" "$3" "$train" "${options[@]}" --every "$cohort" \
        --out "$exp/embeddings/$2/cohort.npz"
}
# score N NAME MODEL: each trial list by cosine, with the training mean subtracted, and with AS-norm
score() {
    local list scoring words
    for list in $trials; do
        if [[ ! -f $data/vox1/trials-$list ]]; then
            echo "run.sh: no trials-$list in $data/vox1; not scored" >&2
            continue
        fi
        for scoring in cosine mean asnorm; do
            words=()
            [[ $scoring == cosine ]] || words+=(--subtract-mean "$exp/embeddings/$2/cohort.npz")
            [[ $scoring != asnorm ]] || words+=(--as-norm "$exp/embeddings/$2/cohort.npz")
            once "$1" "score-$2-$list-$scoring" speechssl evaluate verification "$exp/embeddings/$2/vox1.npz" \
                --trials "$data/vox1/trials-$list" --speakers "$data/vox1" --model "$3" "${words[@]}" \
                --out "$exp/eval/$2-$scoring/vox1-$list"
        done
    done
}
start=$exp/dino/model-average
if wanted 4; then
    once 4 average speechssl average "$exp/dino" --last "$average" --out "$start"
    extract 4 untrained "$exp/dino/untrained"
    extract 4 dino "$start"
fi
if wanted 5; then
    score 5 untrained "$exp/dino/untrained"
    score 5 dino "$start"
fi
if wanted 6; then
    once 6 export speechssl export "$start" --to huggingface --out "$exp/export"
fi

loop=(speechssl pseudolabel "$pseudolabel" --out "$exp/pseudolabel" --device "$device" "start=$start"
    "data=[$train]" "processes=$ngpu")
if [[ $launcher != torchrun ]]; then
    loop+=("launch=$(python -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${launch[@]}")")
fi
if ((${#augment[@]})); then
    list=$(IFS=, && echo "${augment[*]}")
    loop+=("overrides=[$list]" "large_margin_overrides=[$list]")
fi
if wanted 7; then
    once 7 cluster "${loop[@]}" rounds=0 large_margin=null
fi
if wanted 8 && ((rounds > 0)); then
    once 8 round-1 "${loop[@]}" rounds=1 large_margin=null
fi
if wanted 9 && ((rounds > 0)); then
    once 9 "rounds-$rounds" "${loop[@]}" "rounds=$rounds"
    for ((number = 1; number <= rounds; number++)); do
        for name in train large-margin; do
            model=$exp/pseudolabel/round-$number/$name/model
            [[ -f $model/config.yaml ]] || continue # stopped earlier, by its criterion, or another round was chosen
            row=round-$number
            [[ $name == train ]] || row+=-$name
            extract 9 "$row" "$model"
            score 9 "$row" "$model"
        done
    done
fi
if wanted 10; then
    echo "[stage 10] speechssl report $exp --record" >&2
    speechssl report "$exp" --record
    echo "table: $exp/record.md; numbers: $exp/record.json; seconds of each stage: $exp/seconds.tsv" >&2
fi
