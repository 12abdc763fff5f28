#!/usr/bin/env bash
# The known-answer experiments, measured against predicted, with plots:
#   bash egs/theory/run.sh [--exp DIR] [NAME ...]
# NAMEs: linear network dino uniformity decorrelation pairwise (default: all; some minutes on one core).
# Ends with code 1 if a prediction did not come true.
set -euo pipefail
# shellcheck source=egs/options.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../egs/options.sh"

exp=exp/theory
read_options "--exp NAME" "$@"
((${#names[@]})) || names=(linear network dino uniformity decorrelation pairwise)
# shellcheck source=egs/setup.sh
source egs/setup.sh log
mkdir -p "$exp"

failed=0
for name in "${names[@]}"; do
    [[ -f egs/theory/$name.py && $name != _* ]] || refuse "no experiment '$name' in egs/theory"
    echo "== python egs/theory/$name.py --out $exp" >&2
    python "egs/theory/$name.py" --out "$exp" | tee "$exp/$name.txt" || failed=1
done
echo "tables: $exp/*.txt; plots: $exp/*.png" >&2
exit "$failed"
