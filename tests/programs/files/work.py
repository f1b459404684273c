import hashlib, json, os, re, sqlite3, tempfile, threading, zlib
words = dict(line.split() for line in open("words.txt"))
total = sum(int(number) for number in words.values())
print(total, sorted(words, key=lambda word: int(words[word]))[:3])
print(hashlib.sha256(open("words.txt", "rb").read()).hexdigest()[:16], zlib.crc32(b"spacejmp"))
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "data", "x.json")
    os.makedirs(os.path.dirname(path))
    json.dump(words, open(path, "w"))
    os.symlink("x.json", path + ".link")
    print(len(json.load(open(path + ".link"))), sorted(os.listdir(os.path.dirname(path))))
database = sqlite3.connect(":memory:")
database.execute("create table t (word, number)")
database.executemany("insert into t values (?, ?)", words.items())
print(database.execute("select count(*), max(length(word)) from t").fetchone())
found = []
threads = [threading.Thread(target=lambda n=n: found.append(n * n)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(found), re.findall(r"\b\w+rr\w+", " ".join(words)))
