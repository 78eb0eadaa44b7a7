# Lists, dicts, strings and bytes; some are kept.
import sys, json, random
random.seed(1)
kept = []
for i in range(12000):
    row = {"id": i, "name": "n%d" % i, "text": "x" * random.randrange(900), "list": list(range(random.randrange(40)))}
    text = json.dumps(row)
    if i % 3 == 0:
        kept.append(json.loads(text))
    if i % 5 == 0:
        kept.append(bytes(random.randrange(3000)))
sys.stdout.write("!")
sys.stdout.flush()
sys.stdin.read()
