#!/bin/sh
# Make a file system on a device that holds nothing. Usage: jenkins-volume DEVICE FILE_SYSTEM
#
# A device with any signature, of a file system, a partition table or else, is left as it is: 0 is found, 2 is none.
# At another boot the name may be another device's: a machine keeps to the file system that it has found there first.
set -eu
kept=/var/lib/jenkins-volume
uuid() { blkid --probe --match-tag UUID --output value "$1" || true; }
here="$(cat /etc/machine-id) $1"
before=$(cat "$kept" 2>/dev/null || true)
case $before in
    "$here $(uuid "$1")") ;;
    "$here "*)
        echo "$1 is left as it is: Jenkins's volume was UUID=${before##* }, and this is another." \
            "hint: set jenkins_volume to UUID=${before##* }, or remove $kept if this one is meant" >&2
        exit 1
        ;;
esac
code=0
found=$(blkid --probe --output export "$1") || code=$?
case $code in
    0) echo "$1 is left as it is: $(printf '%s' "$found" | tr '\n' ' ')" ;;
    2) "mkfs.$2" -q "$1" && echo "$1 has a new $2 file system" ;;
    *) echo "$1 is left as it is: blkid exits $code" >&2; exit 1 ;;
esac
found=$(uuid "$1")
[ -z "$found" ] || echo "$here $found" >"$kept"
