use strict; use warnings;
use List::Util qw(sum max); use File::Temp qw(tempdir); use POSIX qw(strftime);
my %count;
open(my $in, '<', 'words.txt') or die $!;
while (<$in>) { my ($word, $number) = split; $count{$word} = $number; }
printf "%d words, sum %d, greatest %d\n", scalar keys %count, sum(values %count), max(values %count);
print join(' ', sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count), "\n";
my $folder = tempdir(CLEANUP => 1);
mkdir "$folder/x" or die $!;
open(my $out, '>', "$folder/x/y") or die $!; print $out "kept\n"; close $out;
print -s "$folder/x/y", " ", strftime('%F', gmtime(86400)), "\n";
(my $text = 'a-b-c') =~ tr/a-c/A-C/; print "$text\n";
