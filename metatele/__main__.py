"""`python -m metatele` is the command `metatele`."""

import sys

from metatele.cli import main

sys.exit(main())
