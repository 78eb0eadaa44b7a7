"""Parses and writes JSON: the program of docs/adr/0053."""

import json

rows = [{"id": i, "name": "user-%d" % i, "tags": ["a", "b%d" % i], "price": i * 1.5} for i in range(60)]
text = json.dumps(rows)
for _ in range(120):
    json.dumps(json.loads(text))
