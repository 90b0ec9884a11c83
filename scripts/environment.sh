# Sourced by quickstart.sh and test.sh: leaves $PYTHON pointing at an environment that has the project and its needs.
#
#   USE_ACTIVE_ENV=1   take the environment that is active now, with its torch (a GPU build, say), instead of .venv
#   BASE_PYTHON=...    the Python (3.10 or newer) that .venv is made with; default: the first one found
#   TORCH=...          what pip installs as torch into .venv; default: the tested version
#
# Call: prepare_environment EXTRAS, for example: prepare_environment dev

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

die() {
  echo "error: $*" >&2
  exit 1
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' > /dev/null 2>&1
}

find_base_python() {
  local candidate
  if [ -n "${BASE_PYTHON:-}" ]; then
    is_new_enough "$BASE_PYTHON" || die "BASE_PYTHON=$BASE_PYTHON is not a Python of version 3.10 or newer"
    echo "$BASE_PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3.13 python3.10 python3 python; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer found; install one, or name it: BASE_PYTHON=/path/to/python bash $0"
}

prepare_environment() {
  local extras="$1" torch stamp wanted
  cd "$ROOT"
  if [ "${USE_ACTIVE_ENV:-0}" = 1 ]; then
    PYTHON="$(command -v python)" || die "USE_ACTIVE_ENV=1, but no python is active; activate an environment first"
    is_new_enough "$PYTHON" || die "the active $PYTHON is older than 3.10; leave USE_ACTIVE_ENV out to make .venv"
    "$PYTHON" -c 'import torch' 2> /dev/null ||
      die "the active $PYTHON has no working torch; install one, or leave USE_ACTIVE_ENV out to make .venv"
    "$PYTHON" -m pip install --quiet -e ".${extras:+[$extras]}"
    export PYTHON
    return
  fi
  PYTHON="$ROOT/.venv/bin/python"
  stamp="$ROOT/.venv/installed-$extras"
  wanted="$(cat pyproject.toml constraints/tested.txt; echo "${TORCH:-}")"
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    [ -x "$PYTHON" ] || "$(find_base_python)" -m venv "$ROOT/.venv" ||
      die "could not make $ROOT/.venv (on Debian: apt-get install python3-venv); remove the folder and try again"
    torch="${TORCH:-$(grep '^torch==' constraints/tested.txt)}"
    echo "Installing into .venv ($torch first, then the project; a few minutes the first time)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$torch"
    grep -v '^torch==' constraints/tested.txt > "$ROOT/.venv/constraints.txt"
    "$PYTHON" -m pip freeze | grep '^torch==' >> "$ROOT/.venv/constraints.txt" || true
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$ROOT/.venv/constraints.txt" -e ".${extras:+[$extras]}"
    echo "$wanted" > "$stamp"
  fi
  export PYTHON
}
