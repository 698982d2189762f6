"""Stand in for a program: print the arguments it got."""

import json
import sys

print(json.dumps(sys.argv[1:]))
