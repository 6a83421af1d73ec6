"""Let the tests here import live.py, which is no test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
