#!/usr/bin/env bash
# Make the virtual environment once, and again only after the requirements changed. quickstart and test source this file;
# run by itself it adds extras of pyproject.toml: ./scripts/environment.sh slurm search
#
#   use_environment [EXTRA ...]   sets $python to the interpreter of $VENV (default .venv) with the package, editable
#
# PYTHON=python3.12 chooses an interpreter.

starts() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if starts "$candidate"; then echo "$candidate"; return; fi
    done
    echo "No Python from 3.11 to 3.13 starts (tried: ${PYTHON:-python3, python3.13, python3.12, python3.11}). Install one, or name it: PYTHON=/path/to/python." >&2
    return 1
}

# Every command that may fail returns explicitly: if a caller tests a function's status, bash ignores errors inside it.
use_environment() {
    local venv="${VENV:-.venv}" base extra extras wanted stamp missing=()
    stamp="$venv/kintsugi-installed" # the requirements' checksum, then a line for each extra
    wanted="$(cat requirements.txt <(sed '/^\[tool\.ruff\]/,$d' pyproject.toml) | cksum)"
    python="$venv/bin/python"
    for extra in "$@"; do
        case "$extra" in
            requirements.txt) echo "$extra is installed without being named: leave it out, or name extras such as gcs and slurm." >&2; return 2 ;;
            requirements-*.txt)
                extra="${extra#requirements-}" extra="${extra%.txt}"
                echo "requirements-$extra.txt is the extra $extra now: ./scripts/environment.sh $extra, or pip install 'kintsugi[$extra]'." >&2
                return 2 ;;
        esac
        if ! grep -q "^$extra = " <(sed -n '/^\[project\.optional-dependencies\]/,/^\[/p' pyproject.toml); then
            echo "$extra is no extra of pyproject.toml: $(sed -n '/^\[project\.optional-dependencies\]/,/^\[tool/s/^\([a-z]*\) = .*/\1/p' pyproject.toml | tr '\n' ' ')" >&2
            return 2
        fi
    done
    if ! [ -f "$stamp" ] || [ "$(head -n 1 "$stamp")" != "$wanted" ] || ! starts "$python"; then
        if [ -e "$venv" ] && ! [ -f "$venv/pyvenv.cfg" ]; then
            echo "$venv is no virtual environment, and is left as it is: name another by VENV." >&2
            return 1
        fi
        base="$(find_python)" || return 1
        echo "Making $venv with $base ($("$base" --version 2>&1)); this happens once."
        rm -rf "$venv"
        "$base" -m venv "$venv" || return 1
        missing=("$@")
    else
        for extra in "$@"; do grep -qx "$extra" "$stamp" || missing+=("$extra"); done
        if [ ${#missing[@]} -eq 0 ]; then return; fi
    fi
    extras="$(IFS=,; echo "${missing[*]-}")"
    echo "Installing kintsugi${extras:+[$extras]} into $venv."
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}" || return 1
    if ! [ -f "$stamp" ]; then echo "$wanted" > "$stamp"; fi
    for extra in ${missing[@]+"${missing[@]}"}; do echo "$extra" >> "$stamp"; done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    cd "$(dirname "$0")/.."
    use_environment "$@"
fi
