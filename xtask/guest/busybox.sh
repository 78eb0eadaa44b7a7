# What busybox and lua do in a root of musl: its output must be the same on any allocator.
set -eu
cd /tmp
seq 1 200000 | awk '{ sum += $1; lines[NR % 5000] = lines[NR % 5000] $1 } END { print sum, length(lines[7]) }'
seq 1 100000 | sort -r | sort -n | uniq | tail -n 3
seq 1 50000 | sed -e 's/\(.\)\(.*\)/\2\1/' -e 's/0/zero/g' | md5sum
seq 1 50000 | grep -E '(12|34)+5' | wc -l
mkdir -p tree/a/b
seq 1 200 | while read number; do echo "file $number" >"tree/a/b/$number"; done
tar cf - tree | gzip | gunzip | tar tf - | sort | md5sum
find tree -name '1*' -exec cat {} + | sort | sha256sum
seq 1 100000 >numbers
bzip2 -k numbers && bunzip2 -c numbers.bz2 | cksum
split -l 10000 numbers part. && cat part.* | diff - numbers && echo same
diff numbers part.aa | wc -l
i=0; text=; while [ $i -lt 2000 ]; do text="$text$i,"; i=$((i + 1)); done; echo "${#text}"
for i in 1 2 3 4 5 6 7 8; do (seq 1 20000 | sort | md5sum) & done | sort | uniq -c; wait
echo "2 64 ^ p" | dc
echo "2^200" | bc
vi --help 2>&1 | head -n 1 | wc -l
xargs -n 50 echo <numbers | wc -l
find . -type f | cpio -o 2>/dev/null | cpio -t 2>/dev/null | sort | md5sum
lua /tmp/objects.lua
rm -r tree numbers numbers.bz2 part.*
