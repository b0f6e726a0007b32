#!/usr/bin/env bash
# Sets Postrider up in this folder and runs it. `./run.sh help` lists what else it does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

help() {
  cat <<'END'
./run.sh             set up what is missing, then run Redis, the API and the workers until Ctrl-C
./run.sh test        run the test suite, less what takes minutes; with arguments, run pytest with them:
                     `test tests` leaves nothing out, `test --long -s` asks for the full figures, too
./run.sh coverage    the same suite, and which lines it leaves out
./run.sh docker      run docker-compose.yml
./run.sh setup       set up and run nothing; `setup dev` adds what tests and checks need
./run.sh lock        write the newest version of everything that is installed into constraints.txt
./run.sh help        print this

Settings come from the environment and from .env; .env.example lists them all.
END
}

say() { printf '%s\n' "$@"; }
die() {
  say "run.sh: $1" >&2
  exit 1
}

# --- setting up ---------------------------------------------------------------------------------

find_python() {
  local python
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || die "$python cannot make virtual environments: apt install python3-venv"
      command -v "$python"
      return
    fi
  done
  die 'Python 3.11 or newer is needed: apt install python3 python3-venv, dnf install python3.12, or brew install python'
}

# A dot for each line, so that a slow network does not look like a hang; every line, should it fail.
with_dots() {
  local log
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" | while read -r _; do printf '.'; done || { say; tail -n 20 "$log" >&2; rm "$log"; return 1; }
  rm "$log"
}

# setup [dev]: an environment that has what pyproject.toml asks for. An active one that has Postrider is taken as it is.
setup() {
  local extras=${1:+[$1]} python stamp want
  if [[ -n ${VIRTUAL_ENV:-} && -x $VIRTUAL_ENV/bin/postrider && ! $VIRTUAL_ENV -ef .venv ]]; then
    export PATH="$VIRTUAL_ENV/bin:$PATH"
    return
  fi
  stamp=.venv/installed$extras
  want="$PWD $(cat pyproject.toml constraints.txt | cksum)" # with the place: a virtual environment cannot be moved
  if [[ ! -x .venv/bin/python || $(cat "$stamp" 2>/dev/null) != "$want" ]]; then
    trap 'say && die "interrupted: the same command again goes on"' INT
    python=$(find_python)
    printf 'Installing Postrider into .venv with %s; this once, it takes a minute or two ' "$python"
    with_dots "$python" -m venv .venv || die 'could not make .venv'
    with_dots .venv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".$extras" \
      || die 'could not install: is the network up?'
    say ' done'
    say "$want" | tee "$stamp" >.venv/installed
    trap - INT
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

# secrets NAME...: each has a value, in the environment or in .env; those without get one there.
secrets() {
  local name file
  [[ -e .env ]] || (umask 077 && say '# Made by ./run.sh. What else may stand here: see .env.example.' API_USER=postrider >.env)
  [[ -z $(tail -c 1 .env) ]] || say >>.env
  for name in "$@"; do
    file=${name}_FILE
    [[ -z ${!name:-} && -z ${!file:-} ]] || continue
    ! grep -qE "^(export )?${name}(_FILE)?=." .env || continue
    if [[ $name == WEBHOOK_SECRET ]]; then
      say "$name=whsec_$(head -c 24 /dev/urandom | base64)" >>.env # Standard Webhooks: plain base64
    else
      say "$name=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')" >>.env
    fi
  done
}

# --- running ------------------------------------------------------------------------------------

up() {
  setup
  secrets API_PASSWORD WEBHOOK_SECRET WHATSAPP_WEB_SECRET
  local known reader supervisor='' ready='' stopping=''
  known=$(postrider preflight) || exit 1 # it has said why
  eval "$known"
  export EMBEDDED_REDIS WORKERS KEEPER

  # Through a pipe of our own: supervisor opens /dev/fd/1 anew, which fails on a socket and overwrites a file.
  exec 3> >(trap '' INT TERM HUP && exec cat)
  reader=$!
  trap 'stopping=yes; kill $supervisor $ready 2>/dev/null || :' INT TERM HUP
  postrider supervise >&3 2>&3 3>&- &
  supervisor=$!
  postrider await-ready 3>&- &
  ready=$!
  exec 3>&-

  if wait "$ready"; then
    cat <<<"$(greet)"$'\n' || : # whole: others write there, too; Ctrl-C ends what prints it
  elif [[ -z $stopping ]]; then
    kill "$supervisor" 2>/dev/null || :
  fi
  while kill -0 "$supervisor" 2>/dev/null; do wait "$supervisor" || :; done
  wait "$reader" 2>/dev/null || : # the last words are out
  [[ $stopping ]] || die 'Postrider did not come up, or its supervisor was killed: what stands above says why. Nothing runs any more.'
  say 'Postrider has stopped.'
}

greet() {
  local login in_5_s="date -u -d '5 seconds'" insecure=''
  date -u -v+5S >/dev/null 2>&1 && in_5_s='date -u -v+5S'
  [[ $URL != https:* ]] || insecure=' --insecure'
  say
  say "Postrider runs at $URL: $([[ $EMBEDDED_REDIS == true ]] && say 'Redis, ')API ($API_PROCESSES processes), $WORKERS workers. Ctrl-C stops it."
  if [[ ${API_PASSWORD:-} ]]; then
    login="\${API_USER:-postrider}:\$API_PASSWORD"
    say 'Name and password are the ones in your environment.'
  else
    login="\$(. $(printf %q "$PWD/.env"); echo \"\${API_USER:-postrider}:\$API_PASSWORD\")"
    say "Name and password are in $PWD/.env."
  fi
  [[ $SANDBOX == on ]] || return 0
  cat <<END
Send a message that is due in 5 seconds, and see it arrive at $URL/sandbox:

  curl$insecure -u "$login" -H 'Content-Type: application/json' $URL/send_message -d "{
    \"body\": \"Hello\", \"send_at\": \"\$($in_5_s +%FT%TZ)\",
    \"recipients\": [{\"uuid\": \"1\", \"service\": \"sandbox\"}]}"
END
}

# --- the rest -----------------------------------------------------------------------------------

run_tests() {
  setup dev
  if (($#)); then exec python -m pytest "$@"; fi
  browser
  # Mostly they wait: for clocks, processes, browsers. Who has no more takes from who has: the slow ones stand together.
  python -m pytest -n 4 --dist worksteal
}

run_coverage() {
  setup dev
  browser
  rm -f .coverage .coverage.*
  coverage run -m pytest -n 4 --dist worksteal
  coverage combine --quiet
  coverage report --fail-under=95
}

# The dashboard's tests drive a real Chromium and skip themselves without one.
browser() {
  local name
  for name in chromium chromium-browser google-chrome; do
    ! command -v "$name" >/dev/null || return 0
  done
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    printf 'Installing Chromium for the tests of the pages '
    if with_dots apt-get -qy update && with_dots env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends chromium; then
      say ' done'
      return
    fi
  fi
  say '*** NO CHROMIUM: the tests that need a browser are SKIPPED. To have them: apt install chromium ***' >&2
}

# Run the tests before you keep what it has written.
lock() {
  local python empty
  python=$(find_python)
  empty=$(mktemp -d)
  printf 'Looking up the newest versions '
  with_dots "$python" -m venv "$empty" || die 'could not make a virtual environment'
  with_dots "$empty/bin/python" -m pip install --disable-pip-version-check '.[dev]' || die 'could not install: is the network up?'
  {
    say '# What everything is installed with, and was tested with. Written by `./run.sh lock`.'
    "$empty/bin/python" -m pip freeze --exclude postrider
  } >constraints.txt
  rm -rf "$empty"
  say ' done'
}

in_docker() {
  docker compose version >/dev/null 2>&1 || die 'Docker with its compose plugin is needed: https://docs.docker.com/engine/install'
  secrets API_PASSWORD REDIS_PASSWORD WEBHOOK_SECRET WHATSAPP_WEB_SECRET WAHA_API_KEY
  exec docker compose up --build "$@"
}

command=${1:-up}
(($# == 0)) || shift
case $command in
  up) up ;;
  setup) setup "$@" ;;
  test) run_tests "$@" ;;
  coverage) run_coverage ;;
  lock) lock ;;
  docker) in_docker "$@" ;;
  help | -h | --help) help ;;
  *) say "run.sh: there is no '$command'" >&2 && help >&2 && exit 2 ;;
esac
