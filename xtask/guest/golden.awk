# Follows the hot path of functions in the output of `objdump -d --demangle=rust --no-show-raw-insn`: conditional branches are not taken, direct
# jumps are followed, a loop is passed once. Before it come lines with a name and a limit each, and a line "---".
#
# Prints the golden table; exit 1 if a function is above its limit, or has what a hot path must not have.

reading_limits && /^---$/ { reading_limits = 0; next }
reading_limits { names[++count] = $1; limit[$1] = $2; next }
/^[0-9a-f]+ <.*>:$/ {
    name = $0
    sub(/^[0-9a-f]+ </, "", name)
    sub(/>:$/, "", name)
    # As docs/golden.md has them.
    sub(/^rsalloc_core::arch::selected::counted/, "rsalloc_core", name)
    sub(/^rsalloc_core::arch::selected::/, "", name)
    sub(/^rsalloc_core::engine::api::/, "rsalloc_core::", name)
    sub(/^rsalloc_preload::c_abi::/, "", name)
    start[name] = hex($1)
    next
}
/^ *[0-9a-f]+:/ {
    at = $1
    sub(/:/, "", at)
    at = hex(at)
    sub(/^ *[0-9a-f]+:[ \t]*/, "")
    text[at] = $0
}
function hex(digits, value, i) {
    value = 0
    for (i = 1; i <= length(digits); i++) value = value * 16 + index("123456789abcdef", substr(digits, i, 1))
    return value
}
function fault(why) {
    print "FAULT " why > "/dev/stderr"
    failed = 1
}
function walk(name, at, visits, words, n, steps, loads, stores, branches, op, instruction) {
    if (!(name in start)) {
        fault(name ": no such function")
        return
    }
    at = start[name]
    for (;;) {
        if (!(at in text)) { fault(name ": no code"); return }
        instruction = text[at]
        sub(/ *(\/\/|<).*/, "", instruction)
        n = split(instruction, words, /[ \t,]+/)
        op = words[1]
        if (++visits[at] > 2) { fault(name ": loops at " instruction); return }
        steps++
        if (op ~ /^(ld[rp]|prfm)/) loads++
        if (op ~ /^st[rp]/) stores++
        if (op ~ /^(bl|blr|br|svc|brk|udf)$/) fault(name ": calls: " instruction)
        # The countdown of a profile, in front of the section, is one by an exclusive load and store.
        if (name !~ /_counted$/ && op ~ /^(ldx|stx|lda|stl|cas|swp|ldadd|ldset|ldclr|stadd|dmb|dsb|isb)/) fault(name ": locks: " instruction)
        if (instruction ~ /[^a-z](sp|x29|x18|w18)([^a-z0-9]|$)/) fault(name ": uses the stack or a register of the platform: " instruction)
        if (op == "ret") break
        if (op == "b") { at = hex(words[2]); continue }
        if (op ~ /^(b\.|cbn?z$|tbn?z$)/) {
            branches++
            if (visits[at] == 2) { at = hex(words[n]); continue }
        }
        at += 4
    }
    printf "| `%s` | %d | %d | %d | %d | %d |\n", name, steps, limit[name], loads, stores, branches
    if (steps > limit[name]) fault(name ": " steps " instructions, the limit is " limit[name])
}
BEGIN { reading_limits = 1 }
END {
    print "| function | instructions | limit | loads | stores | conditional branches |"
    print "|---|--:|--:|--:|--:|--:|"
    for (i = 1; i <= count; i++) walk(names[i])
    exit failed
}
