#!/usr/bin/env bash
# What an encoder knows of emotion, frozen and fine-tuned, by one protocol for every corpus:
#   bash recipes/emotion/run.sh --corpora "NAME=ROOT ..." --models "NAME=DIR ..." [--layers "NAME ..."] [--exp DIR]
#                               [--functionals librosa|opensmile|none] [--finetune "OPTION ..."] [--replicates N]
#                               [--device D] [--stage N] [--stop-stage N]
# A corpus: ravdess, crema_d, emodb, iemocap or msp_podcast=its release, or NAME=a Kaldi directory with utt2emotion.
# A model: a name and its folder, DIR@student for another network of a run. The first is the floor (untrained): its
# rows stand beside those of the others, as do the MFCC statistics and the functionals of pitch, loudness and spectrum
# (functionals.py; opensmile: eGeMAPS by the program that you have installed). --layers: see `speechssl embed --layer`.
# Stages: 1 prepare, 2 embed, 3 probe, 4 fine-tune (every model), 5 results. What is done is not repeated.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

corpora="" models="" layers="embedding pooled" exp=exp/emotion functionals=librosa finetune="" device=auto
replicates=1000 stage=1 stop_stage=5
read_options "--corpora --models --layers --exp --functionals --finetune --device --replicates --stage --stop-stage" "$@"
[[ -n $corpora && -n $models ]] || usage
for word in $corpora $models; do
    [[ $word == *=* ]] || refuse "'$word': give NAME=FOLDER"
    folder=${word#*=}
    [[ -d ${folder%@*} ]] || refuse "'$word': no such folder"
done
# shellcheck source=egs/setup.sh
source egs/setup.sh log
# shellcheck source=egs/stages.sh
source egs/stages.sh
mkdir -p "$exp/data"

# directory CORPUS: its Kaldi directory
directory() {
    local word
    for word in $corpora; do
        [[ ${word%%=*} != "$1" ]] || { [[ -f ${word#*=}/wav.scp ]] && echo "${word#*=}" || echo "$exp/data/$1"; }
    done
}
# folds CORPUS: set `options` to the official ones where there are some, a speaker each for EmoDB, else five by the seed
folds() {
    local data
    data=$(directory "$1")
    options=(--folds 5)
    [[ ! -f $data/utt2fold ]] || options=(--folds "$data/utt2fold")
    case $1 in
        msp_podcast) options+=(--test-folds test1) ;;
        emodb) options=(--folds 0) ;;
    esac
}
names=()
for word in $corpora; do names+=("${word%%=*}"); done
first=${models%%=*}
baselines=(mfcc)
case $functionals in
    librosa | opensmile) baselines+=(functionals) ;;
    none) ;;
    *) refuse "--functionals '$functionals': give librosa, opensmile or none" ;;
esac

if wanted 1; then
    for word in $corpora; do
        [[ -f $(directory "${word%%=*}")/wav.scp ]] ||
            run 1 "prepare-${word%%=*}" speechssl prepare "${word%%=*}" "${word#*=}" "$exp/data/${word%%=*}"
    done
fi

# embed CORPUS MODEL LAYER FOLDER [OPTION ...]
embed() {
    local out=$exp/embeddings/$1/$2/$3.npz
    [[ -f $out ]] || run 2 "embed-$1-$2-$3" speechssl embed "$4" "$(directory "$1")" --out "$out" --layer "$3" \
        --device "$device" "${@:5}"
}
if wanted 2; then
    for name in "${names[@]}"; do
        embed "$name" mfcc embedding mfcc
        out=$exp/embeddings/$name/functionals/embedding.npz
        [[ $functionals == none || -f $out ]] || {
            mkdir -p "${out%/*}"
            run 2 "embed-$name-functionals" python recipes/emotion/functionals.py "$(directory "$name")" --out "$out" \
                --by "$functionals"
        }
        for word in $models; do
            folder=${word#*=} network=()
            [[ $folder != *@* ]] || network=(--network "${folder##*@}")
            for layer in $layers; do embed "$name" "${word%%=*}" "$layer" "${folder%@*}" "${network[@]}"; done
        done
    done
fi

# probe CORPUS MODEL LAYER: emotion; speakers, with emotions apart; trials, by same and different emotion
probe() {
    local data where=$1/$2/$3 emb=$exp/embeddings/$1/$2/$3.npz beside=() options=()
    data=$(directory "$1")
    folds "$1"
    if [[ " ${baselines[*]} " != *" $2 "* ]]; then
        for baseline in "${baselines[@]}"; do beside+=("$baseline=$exp/probe/$1/$baseline/embedding"); done
        [[ $2 == "$first" ]] || beside+=("$first=$exp/probe/$1/$first/$3")
    fi
    [[ ${#beside[@]} == 0 ]] || options+=(--beside "${beside[@]}")
    local common=(--replicates "$replicates" --model "$2/$3")
    [[ -f $exp/probe/$where/results.json ]] || run 3 "probe-$1-$2-$3" speechssl evaluate classification "$emb" \
        --labels "$data/utt2emotion" --groups "$data/utt2spk" "${options[@]}" "${common[@]}" --out "$exp/probe/$where"
    if (($(cut -d' ' -f2 "$data/utt2spk" | sort -u | wc -l) <= 200)) && [[ ! -f $exp/speakers/$where/results.json ]]; then
        run 3 "speakers-$1-$2-$3" speechssl evaluate classification "$emb" --labels "$data/utt2spk" \
            --groups "$data/utt2emotion" --folds 0 "${common[@]}" --classifier lda --out "$exp/speakers/$where" >/dev/null
    fi
    [[ ! -f $data/trials || -f $exp/verification/$where/results.json ]] ||
        run 3 "verify-$1-$2-$3" speechssl evaluate verification "$emb" --trials "$data/trials" --speakers "$data" \
            --split "$data/utt2emotion" "${common[@]}" --out "$exp/verification/$where"
}
if wanted 3; then
    for name in "${names[@]}"; do
        for baseline in "${baselines[@]}"; do probe "$name" "$baseline" embedding; done
        for word in $models; do
            for layer in $layers; do probe "$name" "${word%%=*}" "$layer"; done
        done
    done
fi
if wanted 4; then
    for name in "${names[@]}"; do
        data=$(directory "$name")
        folds "$name"
        read -ra words <<<"$finetune"
        options+=("${words[@]}")
        for word in $models; do
            folder=${word#*=}
            [[ $folder != *@* ]] || continue
            [[ -f $exp/finetune/$name/${word%%=*}/results.json ]] || run 4 "finetune-$name-${word%%=*}" \
                speechssl finetune "$folder" "$data" --labels "$data/utt2emotion" --groups "$data/utt2spk" \
                --device "$device" --replicates "$replicates" --name "${word%%=*}" "${options[@]}" \
                --out "$exp/finetune/$name/${word%%=*}"
        done
    done
fi
if wanted 5; then
    echo "[stage 5] speechssl report $exp --transfer" >&2
    speechssl report "$exp" --transfer
    echo "table: $exp/transfer.md; numbers: $exp/transfer.json; confusions: $exp/probe/*/*/*/confusion.png" >&2
fi
