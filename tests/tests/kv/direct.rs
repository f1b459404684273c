//! Clients without a server: each command is a program of its own, in a VM of its own.

use std::process::Stdio;

use super::wire::{kv, spacejmp};
use tests::skip_without_kvm;
use tests::vm::Run;

fn run(folder: &std::path::Path, args: &[&str]) -> tests::vm::Ended {
    Run::new(kv()).args(args).store(folder.join("store")).in_vm()
}

#[test]
fn what_one_program_sets_the_next_ones_get_count_and_delete() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| run(folder.path(), args);
    run(&["set", "greeting", "hello"]).expect(0, "OK\n");
    run(&["get", "greeting"]).expect(0, "hello\n");
    run(&["append", "greeting", ", world"]).expect(0, "12\n");
    run(&["rpush", "list", "a", "b"]).expect(0, "2\n");
    run(&["lrange", "list", "0", "-1"]).expect(0, "a\nb\n");
    run(&["zadd", "z", "1.5", "m"]).expect(0, "1\n");
    run(&["keys", "g*"]).expect(0, "greeting\n");
    run(&["del", "greeting", "list", "z"]).expect(0, "3\n");
    run(&["get", "greeting"]).expect(1, "");
    let wrong = run(&["incr", "a", "b"]);
    wrong.expect(1, "");
    assert!(wrong.err().contains("wrong number of arguments for 'incr'"), "{wrong:?}");
    run(&["publish", "a", "b"]).expect(1, "");
    run(&["--vas", "other", "dbsize"]).expect(0, "0\n");
    // The benchmark's stores: many keys in a visit, taken one at a time, and what is left of them in the last one.
    let fill = Run::new(tests::guests::program("kv", "kv-benchmark", tests::guests::Profile::Dev));
    let fill = fill.args(&["fill", "filled", "1000", "40", "manual", "300"]);
    fill.store(folder.path().join("store")).in_vm().expect(0, "");
    run(&["--vas", "filled", "dbsize"]).expect(0, "1000\n");
    run(&["--vas", "filled", "get", "key:000000000999"]).expect(0, &("v".repeat(40) + "\n"));
}

#[test]
fn a_shell_has_transactions_and_an_old_version_is_read_and_not_written() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let script = b"set k \"old value\"\nmulti\nset k new\nlpush l 1\ndiscard\nwatch k\nmulti\nincr n\nexec\nnosuch\n";
    let shell = Run::new(kv()).args(&["shell"]).stdin(script).store(folder.path().join("store"));
    let expected = "OK\nOK\nQUEUED\nQUEUED\nOK\nOK\nOK\nQUEUED\n1) (integer) 1\n\
                    (error) ERR unknown command 'nosuch', with args beginning with: \n";
    shell.in_vm().expect(0, expected);
    let saved = run(folder.path(), &["save"]);
    let name = saved.out().trim().rsplit(' ').next().expect("a word").to_owned();
    run(folder.path(), &["set", "k", "new"]).expect(0, "OK\n");
    let old = format!("kv@{name}");
    run(folder.path(), &["--vas", &old, "get", "k"]).expect(0, "old value\n");
    let refused = run(folder.path(), &["--vas", &old, "set", "k", "x"]);
    refused.expect(1, "");
    assert!(refused.err().contains("READONLY"), "{refused:?}");
    run(folder.path(), &["get", "k"]).expect(0, "new\n");
}

#[test]
fn a_program_that_waits_gets_what_another_one_pushes() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    run(folder.path(), &["set", "k", "v"]).expect(0, "OK\n");
    let mut waiting = spacejmp(folder.path());
    waiting.arg(kv()).args(["blpop", "queue", "0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let waiting = waiting.spawn().expect("it starts");
    run(folder.path(), &["rpush", "queue", "job"]).expect(0, "1\n");
    let ended = waiting.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "queue\njob\n");
    run(folder.path(), &["blpop", "queue", "0.05"]).expect(1, "");
}

#[test]
fn a_space_that_is_no_store_or_of_another_layout_is_refused_with_what_to_do() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let other = Run::new(tests::guests::rust("sdk_versioned")).args(&["words", "add", "1", "1"]);
    other.store(folder.path().join("store")).in_vm().expect(0, "");
    let refused = run(folder.path(), &["--vas", "words", "get", "k"]);
    refused.expect(2, "");
    let said = refused.err();
    assert!(said.contains("the root object of `words`") && said.contains("--vas"), "{said}");
}

#[test]
fn outside_a_vm_it_says_how_to_run_it() {
    let ended = Run::new(kv()).args(&["get", "k"]).native();
    assert!(ended.err().contains("spacejmp run"), "{ended:?}");
}
