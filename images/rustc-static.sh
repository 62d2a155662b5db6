#!/usr/bin/env bash
# A wrapper of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): their programs are linked statically and
# stripped. What they depend on is compiled as for the tests, once.
set -euo pipefail
case " $* " in
  *" --crate-name stic_"*" --crate-type bin "*) exec "$@" -C target-feature=+crt-static -C strip=symbols ;;
  *) exec "$@" ;;
esac
