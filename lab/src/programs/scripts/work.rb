# Strings, hashes, threads, ractors, fork and forced collections; prints digests.
require "digest"
require "json"
require "zlib"

rounds = Integer(ARGV[0])

WORK = lambda do |seed, rounds|
  table = {}
  list = []
  rounds.times do |i|
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    word = "#{seed.to_s(36)}-#{'xy' * (seed % 101)}"
    (table[seed % 997] ||= []) << word
    list << word.gsub(/xy/, "z") if i % 3 == 0
    table.delete(i % 997) if i % 1001 == 0
  end
  text = JSON.generate(table.sort.map { |k, v| [k, v.last(5)] })
  raise "json" unless JSON.generate(JSON.parse(text)) == text
  packed = Zlib::Deflate.deflate(list.join("\n"))
  raise "zlib" unless Zlib::Inflate.inflate(packed) == list.join("\n")
  Digest::SHA1.hexdigest(text + list.sort.join)
end

puts WORK.call(1, rounds)
puts (2..9).map { |seed| Thread.new { WORK.call(seed, rounds / 8) } }.map(&:value)
GC.start
GC.compact if GC.respond_to?(:compact)
GC.stress = true
puts WORK.call(10, 5)
GC.stress = false
4.times do |seed|
  IO.popen("-") { |child| child ? puts(child.read) : puts(WORK.call(20 + seed, rounds / 8)) }
  raise "child" unless $?.success?
end
puts GC.stat.key?(:count) ? "done" : "no statistics"
