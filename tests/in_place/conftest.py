"""The folder of the runtime on `sys.path`: here it is the package `runtime`."""

from __future__ import annotations

import sys
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[2] / "templates" / "{{ pipeline }}"
sys.path.insert(0, str(TEMPLATE / "{{ package_name }}"))
