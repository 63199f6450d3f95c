"""``python -m compendium``: the same as the ``magunet`` command."""

import sys

from compendium.cli import main

sys.exit(main())
