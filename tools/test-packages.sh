#!/bin/sh
# The programs that tests need beside Python: installed when root, named when not. Under CI=true a missing one is a failure.
set -eu

missing=""
command -v chromium >/dev/null 2>&1 || missing="chromium"
[ -n "$(fc-list 2>/dev/null)" ] || missing="$missing fonts-liberation" # without any font a page has no width
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing for the tests: $missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "missing for the tests that look at pages: $missing (on Debian and Ubuntu: sudo apt install $missing)"
[ "${CI:-}" != true ] || exit 1
