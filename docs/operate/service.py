"""A service that parses JSON and keeps the last 20,000 documents, of docs/operate.md. `service.py SECONDS`."""

import collections
import json
import random
import sys
import time

random.seed(1)
kept = collections.deque(maxlen=20_000)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(200):
        rows = [{"id": random.randrange(1 << 40), "text": "x" * random.randrange(20, 400)} for _ in range(5)]
        kept.append(json.loads(json.dumps(rows)))
    # A large answer now and then: strings of 72 to 256 KiB.
    json.dumps(["y" * random.randrange(72 << 10, 256 << 10) for _ in range(4)])
    time.sleep(0.01)
