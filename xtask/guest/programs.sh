# Debian's programs in the guest, on glibc's malloc and on rsalloc: the output must be the same, to the byte. Read by suite.sh.

use_python() {
    PYTHONMALLOC=malloc PYTHONHASHSEED=1 python3 - <<'P'
import concurrent.futures, hashlib, json, random, re, subprocess, sys, threading
random.seed(7)
data = [{"id": i, "name": "n%d" % i, "tags": [random.choice("abcdef") * random.randint(1, 40) for _ in range(8)]} for i in range(4000)]
text = json.dumps(data)
assert json.loads(text) == data
print(hashlib.sha256(text.encode()).hexdigest())
def work(n):
    table = {}
    for i in range(4000):
        table.setdefault(i * n % 977, []).append("x" * (i % 300))
    return sum(len(v) for v in table.values()), hashlib.md5(repr(sorted(table)).encode()).hexdigest()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(list(pool.map(work, range(1, 9))))
print(len(re.findall(r"(a+)|(b+)", text)))
print(subprocess.run([sys.executable, "-c", "print(sum(len(str(i)) for i in range(20000)))"], capture_output=True, text=True).stdout)
P
}

use_sqlite3() {
    sqlite3 :memory: "create table t(a integer primary key, b text, c real);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
            insert into t select i, printf('%08x-%d', i * 2654435761 % 4294967296, i % 97), i * 0.5 from n;
        create index t_b on t(b);
        select count(*), sum(c), min(b), max(b) from t;
        select substr(b, 1, 2) k, count(*), total(c) from t group by k order by k;
        delete from t where a % 3 = 0; vacuum; pragma integrity_check;
        select group_concat(b) from (select b from t order by b limit 500);"
}

use_git() {
    rm -rf /tmp/git && mkdir /tmp/git && cd /tmp/git || return
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    git init -q -b main . || return
    for commit in 1 2 3 4; do
        cp -r "$(cat /source)/alloc-core" "copy$commit"
        git add . && GIT_AUTHOR_DATE="${commit}000000000 +0000" GIT_COMMITTER_DATE="${commit}000000000 +0000" git commit -q -m "$commit" || return
    done
    git log --stat --format=%H && git gc -q && git fsck && git diff HEAD~1 | sha256sum && git blame copy1/Cargo.toml && cd /
}

use_gcc() {
    awk 'BEGIN { for (i = 0; i < 150; i++) printf "struct s%d { int a[%d]; double b; }; double f%d(struct s%d *p, int n) { double t = 0; for (int i = 0; i < n; i++) t += p[i %% 3].a[i %% %d] * p->b + %d; return t; }\n", i, i + 1, i, i, i + 1, i; }' >/tmp/many.c
    gcc -O2 -S -o /tmp/many.s /tmp/many.c && sha256sum </tmp/many.s || return
    printf '#include <algorithm>\n#include <map>\n#include <string>\n#include <vector>\n#include <cstdio>\nint main() { std::map<std::string, std::vector<int>> m; for (int i = 0; i < 20000; i++) m[std::to_string(i %% 701)].push_back(i); long t = 0; for (auto &[k, v] : m) { std::sort(v.rbegin(), v.rend()); t = t * 31 + v[0] + k.size(); } std::printf("%%ld\\n", t); }\n' >/tmp/map.cc
    g++ -std=c++17 -O1 -o /tmp/map /tmp/map.cc && sha256sum </tmp/map && /tmp/map
}

use_redis() {
    rm -f /tmp/redis.sock /tmp/dump.rdb
    # Redis 8 refuses a locale that is not there, as C.UTF-8 in a root without libc-bin.
    LC_ALL=C redis-server --port 0 --unixsocket /tmp/redis.sock --dir /tmp --save '' --daemonize no >/tmp/redis.log 2>&1 &
    local server=$! turn=0 ended
    until redis-cli -s /tmp/redis.sock ping >/dev/null 2>&1 || [ $turn = 200 ]; do usleep 50000 && turn=$((turn + 1)); done
    redis-cli -s /tmp/redis.sock <<'R'
eval "for i = 1, 20000 do redis.call('set', 'key:' .. i, string.rep(tostring(i), i % 50 + 1)) end return redis.call('dbsize')" 0
eval "for i = 1, 5000 do redis.call('rpush', 'list:' .. i % 7, 'v' .. i); redis.call('zadd', 'z', i * 37 % 1009, 'm' .. i); redis.call('hset', 'h:' .. i % 50, 'f' .. i, i) end return redis.call('zcard', 'z')" 0
eval "for i = 1, 20000, 3 do redis.call('del', 'key:' .. i) end return redis.call('dbsize')" 0
zrange z 100 140 withscores
lrange list:3 0 30
sort list:2 by nosort limit 5 10 alpha
debug digest
save
R
    sleep 0.2
    redis-cli -s /tmp/redis.sock shutdown nosave
    wait $server
    ended="exit $?, $(redis-check-rdb /tmp/dump.rdb 2>&1 | grep -c 'RDB looks OK')"
    echo "$ended"
    [ "$ended" = "exit 0, 1" ] || { cat /tmp/redis.log && return 1; }
}

# Whether a program of this name runs on rsalloc: it says so as its first line.
is_active() { "$@" </dev/null 2>&1 | grep -q "^rsalloc: $expect"; }

expect=
for program in python sqlite3 git gcc redis; do use_$program >"/tmp/$program.glibc" 2>&1 || echo "FAULT $program on glibc: $(tail -n 20 "/tmp/$program.glibc")"; done
for mode in libc own atomic hardened; do
    (
        export LD_PRELOAD=$library
        case $mode in
        libc) expect="per-CPU on libc's rseq registration" ;;
        own) expect="per-CPU on our own rseq registration" && export "${own?}" ;;
        atomic) expect="atomic path (configured)" && export RSALLOC_CONF=mode:atomic ;;
        hardened) expect=".*hardened" && export RSALLOC_CONF=hardened:1 ;;
        esac
        for program in python3 sqlite3 git gcc redis-server; do
            RSALLOC_CONF=verbose:1${RSALLOC_CONF+,$RSALLOC_CONF} is_active $program --version ||
                echo "FAULT $mode: $program does not run on rsalloc"
        done
        for program in python sqlite3 git gcc redis; do
            if use_$program >"/tmp/$program.$mode" 2>&1 && cmp -s "/tmp/$program.glibc" "/tmp/$program.$mode"; then
                echo "RAN $program, $mode: $(wc -c <"/tmp/$program.$mode") bytes as on glibc, $(tail -n 1 "/tmp/$program.$mode" | cut -c1-60)"
            else
                echo "FAULT $program, $mode: it failed or has another output" && diff "/tmp/$program.glibc" "/tmp/$program.$mode" | head -n 20
            fi
        done
    )
done
# The control: an output that differs in one byte.
echo x >>/tmp/python.glibc
cmp -s /tmp/python.glibc /tmp/python.libc && echo "FAULT control: a changed output was not noticed"
