"""`python -m pktalloc`: the same as the command `pktalloc`."""

import sys

from pktalloc._cli import main

sys.exit(main())
