{ count[length($1)]++; sum += $2 }
END { for (n = 1; n < 10; n++) if (n in count) printf "%d: %d\n", n, count[n]; print sum }
