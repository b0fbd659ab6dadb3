"""Print the calls of a queue of blocks of many lengths: a trace for `pktalloc replay` and `tune`.

    python scripts/mixed_trace.py in-order|any DEPTH LEAST MOST >FILE

100,000 blocks of LEAST to MOST bytes, DEPTH of which live at a time; the oldest leaves, or any of them.
"""

import argparse
import random
from collections import deque

BLOCKS = 100_000


def main() -> None:
    """Print the trace that the arguments ask for."""
    parser = argparse.ArgumentParser(description="Print the calls of a queue of blocks of many lengths.")
    parser.add_argument("order", choices=["in-order", "any"], help="which block leaves: the oldest, or any")
    parser.add_argument("depth", type=int, help="how many blocks live at a time")
    parser.add_argument("least", type=int, help="bytes of the shortest block")
    parser.add_argument("most", type=int, help="bytes of the longest block")
    options = parser.parse_args()
    if options.depth < 1 or not 1 <= options.least <= options.most:
        parser.error("the depth and the least length must be at least 1, the most no less than the least")
    rng = random.Random(1)
    live: deque[int] = deque()
    print("# call,allocator,block,size\nnew,0,,")
    for block in range(BLOCKS):
        if len(live) == options.depth:
            if options.order == "any":
                live.rotate(rng.randrange(options.depth))
            print(f"free,0,{live.popleft()},")
        print(f"allocate,0,{block},{rng.randint(options.least, options.most)}")
        live.append(block)
    print("drop,0,,")


if __name__ == "__main__":
    main()
