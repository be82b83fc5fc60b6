#!/bin/sh
# The programs that tests need beside Python: installed when root, named when not. Under CI=true a missing one is a failure.
# No service is started and no mail system set up: the tests start servers of their own and stop them again.
set -eu

missing=""
command -v chromium >/dev/null 2>&1 || missing="chromium" # Playwright brings its driver, and uses this browser
[ -n "$(fc-list 2>/dev/null)" ] || missing="$missing fonts-liberation" # without any font a page has no width
set -- /usr/lib/postgresql/*/bin/initdb
command -v initdb >/dev/null 2>&1 || [ -x "$1" ] || missing="$missing postgresql"
command -v smtp-sink >/dev/null 2>&1 || [ -x /usr/sbin/smtp-sink ] || missing="$missing postfix" # for smtp-sink alone
# What reads the examples of docs/deploy.md.
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
command -v caddy >/dev/null 2>&1 || missing="$missing caddy"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
[ -n "$missing" ] || exit 0
missing="${missing# }"

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing for the tests: $missing"
  export DEBIAN_FRONTEND=noninteractive
  policy=/usr/sbin/policy-rc.d # asked by packages before they start what they bring
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  case $missing in *postgresql*)
    clusters=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$clusters" ]; then
      mkdir -p "${clusters%/*}"
      printf '# from the tests of newsletter: the server is wanted, a database that always runs is not\ncreate_main_cluster = false\n' >"$clusters"
    fi
    ;;
  esac
  case $missing in *postfix*)
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    ;;
  esac
  apt-get update -qq >/dev/null
  # One by one: a release that lacks one of them gets the others all the same.
  rest=""
  for package in $missing; do
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null || rest="$rest $package"
  done
  missing="${rest# }"
  [ -n "$missing" ] || exit 0
fi
echo "missing for the tests: $missing (on Debian and Ubuntu: sudo apt install --no-install-recommends $missing)"
[ "${CI:-}" != true ] || exit 1
