"""`python -m pktalloc`: the same as the command `pktalloc`."""

import sys

from pktalloc._cli import main

if __name__ == "__main__":
    sys.exit(main())
