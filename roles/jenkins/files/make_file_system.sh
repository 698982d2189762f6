#!/bin/sh
# Make a file system on a device that holds nothing. Usage: jenkins-volume DEVICE FILE_SYSTEM
#
# A device with any signature, of a file system, a partition table or else, is left as it is: 0 is found, 2 is none.
set -eu
code=0
found=$(blkid --probe --output export "$1") || code=$?
case $code in
    0) echo "$1 is left as it is: $(printf '%s' "$found" | tr '\n' ' ')" ;;
    2) "mkfs.$2" -q "$1" && echo "$1 has a new $2 file system" ;;
    *) echo "$1 is left as it is: blkid exits $code" >&2; exit 1 ;;
esac
