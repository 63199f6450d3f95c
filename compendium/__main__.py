"""``python -m compendium``: the same as the ``magunet`` command."""

from compendium.cli import main

raise SystemExit(main())
