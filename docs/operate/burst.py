"""A burst, of docs/operate.md: 400,000 strings of 40 to 1,500 bytes, of which each fortieth stays. Then it waits; with `copy` it has
copied what stays."""

import random
import sys

random.seed(1)
strings = [bytes(random.randrange(40, 1500)) for _ in range(400_000)]
keep = strings[::40]
del strings
if sys.argv[1:] == ["copy"]:
    keep = [bytes(bytearray(s)) for s in keep]
print("waiting", flush=True)
sys.stdin.read()
