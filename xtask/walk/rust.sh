# A Rust developer: a new project on the crate, its build, its size, what it says.
. "$REPOSITORY/xtask/walk/lib.sh"
export CARGO_NET_OFFLINE=true   # what the workspace has fetched is enough

# README's first command, as it stands.
(cd "$REPOSITORY" && export CARGO_TARGET_DIR="$TARGET" && eval "$(grep -m 1 '^cargo run --release' README.md)") | grep '^hello from rsalloc$'

cargo new --quiet --vcs none service
cd service
cat >src/main.rs <<'END'
fn main() {
    let words: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    println!("{}", words.concat().len());
}
END
# How large the program is without its symbols.
stripped() {
    strip -s -o stripped target/release/service
    stat -c %s stripped
}
cargo build --quiet --release
system=$(stripped)

cargo add --quiet rsalloc --path "$REPOSITORY/alloc-global"
# The README's example, as it stands.
sed -n '/^```rust$/,/^```$/p' "$REPOSITORY/README.md" | grep -v '^```' >>src/main.rs
begin=$(date +%s%N)
cargo build --quiet --release
milliseconds=$((($(date +%s%N) - begin) / 1000000))
size=$(stripped)
echo "built in $milliseconds ms, $((size - system)) bytes more than on the system's allocator"
[ $((size - system)) -le 268500 ]   # 268,088 on 2026-12-01 (docs/adr/0044)
[ "$milliseconds" -le 60000 ]   # 10 s on an idle machine

[ "$(./target/release/service)" = 2890 ]
RSALLOC_CONF=verbose:on ./target/release/service 2>&1 | grep '^rsalloc: '
rsalloc stats -- ./target/release/service 2>&1 | grep '^mapped ' >/dev/null
refused 127 rsalloc run ./target/release/servise

# The same without the parts that a small program leaves out, which says so where a setting asks for one.
sed -i '/^rsalloc = /s/ }/, default-features = false, features = ["system-elsewhere"] }/' Cargo.toml   # as docs/rust.md has it
cargo build --quiet --release
size=$(stripped)
echo "$((size - system)) bytes more without guard, limits, nodes, profile and reports"
[ $((size - system)) -le 165500 ]   # 163,992 on 2026-12-01; the aim is 150,000
[ "$(./target/release/service)" = 2890 ]
RSALLOC_CONF=guard:10,limit:auto,nodes:on,profile:on,stats_at_exit:text ./target/release/service >left_out 2>&1
for part in guard limits nodes profile reports; do
    grep -c "^rsalloc: .*built without the feature $part$" left_out | grep '^1$'
done
[ "$(grep -c '' left_out)" = 6 ]
[ "$(./target/release/service 2>&1)" = 2890 ]   # a default is no wish

# Nor is a command obeyed then, or said to be, and no guard pages are told of.
mkdir src/bin
cat >src/bin/waits.rs <<'END'
#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
fn main() {
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
END
cargo build --quiet --release --bin waits
mkfifo held
RSALLOC_CONF=guard:10,hardened:on,verbose:on ./target/release/waits <held >ready 2>&1 &
pid=$!
exec 8>held
until grep ready ready; do kill -0 $pid; sleep 0.1; done
for item in limit:1G guard:10 profile:on stats_at_exit:text; do
    refused 3 rsalloc set $pid $item
    grep 'built without the feature that this needs' said
    rsalloc conf $pid | grep "^${item%:*} .*left out of build"
done
rsalloc check $pid | grep '^guard pages: *no$'
echo >&8
wait $pid
