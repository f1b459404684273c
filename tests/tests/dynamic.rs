//! Dynamic executables, scripts, whole trees and the search in PATH: `spacejmp run PROGRAM` for
//! programs as distributions have them. Needs a C compiler with shared libraries, and /dev/kvm.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Link, Profile};
use tests::{pace, skip_without_kvm};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/c-dynamic")
}

/// Compiles a source of `guests/c-dynamic`.
fn cc(source: &str, to: &Path, options: &[&str]) {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread"]);
    command.arg(sources().join(source)).arg("-o").arg(to).args(options).args(["-ldl"]);
    let output = command.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A folder with links in its path resolved, as the program will see it.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = std::fs::canonicalize(dir.path()).expect("it is there");
    (dir, path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `spacejmp run` with these words.
fn run(words: &[&str]) -> Output {
    from(Path::new("."), words)
}

fn from(cwd: &Path, words: &[&str]) -> Output {
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env_remove("SPACEJMP_LOG")
        .current_dir(cwd)
        .args(["run", "--no-store", "--timeout", &limit])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

#[track_caller]
fn says(output: &Output, expected: &str) {
    let complaint = text(&output.stderr);
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        (expected, Some(0)),
        "{complaint}"
    );
}

#[track_caller]
fn refused(output: &Output, status: i32, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn write(path: &Path, text: &str, mode: u32) {
    let new = tempfile::NamedTempFile::new().expect("writable");
    std::fs::write(new.path(), text).expect("writable");
    std::fs::set_permissions(new.path(), PermissionsExt::from_mode(mode)).expect("it is ours");
    guests::copy_program(new.path(), path);
}

#[test]
fn a_dynamic_program_runs_as_it_is() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    for (name, options) in [("dynamic", ["-pie"].as_slice()), ("dynamic-fixed", &["-no-pie"])] {
        let program = at.join(name);
        cc("dynamic.c", &program, options);
        let native = Command::new(&program).output().expect("it runs natively");
        says(&native, "ok\n");
        says(&run(&[path(&program)]), "ok\n");
    }
}

#[test]
fn a_dynamic_program_has_as_much_stack_as_the_shell_says() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let program = at.join("dynamic");
    cc("dynamic.c", &program, &[]);
    for limit in ["1024", "200000", "unlimited"] {
        // Not every user may raise it.
        let script = format!("ulimit -S -s {limit} && exec \"$@\"");
        let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(spacejmp).args(["run", "--no-store"]).arg(&program);
        let output = command.env_remove("SPACEJMP_LOG").output().expect("it starts");
        assert!(output.status.success(), "{limit}: {}", text(&output.stderr));
    }
}

#[test]
fn without_libraries_or_a_loader_the_error_says_which_grant_is_missing() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let program = at.join("dynamic");
    cc("dynamic.c", &program, &[]);
    refused(&run(&["--no-libs", path(&program)]), 126, &["--no-libs withholds", "-static"]);
    // What is withheld can be granted, as anything else.
    let granted = ["/lib", "/lib64", "/usr/lib"].map(|dir| format!("{dir}:ro"));
    let mut words = vec!["--no-libs"];
    for (dir, grant) in ["/lib", "/lib64", "/usr/lib"].iter().zip(&granted) {
        if Path::new(dir).is_dir() {
            words.extend(["--dir", grant]);
        }
    }
    words.push(path(&program));
    says(&run(&words), "ok\n");
    let loader = at.join("own/ld.so");
    let other = at.join("other");
    cc("dynamic.c", &other, &[&format!("-Wl,--dynamic-linker={}", loader.display())]);
    refused(&run(&[path(&other)]), 126, &["own/ld.so", "(ENOENT)", "install it"]);
    std::fs::create_dir(at.join("own")).expect("it can be made");
    write(&loader, "text", 0o755);
    let grant = format!("--dir {}:ro", at.join("own").display());
    refused(&run(&[path(&other)]), 126, &["own/ld.so", "(ENOENT)", &grant]);
    let own = format!("{}:ro", at.join("own").display());
    refused(&run(&["--dir", &own, path(&other)]), 126, &["own/ld.so", "not an ELF file"]);
}

#[test]
fn a_program_that_needs_addresses_which_a_vm_does_not_have_is_refused_with_that_reason() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    // What says so is the name of the library.
    let library = at.join("libasan.so.8");
    cc("greet.c", &library, &["-shared", "-fPIC", "-Wl,-soname,libasan.so.8"]);
    let program = at.join("checked");
    cc("dynamic.c", &program, &["-Wl,--no-as-needed", path(&library), "-Wl,-rpath,$ORIGIN"]);
    let reason = "AddressSanitizer, which needs addresses above 16 TiB";
    refused(&run(&[path(&program)]), 126, &["cannot run", reason, "run it natively"]);
    let script = format!("{}; echo $?", path(&program));
    let started = run(&["--root", "/", "--dir", path(&at), "/bin/sh", "-c", &script]);
    assert_eq!(text(&started.stdout), "126\n", "{}", text(&started.stderr));
    assert!(text(&started.stderr).contains(reason), "{}", text(&started.stderr));
}

#[test]
fn libraries_beside_a_program_are_seen_as_far_as_its_runpath_names_them() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    for dir in ["bin", "lib", "secrets"] {
        std::fs::create_dir(at.join(dir)).expect("it can be made");
    }
    write(&at.join("secrets/key"), "the key\n", 0o644);
    write(&at.join("bin/beside"), "beside\n", 0o644);
    let program = at.join("bin/dynamic");
    cc("greet.c", &at.join("lib/libgreet.so"), &["-shared", "-fPIC"]);
    cc("dynamic.c", &program, &["-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"]);
    says(&run(&[path(&program), "greet"]), "greetings\n");
    // Nothing else around it, though the user could read it.
    let key = at.join("secrets/key");
    let read =
        |program: &Path, file: &Path| text(&run(&[path(program), "read", path(file)]).stdout);
    assert_eq!(read(&program, &key), "No such file or directory\n");
    assert_eq!(read(&program, &at.join("bin/beside")), "No such file or directory\n");
    assert_eq!(
        text(&run(&[path(&program), "write", path(&at.join("lib/x"))]).stdout),
        "Read-only file system\n"
    );
    // A program that asks for more does not get it.
    for asked in ["$ORIGIN/../secrets", "$ORIGIN/..", "$ORIGIN/../../../../../.."] {
        let greedy = at.join("bin/greedy");
        cc("dynamic.c", &greedy, &[&format!("-Wl,--enable-new-dtags,-rpath,{asked}")]);
        assert_eq!(read(&greedy, &key), "No such file or directory\n", "{asked}");
    }
    let told = run(&["--log", "info", path(&program), "greet"]);
    assert!(text(&told.stderr).contains(path(&at.join("lib"))), "{}", text(&told.stderr));
}

#[test]
fn the_environment_leads_the_loader_as_natively() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let program = at.join("dynamic");
    cc("dynamic.c", &program, &[]);
    let libraries = at.join("libraries");
    std::fs::create_dir(&libraries).expect("it can be made");
    cc("greet.c", &libraries.join("libgreet.so"), &["-shared", "-fPIC"]);
    let grant = format!("{}:ro", libraries.display());
    let variable = format!("LD_LIBRARY_PATH={}", libraries.display());
    says(&run(&["--dir", &grant, "--env", &variable, path(&program), "greet"]), "greetings\n");
    let preload = format!("LD_PRELOAD={}", libraries.join("libgreet.so").display());
    says(&run(&["--dir", &grant, "--env", &preload, path(&program)]), "preloaded\nok\n");
}

#[test]
fn a_script_is_run_by_its_interpreter_with_the_same_arguments_as_natively() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    std::fs::create_dir(at.join("bin")).expect("it can be made");
    let interpreter = at.join("bin/show");
    guests::copy_program(guests::c_with("show_args", Link::Fixed), &interpreter);
    let script = at.join("script");
    write(&script, &format!("#! {}  -x one two \nrest\n", interpreter.display()), 0o755);
    let native = Command::new(&script).args(["a", "b c"]).output().expect("it runs natively");
    let grant = format!("{}:ro", at.join("bin").display());
    let here = run(&["--dir", &grant, path(&script), "a", "b c"]);
    says(&here, &text(&native.stdout));
    assert!(text(&here.stdout).contains("script readable"), "{}", text(&here.stdout));
    // An interpreter that is a script has an interpreter of its own.
    let second = at.join("second");
    write(&second, &format!("#!{}\n", script.display()), 0o755);
    let native = Command::new(&second).arg("z").output().expect("it runs natively");
    let both = format!("{}:ro", at.display());
    says(&run(&["--dir", &both, path(&second), "z"]), &text(&native.stdout));
    // Without the grant it is named, with the option.
    let grant = format!("--dir {}:ro", at.join("bin").display());
    refused(&run(&[path(&script)]), 126, &[path(&interpreter), &grant]);
    write(&at.join("none"), "#!\n", 0o755);
    refused(&run(&[path(&at.join("none"))]), 126, &["no interpreter", "#!/bin/sh"]);
    let circle = at.join("circle");
    write(&circle, &format!("#!{}\n", circle.display()), 0o755);
    refused(&run(&["--dir", &both, path(&circle)]), 126, &["is a script"]);
}

#[test]
fn a_tree_is_all_that_a_program_sees_and_it_cannot_change_it() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let tree = at.join("tree");
    for dir in ["bin", "tmp", "data"] {
        std::fs::create_dir_all(tree.join(dir)).expect("it can be made");
    }
    guests::copy_program(guests::c_with("show_args", Link::Pie), tree.join("bin/show"));
    symlink("/bin/show", tree.join("bin/link")).expect("it can be made");
    write(&tree.join("script"), "#!/bin/show\n", 0o755);
    write(&tree.join("tmp/of-the-host"), "", 0o644);
    let root = path(&tree);
    says(&run(&["--root", root, "/bin/show"]), "execfn /bin/show, script hidden\n");
    says(&run(&["--root", root, "/bin/link", "x"]), "x\nexecfn /bin/link, script hidden\n");
    let by_path = ["--root", root, "--env", "PATH=/nowhere:/bin", "show"];
    says(&run(&by_path), "execfn show, script hidden\n");
    says(&run(&["--root", root, "/script"]), "/script\nexecfn /script, script readable\n");
    // A program of the host is not in it.
    let outside = guests::c("hello");
    refused(&run(&["--root", root, path(&outside)]), 127, &["No such file"]);
    refused(&run(&["--root", root, "none"]), 127, &["No such file"]);
    refused(&run(&["--root", root, "/data"]), 126, &["Permission denied"]);

    cc("dynamic.c", &tree.join("bin/writer"), &["-static", "-Wno-error"]);
    let made = |options: &[&str], file: &str| {
        let words = [&["--root"], options, &["/bin/writer", "write", file]].concat();
        text(&run(&words).stdout)
    };
    assert_eq!(made(&[root], "/data/new"), "Read-only file system\n");
    assert_eq!(made(&[root], "/tmp/new"), "");
    assert!(!tree.join("tmp/new").exists(), "what is in /tmp is the program's own");
    let writable = format!("{root}:rw");
    assert_eq!(made(&[&writable], "/data/new"), "");
    assert!(tree.join("data/new").exists());
    let (_other, other) = folder();
    let over = format!("{}:/data:rw", other.display());
    assert_eq!(made(&[root, "--dir", &over], "/data/over"), "");
    assert!(other.join("over").exists() && !tree.join("data/over").exists());
    let tmp = format!("{}:/tmp", other.display());
    assert_eq!(made(&[root, "--dir", &tmp], "/tmp/granted"), "");
    assert!(other.join("granted").exists(), "a grant takes the place of the memory");
}

#[test]
fn with_the_hosts_root_a_programs_own_tools_run() {
    skip_without_kvm!();
    let shell = ["--root", "/", "sh", "-c", "echo $0 $((6 * 7)); test -e /etc/passwd && echo seen"];
    says(&run(&shell), "sh 42\nseen\n");
    refused(&run(&["--root", "/", "--no-libs", "sh"]), 125, &["--no-libs", "--root"]);
    refused(&run(&["--root", "/:/x", "sh"]), 125, &["too many parts", "--root DIR"]);
}

#[test]
fn a_name_without_a_slash_is_looked_up_in_path_and_nowhere_else() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    guests::copy_program(guests::c("show_args"), at.join("only-here"));
    refused(&from(&at, &["only-here"]), 127, &["./only-here"]);
    refused(&from(&at, &["nowhere"]), 127, &["no program nowhere in PATH"]);
    says(&from(&at, &["./only-here"]), "execfn ./only-here, script hidden\n");
    says(&from(&at, &["true"]), "");
}

#[test]
fn the_whole_environment_is_passed_if_asked_for() {
    skip_without_kvm!();
    let program = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let output = |options: &[&str]| {
        let mut command = Command::new(&program);
        command.env("TOKEN", "secret").args(["run", "--no-store", "--timeout", "60"]);
        let output = command.args(options).arg("env").stdin(Stdio::null()).output();
        text(&output.expect("the command starts").stdout)
    };
    assert!(!output(&[]).contains("TOKEN"));
    assert!(output(&["--env", "*"]).contains("TOKEN=secret\n"));
    assert!(output(&["--env", "*", "--env", "TOKEN=other"]).contains("TOKEN=other\n"));
}

/// `spacejmp doctor` with these words.
fn doctor(words: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let output = command.args(["doctor", "--json"]).args(words).output().expect("it starts");
    let found = serde_json::from_slice(&output.stdout);
    (output.status.code(), found.unwrap_or_else(|_| panic!("{}", text(&output.stderr))))
}

#[test]
fn doctor_names_what_a_program_needs_and_what_it_would_not_find() {
    skip_without_kvm!();
    let (_dir, dir) = folder();
    std::fs::create_dir_all(dir.join("opt")).expect("a folder");
    std::fs::create_dir_all(dir.join("bin")).expect("a folder");
    let library = dir.join("opt/libgreet.so");
    cc("greet.c", &library, &["-shared", "-fPIC", "-Wl,-soname,libgreet.so"]);
    let link = |to: &str, more: &[&str]| {
        let program = dir.join(to);
        cc("dynamic.c", &program, &[&["-Wl,--no-as-needed", path(&library)], more].concat());
        program
    };
    let opt = dir.join("opt");
    let runpath = format!("-Wl,-rpath,{}", opt.display());
    // Its RUNPATH names a directory that it may not see; granted, it is found there.
    let program = link("bin/far", &[&runpath]);
    let greet = |found: &serde_json::Value| {
        let all = found["libraries"].as_array().expect("a list").clone();
        let one = all.into_iter().find(|it| it["name"].as_str().unwrap().ends_with("libgreet.so"));
        one.unwrap_or_else(|| panic!("{found}"))
    };
    let (status, found) = doctor(&[path(&program)]);
    assert_eq!((status, &greet(&found)["visible"]), (Some(126), &false.into()), "{found}");
    assert!(found["loader"].as_str().expect("it is dynamic").contains("ld-linux"), "{found}");
    let grant = format!("{}:ro", opt.display());
    let (status, found) = doctor(&["--dir", &grant, path(&program)]);
    assert_eq!((status, &greet(&found)["visible"]), (Some(0), &true.into()), "{found}");
    // What doctor says of it is what a run does.
    assert_eq!(run(&[path(&program), "greet"]).status.code(), Some(127));
    says(&run(&["--dir", &grant, path(&program), "greet"]), "greetings\n");
    // One that is gone.
    std::fs::remove_file(&library).expect("it is there");
    let (status, found) = doctor(&["--dir", &grant, path(&program)]);
    assert_eq!((status, &greet(&found)["path"]), (Some(126), &serde_json::Value::Null), "{found}");
}

#[test]
fn doctor_finds_calls_that_are_not_served_in_dynamic_and_static_programs() {
    let (_dir, dir) = folder();
    let source = dir.join("calls.c");
    write(
        &source,
        "#include <sys/ptrace.h>\nint main(void) { return ptrace(PTRACE_TRACEME, 0, 0, 0) > 0; }\n",
        0o644,
    );
    for (name, options) in [("dynamic", &[][..]), ("static", &["-static"])] {
        let program = dir.join(name);
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.arg("-O1").arg(&source).arg("-o").arg(&program).args(options);
        assert!(cc.status().expect("there is a C compiler").success());
        let (status, found) = doctor(&[path(&program)]);
        let calls = found["calls_not_served"].as_array().expect("a list");
        assert!(status == Some(0) && calls.contains(&"ptrace".into()), "{name}: {found}");
    }
}

#[test]
fn a_program_that_the_distribution_chooses_by_a_link_is_found_by_it() {
    skip_without_kvm!();
    let awk = Path::new("/usr/bin/awk");
    if std::fs::read_link(awk).ok().is_none_or(|to| !to.starts_with("/etc/alternatives")) {
        let test = "a_program_that_the_distribution_chooses_by_a_link_is_found_by_it";
        tests::kvm::other_kind_of_host(test, "/usr/bin/awk is not a link to /etc/alternatives");
        return;
    }
    says(&run(&["awk", "BEGIN { print 6 * 7 }"]), "42\n");
    says(&run(&["--root", "/", "awk", "BEGIN { print 6 * 7 }"]), "42\n");
    let (_dir, at) = folder();
    let script = at.join("script");
    write(&script, "#!/usr/bin/awk -f\nBEGIN { print 6 * 7 }\n", 0o755);
    says(&run(&["--dir", "/usr/bin:ro", path(&script)]), "42\n");
    says(&run(&["--root", "/", "--dir", path(&at), path(&script)]), "42\n");
}
