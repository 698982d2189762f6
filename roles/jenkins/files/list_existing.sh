#!/bin/sh
# Prints the files that match the shell patterns on stdin, one a line, unless they are empty.
IFS=
while read -r pattern; do
  for path in $pattern; do
    if [ -s "$path" ]; then echo "$path"; fi
  done
done
