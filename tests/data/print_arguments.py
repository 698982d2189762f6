"""Stand in for a program: print the arguments it got."""

import json
import sys

sys.stdout.write(json.dumps(sys.argv[1:]) + "\n")
