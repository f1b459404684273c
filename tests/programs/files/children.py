import subprocess, sys
print(subprocess.run(["sort", "-n", "numbers.txt"], capture_output=True, text=True).stdout.split()[:5])
first = subprocess.Popen(["cat", "words.txt"], stdout=subprocess.PIPE)
second = subprocess.Popen(["grep", "-c", "e"], stdin=first.stdout, stdout=subprocess.PIPE, text=True)
first.stdout.close()
print(second.communicate()[0].strip(), first.wait(), second.returncode)
sys.exit(subprocess.call(["sh", "-c", "exit 7"]))
