#!/usr/bin/env bash
# A wrapper of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): links stic-operator and stic-trainer
# statically.
set -euo pipefail
case " $* " in
  *" --crate-name stic_"*" --crate-type bin "*) exec "$@" -C target-feature=+crt-static ;;
  *) exec "$@" ;;
esac
