#!/usr/bin/env bash
# Run a command of speechssl by several processes under Slurm, and wait for its end:
#   bash recipes/launch/slurm.sh [--nodes N] [--per-node N] [--sbatch "OPTIONS"] [--log FILE] -- speechssl train ... --resume
# Submits job.sbatch, which starts --per-node processes (one a GPU) on each of --nodes nodes. Before its time is up, and
# where it is pre-empted, the job saves and is queued again, as often as it takes; a lost node starts it again, too. The
# command must go on from what it finds (--resume). OPTIONS are for sbatch: --partition, --time, --account, --gpus-per-node.
set -euo pipefail

nodes=1 per_node=1 sbatch="" log=slurm-%j.log
usage() { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
while (($#)) && [[ $1 != -- ]]; do
    (($# > 1)) || usage
    case $1 in
        --nodes) nodes=$2 ;;
        --per-node) per_node=$2 ;;
        --sbatch) sbatch=$2 ;;
        --log) log=$2 ;;
        *) usage ;;
    esac
    shift 2
done
(($# > 1)) || usage
shift
command -v sbatch >/dev/null || {
    echo "slurm.sh: there is no sbatch here; run it where Slurm's commands are, or launch by torchrun or Ray (README.md)" >&2
    exit 2
}
read -ra options <<<"$sbatch"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export SPEECHSSL_LAUNCH="$here"
exec sbatch --wait --nodes "$nodes" --ntasks-per-node "$per_node" --output "$log" "${options[@]}" \
    "$here/job.sbatch" "$@"
