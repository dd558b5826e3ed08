"""Makes `python -m kindling` the same as `kindling`."""

import sys

from kindling.cli import main

sys.exit(main())
