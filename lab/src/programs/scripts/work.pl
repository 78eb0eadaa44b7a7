# Hashes, strings, regular expressions, sorting, threads and fork; prints digests.
use strict;
use warnings;
use threads;
use Digest::SHA qw(sha1_hex);

my ($rounds) = @ARGV;

sub work {
    my ($seed, $rounds) = @_;
    my %count;
    my @lines;
    for my $i (1 .. $rounds) {
        $seed = ($seed * 1103515245 + 12345) % 2147483648;
        my $word = sprintf("%x-%s", $seed % 4099, "ab" x ($seed % 97));
        $count{$word}++;
        push @lines, "$word:$i";
        splice @lines, 0, 5000 if @lines > 10000;
        $lines[-1] =~ s/(ab)+:/$1-$seed:/;
    }
    my $joined = join "\n", sort { $a cmp $b } @lines;
    my $found = () = $joined =~ /(\d+)-ab-\d{3,}/g;
    my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 20];
    return join " ", $found, scalar(keys %count), sha1_hex($joined), sha1_hex("@top");
}

print work(1, $rounds), "\n";
my @threads = map { my $seed = $_; threads->create(sub { work($seed, $rounds / 4) }) } 2 .. 9;
print $_->join, "\n" for @threads;
for my $seed (10 .. 13) {
    open(my $child, "-|") // die "fork: $!" or do { print work($seed, $rounds / 4), "\n"; exit };
    print <$child>;
    close $child or die "child: $?";
}
