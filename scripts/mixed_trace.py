"""Print the calls of a queue of blocks of many lengths: a trace for `pktalloc replay` and `tune`.

    python scripts/mixed_trace.py in-order|any DEPTH LEAST MOST >FILE

100,000 blocks of LEAST to MOST bytes, DEPTH of which live at a time; the oldest leaves, or any of them.
"""

import random
import sys
from collections import deque

BLOCKS = 100_000


def main() -> None:
    """Print the trace that the arguments ask for."""
    order, depth, least, most = sys.argv[1], *map(int, sys.argv[2:])
    rng = random.Random(1)
    live: deque[int] = deque()
    print("# call,allocator,block,size\nnew,0,,")
    for block in range(BLOCKS):
        if len(live) == depth:
            if order == "any":
                live.rotate(rng.randrange(depth))
            print(f"free,0,{live.popleft()},")
        print(f"allocate,0,{block},{rng.randint(least, most)}")
        live.append(block)
    print("drop,0,,")


if __name__ == "__main__":
    main()
