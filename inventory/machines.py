#!/usr/bin/env python3
"""Print our running machines as an Ansible inventory. Each recipe is a group; machines are named by their IDs.

The account is the one that BAKEHOUSE_ACCOUNT names, by default ``local``. The script never starts the local EC2: while
that is down, the inventory is empty.
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
    sys.exit(f"error: {error}\nhint: activate the venv of the checkout: . .venv/bin/activate")

if __name__ == "__main__":
    try:
        print(json.dumps(inventories.read(settings.load()), indent=2))
    except BakehouseError as error:
        sys.exit(error.message)
