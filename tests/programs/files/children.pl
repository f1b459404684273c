my $lines = `cat words.txt | wc -l`;
print $lines;
open(my $sorted, '-|', 'sort', '-n', 'numbers.txt') or die $!;
print scalar <$sorted>;
my $pid = fork; exit 3 unless $pid; waitpid $pid, 0; print $? >> 8, "\n";
