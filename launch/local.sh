#!/usr/bin/env bash
# Ranks on this machine, without any launcher: RANKS=4 launch/local.sh --config configs/lcd_fast.yaml
set -euo pipefail
source "$(dirname "$0")/common.sh"
exec python -m dist_calo launch -n "$RANKS" "${COMMAND[@]}" "$@"
