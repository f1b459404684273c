//! What the tests have to know about each page: what its reader has beforehand, and which commands cannot be run as they are.

use super::Page;

const DEMO: &str = "the demo, which first-hour.md runs";
const TESTS: &str = "all tests, of which this one is a part";
const HERE: &str = "it is in another place here";
const PORT: &str = "a program of the machine may have the port, which another test chooses";
const ON: &str = "goes on until somebody ends it: it is waited for, and then used";
const LONG: &str = "takes minutes";
const OTHERS: &str =
    "needs another machine; tests/tests/network_programs.rs has both programs, by loopback";
const FULL: &str = "a check of its own in CI, of many minutes";

pub(super) const README: Page = Page {
    name: "README.md",
    limit: 600,
    before: "export KILLS=5; cp -rL \"$SDK/docs\" .",
    left_out: &[("cargo run --release -- demo", DEMO), ("cargo test --workspace", TESTS)],
    instead: &[(
        "$BIN/mkgraph 10M edges.txt",
        "a graph of this size takes minutes without optimisation",
        "$BIN/mkgraph 10k edges.txt",
    )],
    ends: &[("spacejmp vas diff bank@monday bank", 1)],
    ..Page::OF
};

pub(super) const GETTING_STARTED: Page = Page {
    name: "docs/src/getting-started.md",
    before: "printf '#include <stdio.h>\\nint main(void) { puts(\"hello\"); }\\n' > hello.c",
    left_out: &[
        ("cargo run --release -- demo", DEMO),
        ("cargo test --workspace", TESTS),
        (
            "cargo install spacejmp-cli",
            "no version is published; `cargo xtask check packages` installs it",
        ),
    ],
    ..Page::OF
};

pub(super) const TUTORIAL: Page = Page {
    name: "docs/src/tutorial.md",
    limit: 600,
    ends: &[("target/x86_64-unknown-linux-gnu/debug/diary", 1)],
    ..Page::OF
};

pub(super) const VERSIONED: Page = Page {
    name: "docs/src/versioned.md",
    programs: &["kv"],
    before: r#"
        for n in 1 2 3; do spacejmp run ./kv --vas books set book $n || exit; done
        printf '#include <spacejmp.h>\nint main(void) { return !vas_find("books@monday"); }\n' > report.c
        cc -DSPACEJMP_HEADER_ONLY -static -I guest-sdk/include report.c -o report"#,
    instead: &[(
        "spacejmp vas rollback books 1207",
        "there are fewer versions",
        "spacejmp vas rollback books 2",
    )],
    ends: &[("spacejmp vas diff books@monday", 1)],
    ..Page::OF
};

/// A program that waits, and a function that waits for it.
const SERVER: &str = r#"
    cat > server.c <<'END'
#include <sys/epoll.h>
int main(void)
{
    struct epoll_event event;
    for (int epoll = epoll_create1(0);;)
        epoll_wait(epoll, &event, 1, -1);
}
END
    cc -static server.c -o server
    is_up() { until spacejmp ps 2> /dev/null | grep -q 'server.*epoll_wait'; do sleep 0.1; done; }"#;

pub(super) const OBSERVING: Page = Page {
    name: "docs/src/observing.md",
    before: SERVER,
    vm: "web",
    instead: &[("spacejmp run --name web --listen 8080 ./server &", ON, "{}\nis_up")],
    ..Page::OF
};

pub(super) const SNAPSHOTS: Page = Page {
    name: "docs/src/snapshots.md",
    before: SERVER,
    vm: "web",
    left_out: &[
        ("spacejmp run --snapshot-at-ready warm --dir . --listen 8080 ./server 8080 &", PORT),
        (
            "for port in $(seq 8081 8090); do\n  spacejmp run --from warm --dir . --listen $port $port &\ndone",
            PORT,
        ),
    ],
    instead: &[
        ("spacejmp run --name web --dir . ./server &", ON, "{}\nis_up"),
        (
            "spacejmp run --from warm --dir .",
            ON,
            "spacejmp stop web\n{} --name web &\nis_up\nspacejmp stop web",
        ),
    ],
    ..Page::OF
};

pub(super) const DEBUGGING: Page = Page {
    name: "docs/src/debugging.md",
    needs: &["gdb"],
    vm: "web",
    before: r#"
        cat > crash.c <<'END'
#include <pthread.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
__attribute__((noinline)) static void fill(volatile int *to) { *to = 1; }
static void *worker(void *none)
{
    pthread_mutex_lock(&lock);
    for (;;)
        pthread_cond_wait(&never, &lock);
    return none;
}
int main(void)
{
    pthread_t thread;
    pthread_create(&thread, 0, worker, 0);
    pthread_setname_np(thread, "worker");
    usleep(100000);
    fill(0);
}
END
        printf 'int work(int a) { return a + 1; }\nint main(void) { return work(-1); }\n' > demo.c
        cc -g -static demo.c -o demo
        waiting() { until grep -q 'waiting for gdb' "$1"; do sleep 0.1; done; cat "$1"; }
        printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' > server.c
        cc -g -static server.c -o server
        spacejmp run --name web ./server &
        until spacejmp ps | grep -q pause; do sleep 0.1; done"#,
    instead: &[
        ("spacejmp run --gdb ./demo", ON, "{} 2> said & waiting said"),
        (
            "(gdb) target remote /run/user/1000/spacejmp-gdb-4711-0/gdb",
            HERE,
            "$(sed 's/.*gdb: //' said)",
        ),
        (
            "spacejmp run --gdb-on-crash ./crash",
            ON,
            "{} 2> died & waiting died; kill $!; wait $! || true",
        ),
    ],
    ends: &[
        ("spacejmp run --backtrace=all ./crash", 139),
        ("spacejmp run --core crash.core ./crash", 139),
    ],
    ..Page::OF
};

pub(super) const RUNNING_PROGRAMS: Page = Page {
    name: "docs/src/running-programs.md",
    programs: &["wordindex"],
    before: r#"
        mkdir out; echo 'b a' > names
        printf '#include <stdio.h>\nint main(int n, char **a) { FILE *f = fopen(a[1], "r"); int c; while ((c = getc(f)) >= 0) putchar(c); }\n' > show.c
        printf '#include <unistd.h>\nint main(void) { return write(5, "ok", 2) != 2; }\n' > serve.c
        printf '#include <spacejmp.h>\nint main(void) { return vas_find("genome") != 0; }\n' > untrusted.c
        printf '#include <spacejmp.h>\nint main(void) { return !vas_find("genome") || !vas_create("results", 0600) || vas_create("other", 0600); }\n' > align.c
        for program in show serve untrusted align; do
            cc -DSPACEJMP_HEADER_ONLY -static -I guest-sdk/include $program.c -o $program || exit
        done
        spacejmp vas create genome"#,
    instead: &[(
        "spacejmp run --dir /srv/corpus:/data:ro --dir out:/out ./wordindex /data",
        HERE,
        "mkdir corpus; spacejmp run --dir corpus:/data:ro --dir out:/out ./wordindex /data",
    )],
    ..Page::OF
};

pub(super) const RUNNING_WHAT_YOU_HAVE: Page = Page {
    name: "docs/src/running-what-you-have.md",
    needs: &["python3", "make"],
    before: r#"
        printf 'one\ntwo\n' > words.txt; echo 'print("report")' > report.py; printf 'all:\n\techo made\n' > Makefile
        ! command -v sqlite3 || sqlite3 notes.db 'create table notes (note)'"#,
    left_out: &[(
        "spacejmp run --root ./debian --dir data:/data:ro /usr/bin/samtools stats /data/a.bam",
        "needs a tree of Debian's; distribution-programs.md has what runs in one",
    )],
    commands_need: &[(
        "spacejmp run --dir . sqlite3 notes.db 'select count(*) from notes'",
        "sqlite3",
    )],
    ..Page::OF
};

pub(super) const NETWORK: Page = Page {
    name: "docs/src/network.md",
    before: "for program in report anything; do echo 'int main(void) { return 0; }' | cc -static -x c - -o $program; done",
    left_out: &[
        ("spacejmp run --connect example.org:443 --root / curl https://example.org", OTHERS),
        (
            "spacejmp run --listen 8080 --dir site:/site:ro --root / python3 -m http.server -d /site 8080",
            PORT,
        ),
    ],
    ..Page::OF
};

pub(super) const STORE_COMMANDS: Page = Page {
    name: "docs/src/store-commands.md",
    // A ledger, and a program that changes three of its pages.
    before: r#"
        cat > change.c <<'END'
#include <spacejmp.h>
int main(void)
{
    vhandle_t vh = vas_attach(vas_find("ledger"), 0);
    if (vas_switch(vh))
        return 1;
    char *ledger = (char *)0x100000000000;
    ledger[0x1000] = ledger[0x2000] = ledger[0x9000] = 1;
    return vas_switch(VAS_HOME) != 0;
}
END
        cc -DSPACEJMP_HEADER_ONLY -static -I guest-sdk/include change.c -o change
        spacejmp seg create ledger --size 1M --base 0x100000000000 && spacejmp vas create ledger &&
            spacejmp vas attach ledger ledger && spacejmp seg tag ledger monday && spacejmp run ./change"#,
    ends: &[("spacejmp seg diff ledger@monday", 1)],
    ..Page::OF
};

pub(super) const CHANGING_TYPES: Page = Page {
    name: "docs/src/changing-types.md",
    limit: 600,
    // The program of the page, after one whose type is the earlier one.
    before: r#"
        spacejmp new diary --sdk "$SDK" && mv diary project && ln -s "$TARGETS" project/target || exit
        build() { (cd project && cargo build --quiet) && cp project/target/x86_64-unknown-linux-gnu/debug/diary $1; }
        block() { awk -v kind="\`\`\`$1" '/^```/ { if (inside) exit; inside = $0 == kind; next } inside' "$SDK/docs/src/changing-types.md"; }
        block rust | grep -v '^# fn main' | sed 's/^# //; s/{Storable/{Error, Space, Storable/' > project/src/main.rs
        cat >> project/src/main.rs <<'END'
fn main() -> Result<(), Error> {
    let made = Space::<Diary>::open_or_create("diary", |_| {
        Ok(Notes { list: VVec::new(), count: 7, cache: VVec::new() })
    });
    made.map(|_| ())
}
END
        build earlier && spacejmp run ./earlier || exit
        block rust,no_run > project/src/main.rs
        build diary"#,
    ends: &[("spacejmp run --env SPACEJMP_UPGRADE=no ./diary", 1)],
    ..Page::OF
};

pub(super) const KV: Page = Page {
    name: "docs/src/kv.md",
    left_out: &[
        (
            "cargo run --manifest-path examples/kv/clients/Cargo.toml -- /tmp/kv/kv.sock",
            "downloads what it depends on",
        ),
        ("spacejmp run --listen 7711 $KV --durability manual serve --port 7711 &", PORT),
        (
            "./runtest --host 127.0.0.1 --port 7711 --durable --ignore-encoding --ignore-digest --single unit/type/list \\\n    --tags \"-needs:debug -needs:repl -needs:save -needs:reset -needs:config-maxmemory -needs:latency -needs:config-resetstat -slow -cluster\"",
            "needs the sources of Redis",
        ),
    ],
    before: "served() { mkdir $1; spacejmp run --dir \"$PWD/$1\" $KV serve --port 0 --unix \"$PWD/$1/kv.sock\" &
        until [ -S $1/kv.sock ]; do sleep 0.1; done; }",
    commands_need: &[("redis-cli incr visits", "redis-cli")],
    instead: &[
        ("spacejmp run --listen 6379 $KV serve &", PORT, "served first"),
        (
            "redis-cli incr visits",
            "the server is at a socket here; what a terminal shows of a number is asked for",
            "redis-cli --no-raw -s first/kv.sock incr visits",
        ),
        ("spacejmp run --dir /tmp/kv $KV serve --port 0 --unix /tmp/kv/kv.sock &", HERE, "served kv"),
    ],
    ..Page::OF
};

pub(super) const GENOME: Page = Page {
    name: "docs/src/genome.md",
    programs: &["genome"],
    needs: &["samtools"],
    before: "./genome generate 2k > reads.sam && samtools view -b reads.sam > reads.bam",
    ..Page::OF
};

pub(super) const C: Page = Page {
    name: "docs/src/c.md",
    instead: &[(
        "RUSTFLAGS='-C link-arg=-Wl,-soname,libspacejmp.so.0' cargo rustc --release -p spacejmp-c \\\n    --crate-type cdylib --target-dir target/shared",
        "without optimisation another test needs it, too",
        "(cd \"$SDK\" && RUSTFLAGS='-C link-arg=-Wl,-soname,libspacejmp.so.0' cargo rustc -p spacejmp-c \\
            --crate-type cdylib --target-dir \"$SHARED\") && mkdir -p target/shared/x86_64-unknown-linux-gnu && \\
            ln -s \"$SHARED/x86_64-unknown-linux-gnu/debug\" target/shared/x86_64-unknown-linux-gnu/release",
    )],
    before: "printf '#include <spacejmp.h>\\nint main(void) { return !vas_create(\"c\", 0600) && !vas_find(\"c\"); }\\n' > program.c",
    ..Page::OF
};

pub(super) const CXX: Page =
    Page { name: "docs/src/cxx.md", limit: 300, needs: &["c++"], ..Page::OF };

pub(super) const PROFILES: Page = Page {
    name: "docs/src/profiles.md",
    before: r#"
        cat > work.c <<'END'
#include <fcntl.h>
#include <unistd.h>
__attribute__((noinline)) static void read_all(int fd)
{
    char byte;
    for (int i = 0; i < 4096; i++)
        read(fd, &byte, 1);
}
int main(void) { read_all(open("/dev/zero", O_RDONLY)); return 0; }
END
        cc -O1 -fno-omit-frame-pointer -fno-optimize-sibling-calls -static work.c -o work"#,
    instead: &[(
        "sort -t' ' -k2 exits.folded | tail -1",
        "C libraries have other names for their own functions",
        "{} | sed 's/;[_a-z]*;main;/;__libc_start_call_main;main;/; s/;[_a-z]*;.read/;__read;[read/'",
    )],
    ..Page::OF
};

pub(super) const PORTING: Page = Page {
    name: "docs/src/porting.md",
    left_out: &[
        ("cargo build --target x86_64-unknown-linux-gnu", "a project of the reader's"),
        ("spacejmp run --dir . program ...", "a program of the reader's"),
    ],
    ..Page::OF
};

pub(super) const DOCTOR: Page = Page {
    name: "docs/src/doctor.md",
    before: r#"
        mkdir lib; echo 'void plot(void) { }' | cc -shared -fPIC -x c - -o lib/libplot.so.2 -Wl,-soname,libplot.so.2
        printf '#include <sys/ptrace.h>\n#include <math.h>\nvoid plot(void);\nint main(int n, char **v) { plot(); return ptrace(0, 0, 0, 0) + (int)sin(n); }\n' |
            cc -x c - -x none lib/libplot.so.2 -lm -Wl,-rpath,"$PWD/lib" -o report"#,
    ends: &[("spacejmp doctor ./report", 126)],
    ..Page::OF
};

pub(super) const BENCHMARKS: Page = Page {
    name: "docs/src/benchmarks.md",
    left_out: &[
        (
            "spacejmp bench run --quick",
            "measures for most of a minute; tests/tests/bench.rs has quick runs of others",
        ),
        ("spacejmp bench switch tlb", LONG),
        ("spacejmp bench all --out results", LONG),
        ("spacejmp bench store --dir /var/tmp", LONG),
        (
            "spacejmp bench compare results newer",
            "needs two runs: tests/tests/bench.rs compares two",
        ),
        ("cargo xtask peers", LONG),
        (
            "spacejmp bench store --quick --entries 5000",
            "tests/tests/bench_store.rs runs it with fewer",
        ),
        ("spacejmp bench store --peers /opt/spacejmp-bench-peers", LONG),
    ],
    ..Page::OF
};

pub(super) const DEPLOYMENT: Page = Page {
    name: "docs/src/deployment.md",
    programs: &["kv"],
    before: "mkdir -p usr/bin man1; ln -s \"$(command -v spacejmp)\" target/x86_64-unknown-linux-gnu/release/spacejmp
        mv kv target/x86_64-unknown-linux-gnu/release",
    left_out: &[
        ("# systemctl enable --now spacejmp-kv", "changes the machine: tests/tests/deployment.rs runs what the unit says"),
        ("# systemctl status spacejmp-kv", "needs the service before"),
        ("podman build -t kv -f resources/deploy/Containerfile .", "needs podman and an image from elsewhere"),
        ("podman run --rm --device /dev/kvm --group-add keep-groups --read-only --cap-drop all -e KV_PASSWORD -v kv:/data -p 127.0.0.1:6379:6379 kv", "needs the image before"),
    ],
    instead: &[
        (
            "# install -m 755 target/x86_64-unknown-linux-gnu/release/spacejmp /usr/local/bin/",
            "not into the machine's own folders",
            "install -m 755 target/x86_64-unknown-linux-gnu/release/spacejmp usr/bin",
        ),
        (
            "# spacejmp man --out /usr/local/share/man/man1",
            "not into the machine's own folders",
            "usr/bin/spacejmp man --out man1 && ls man1/spacejmp-run.1",
        ),
        (
            "# spacejmp completions bash > /usr/share/bash-completion/completions/spacejmp",
            "not into the machine's own folders",
            "usr/bin/spacejmp completions bash > completions && bash -n completions",
        ),
    ],
    ..Page::OF
};

pub(super) const HOSTS: Page = Page {
    name: "docs/src/hosts.md",
    left_out: &[
        ("SPACEJMP_REQUIRE_KVM=1 cargo test --workspace", TESTS),
        ("cargo xtask check machines", FULL),
        ("cargo xtask check machines-e2e", FULL),
        (
            "cargo xtask machine intel -- spacejmp doctor",
            "needs emulators: `cargo xtask check machines` runs it",
        ),
        ("spacejmp bench all --json > bench.json", LONG),
    ],
    ..Page::OF
};

pub(super) const SUITES: Page = Page {
    name: "docs/src/suites.md",
    left_out: &[
        ("cargo build --release", "for the suite that comes next"),
        (
            "resources/suites/go.sh target/x86_64-unknown-linux-gnu/release/spacejmp",
            "needs Go and its sources",
        ),
        (
            "resources/suites/rust.sh target/x86_64-unknown-linux-gnu/release/spacejmp tokio-1.54.1 --features full,test-util --tests",
            "downloads sources",
        ),
    ],
    ..Page::OF
};

pub(super) const TEACHING: Page = Page {
    name: "docs/src/teaching.md",
    limit: 600,
    left_out: &[
        ("spacejmp bench switch", LONG),
        ("spacejmp bench tlb --out tlb", LONG),
        ("spacejmp bench map --out map", LONG),
        ("spacejmp bench gups rpc --out windows", LONG),
        ("cargo xtask crashtest --states 2000 --workload each", FULL),
    ],
    ends: &[("spacejmp run --no-store ./worlds", 139), ("spacejmp vas diff diary@before", 1)],
    ..Page::OF
};

pub(super) const PLANTED_DEFECTS: Page = Page {
    name: "docs/src/internals/planted-defects.md",
    left_out: &[
        ("cargo xtask defects --list", "`cargo xtask check defects` reads the same list"),
        ("cargo xtask defects", FULL),
        ("cargo xtask defects missing-flush", FULL),
    ],
    ..Page::OF
};

pub(super) const EXAMPLES: Page = Page {
    name: "examples/README.md",
    limit: 600,
    before: "export KILLS=3",
    left_out: &[("spacejmp run --listen 6379 $KV serve", PORT)],
    instead: &[
        (
            "cargo run --release -p mktext -- 100M big.txt",
            "slow without optimisation",
            "target/x86_64-unknown-linux-gnu/release/mktext 1M big.txt",
        ),
        ("$BIN/mkgraph 10M edges.txt", "slow without optimisation", "$BIN/mkgraph 10k edges.txt"),
        (
            "cargo run --release -p mkgraph -- 10M edges.txt --nodes 2M --seed 7",
            "slow without optimisation",
            "target/x86_64-unknown-linux-gnu/release/mkgraph 10k edges.txt --nodes 2k --seed 7",
        ),
        (
            "$GENOME generate 100k > reads.sam",
            "slow without optimisation",
            "$GENOME generate 2k > reads.sam",
        ),
    ],
    ..Page::OF
};

pub(super) const SDK: Page = Page {
    name: "guest-sdk/README.md",
    limit: 600,
    left_out: &[(
        "cargo install spacejmp-cli",
        "no version is published; `cargo xtask check packages` installs it",
    )],
    ..Page::OF
};

pub(super) const PYTHON: Page = Page {
    name: "python/README.md",
    left_out: &[
        ("pip install ./python", "first-hour.md does it, into a folder of its own"),
        ("spacejmp run --root / --dir . python3 PROGRAM.py", "a program of the reader's"),
    ],
    ..Page::OF
};
