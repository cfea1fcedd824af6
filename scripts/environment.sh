# Sourced by quickstart and test: makes the virtual environment once, again only when the requirements changed.
#
#   use_environment REQUIREMENTS   sets $python to the interpreter of $VENV (default .venv) with that file installed
#
# PYTHON=python3.12 asks for an interpreter by name.

starts() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if starts "$candidate"; then echo "$candidate"; return; fi
    done
    echo "No Python from 3.11 to 3.13 starts (tried: ${PYTHON:-python3, python3.13, python3.12, python3.11}). Install one, or name it: PYTHON=/path/to/python." >&2
    return 1
}

use_environment() {
    local requirements="$1" venv="${VENV:-.venv}" base wanted stamp
    wanted="$(cat requirements.txt "$requirements" | cksum)"
    stamp="$venv/installed-$requirements"
    python="$venv/bin/python"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && starts "$python"; then return; fi
    base="$(find_python)" || return 1
    echo "Installing $requirements into $venv with $base ($("$base" --version 2>&1)); this happens once."
    # Each line answers for itself: where a caller tests the outcome of a function, bash does not stop at its errors.
    if ! [ -f "$venv/requirements" ] || [ "$(cat "$venv/requirements")" != "$(cksum < requirements.txt)" ] || ! starts "$python"; then
        rm -rf "$venv"
        "$base" -m venv "$venv" || return 1
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" || return 1
    cksum < requirements.txt > "$venv/requirements"
    echo "$wanted" > "$stamp"
}
