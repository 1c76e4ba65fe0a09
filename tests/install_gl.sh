#!/usr/bin/env bash
# Tests that render need an off-screen GL library. Install it where that is allowed; else pytest skips them and says so.
set -u
# Debian keeps ldconfig off the PATH of users without root.
if PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -q libOSMesa; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libosmesa6) >/dev/null 2>&1 && exit 0
fi
echo "no off-screen GL library: tests that render are skipped; install libosmesa6 (Debian, Ubuntu)" >&2
exit 0
