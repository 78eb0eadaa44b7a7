# Objects, dictionaries, strings, closures, sorting, json, regular expressions; prints digests.
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict, deque

rounds = int(sys.argv[1])


class Node:
    def __init__(self, key, value):
        self.key, self.value = key, value
        self.left = self.right = None


def numbers(seed):
    while True:
        seed = (seed * 1103515245 + 12345) % 2147483648
        yield seed >> 8


def tree(draw, size):
    root = Node(next(draw), "root")
    for _ in range(size):
        key, at = next(draw), root
        while True:
            side = "left" if key < at.key else "right"
            below = getattr(at, side)
            if below is None:
                setattr(at, side, Node(key, f"value {key}" * (key % 9)))
                break
            at = below
    stack, total = [root], 0
    while stack:
        at = stack.pop()
        total += len(at.value) + at.key
        stack.extend(child for child in (at.left, at.right) if child)
    return total


def documents(draw, size):
    made = [
        {
            "id": next(draw),
            "words": ["%x" % next(draw) for _ in range(next(draw) % 12)],
            "nested": {"a": [next(draw) / 7, None, True], "text": "x" * (next(draw) % 3000)},
        }
        for _ in range(size)
    ]
    text = json.dumps(made, indent=1)
    back = sorted(json.loads(text), key=lambda one: (len(one["words"]), one["id"]))
    return hashlib.sha1(json.dumps(back).encode()).hexdigest()


def words(draw, size):
    line = " ".join("%x-%d" % (next(draw) % 4099, next(draw) % 97) for _ in range(size))
    groups, recent = defaultdict(list), deque(maxlen=1000)
    for found in re.finditer(r"([0-9a-f]+)-(\d+)", line):
        groups[found[1]].append(int(found[2]))
        recent.append(found[0].upper())
    top = Counter({word: sum(values) for word, values in groups.items()}).most_common(20)
    big = bytearray()
    for word, _ in sorted(groups.items()):
        big += word.encode() * 40
    return hashlib.sha1(repr((top, list(recent))).encode() + bytes(big)).hexdigest()


draw = numbers(1)
for _ in range(rounds):
    print(tree(draw, 4000))
    print(documents(draw, 400))
    print(words(draw, 12000))
