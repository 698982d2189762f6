#!/usr/bin/env python3
"""Print our running machines as an Ansible inventory: a group for each recipe, each machine under its ID.

It asks the account that BAKEHOUSE_ACCOUNT names, ``local`` by default, and never starts the local EC2: when that is
down, there are no machines.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from bakehouse import settings
    from bakehouse.errors import BakehouseError
    from bakehouse.machines import inventories
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}\nhint: activate the checkout's venv: . .venv/bin/activate")

if __name__ == "__main__":
    try:
        print(json.dumps(inventories.read(settings.load()), indent=2))
    except BakehouseError as error:
        sys.exit(error.message)
