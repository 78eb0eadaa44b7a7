"""A service with a leak, of docs/operate.md: it keeps each request that it has parsed. `leak.py REQUESTS`, then it waits."""

import json
import sys

last = []


ITEM = '{"sku": "sku-%d-%d", "count": %d, "price": %d.5, "note": "note %d of request %d", "tags": ["a", "b%d"]}'


def body(number):
    # As text at once: the interpreter keeps some freed dicts and lists for itself, and the parser would get those.
    items = ", ".join(ITEM % (number, i, i, i, i, number, i) for i in range(18))
    return '{"id": %d, "user": "user-%d", "items": [%s]}' % (number, number, items)


def handle(text):
    request = json.loads(text)
    last.append(request)
    return json.dumps({"total": sum(item["price"] * item["count"] for item in request["items"])})


for number in range(int(sys.argv[1])):
    handle(body(number))
print("waiting", flush=True)
sys.stdin.read()
