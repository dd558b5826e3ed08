"""`python -m kindling`: what `kindling` does, with Python's usual exit."""

import sys

from kindling.cli.entry_point import main

sys.exit(main())
