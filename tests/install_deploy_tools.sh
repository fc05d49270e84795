#!/usr/bin/env bash
# Installs the Debian packages with which deploy/ and `doctor` are tested, where they are missing:
# Prometheus with promtool, a library that shows a process another time, iproute2 and jq. No service of
# them is left running.
set -euo pipefail
faketime=(/usr/lib/*/faketime/libfaketime.so.1)
command -v promtool >/dev/null && command -v ip >/dev/null && command -v jq >/dev/null && [ -e "${faketime[0]}" ] && exit 0
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
export DEBIAN_FRONTEND=noninteractive
# Debian's way to keep a package from starting its service.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    trap '$sudo rm "$policy"' EXIT
fi
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends prometheus libfaketime iproute2 jq >/dev/null
