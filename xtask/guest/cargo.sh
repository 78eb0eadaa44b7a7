#!/bin/sh
# cargo in the guest, for tests that build librsalloc.so: as users get it, it is there.
folder= profile=debug
while [ $# -gt 0 ]; do
    case $1 in
    --target-dir) folder=$2 && shift ;;
    --profile) profile=$2 && shift ;;
    --release) profile=release ;;
    --features)
        [ -z "$(echo "$2" | tr -d ,)" ] || { echo "the guest has no library with the features $2" >&2; exit 1; }
        shift
        ;;
    esac
    shift
done
[ -n "$folder" ] && [ "$profile" = release ] || { echo "the guest has no cargo" >&2; exit 1; }
mkdir -p "$folder/release" && cp /usr/lib/librsalloc.so.0 "$folder/release/librsalloc_preload.so"
