"""`python -m steelman`: the command line where its script is not on the path."""

import sys

from steelman.cli import main

sys.exit(main())
