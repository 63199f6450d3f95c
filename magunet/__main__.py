"""``python -m magunet``: the same as the ``magunet`` command."""

import sys

from magunet.cli import main

sys.exit(main())
