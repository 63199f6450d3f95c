"""`python workflow/viewer ACTION`: install, uninstall, check or bundle the programs that itkwidgets draws
with."""

import sys

from installer import main

sys.exit(main())
