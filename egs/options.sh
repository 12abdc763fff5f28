# shellcheck shell=bash
# To be sourced by the run scripts first of all, by its path from theirs. Goes to the repository's root, from which
# folders are taken then, and defines `usage`, `refuse` and `read_options`.

_script="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)/$(basename "${BASH_SOURCE[1]}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# usage [CODE]: print the comment at the top of the script, and end
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$_script" >&2
    exit "${1:-2}"
}

# refuse MESSAGE: say what is wrong in one line, and end
refuse() {
    echo "$(basename "$_script"): $1" >&2
    exit 2
}

# read_options "ACCEPTED ..." ARGUMENT...: set a variable for each option of a command line. What is accepted:
#   --stop-stage   the word after it goes to `stop_stage`; where that is false (or true) before, the option takes no word
#                  and sets it to true
#   --exp-dir:exp  the same, to `exp`
#   key=value      such words are gathered in the array `overrides`
#   NAME           other words are gathered in the array `names`
# Anything else is refused.
read_options() {
    local accepted word variable
    read -ra accepted <<<"$1"
    shift
    overrides=() names=()
    while (($#)); do
        variable=$(_variable_of "$1" "${accepted[@]}")
        case $variable in
            '')
                [[ $1 != --help && $1 != -h ]] || usage 0
                echo "$(basename "$_script"): '$1' is not an option" >&2
                usage
                ;;
            overrides) overrides+=("$1") ;;
            names) names+=("$1") ;;
            *)
                word=true
                if [[ ${!variable} != false && ${!variable} != true ]]; then
                    (($# > 1)) || refuse "$1 needs a value after it"
                    word=$2
                    shift
                fi
                printf -v "$variable" %s "$word"
                ;;
        esac
        shift
    done
    [[ ${stage:-0}${stop_stage:-0} =~ ^[0-9]+$ ]] || refuse "--stage and --stop-stage are numbers"
}

# _variable_of WORD ACCEPTED...: print the variable that a word of the command line goes to, or nothing
_variable_of() {
    local given=$1 option variable
    shift
    for option in "$@"; do
        variable=${option#--}
        variable=${variable#*:}
        case $option in
            --*) [[ $given != "${option%%:*}" ]] || echo "${variable//-/_}" ;;
            key=value) [[ $given == -* || $given != *=* ]] || echo overrides ;;
            NAME) [[ $given == -* ]] || echo names ;;
        esac
    done
}
