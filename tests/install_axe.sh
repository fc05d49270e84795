#!/usr/bin/env bash
# Installs axe-core from npm into out/axe: the tests of the page for browsing ask it for what is not
# accessible, and are skipped without it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f out/axe/node_modules/axe-core/axe.min.js ] && exit 0
npm install --silent --no-fund --no-audit --ignore-scripts --prefix out/axe axe-core@4.14.1 >/dev/null
