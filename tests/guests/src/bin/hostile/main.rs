//! Hostile programs, one per subcommand. Natively each ends as its line below says; in
//! a VM it must end the program, never the VMM.
//!
//! `jump-nowhere`, `null-write`, `exec-data`, `privileged hlt|cli|cr3|lgdt|wrmsr`, `out`:
//! SIGSEGV. `ud2`: SIGILL. `divide`: SIGFPE. `int80`: prints what it returned, exits 0.
//! `wild-syscalls [SEED] [all]`: prints "survived", exits 0; `all` includes calls that would
//! harm a host: only in a VM. `oom [LIMIT_MIB]`: prints how it ended, exits 0.
//! `sigreturn ...`: see `edges.rs`.

mod edges;
mod faults;
mod wild;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    println!("hostile: {}", args.join(" "));
    match args[..] {
        ["jump-nowhere"] => faults::jump_nowhere(),
        ["null-write"] => faults::null_write(),
        ["exec-data"] => faults::exec_data(),
        ["privileged", what] => faults::privileged(what),
        ["out"] => faults::out(),
        ["ud2"] => faults::ud2(),
        ["divide"] => faults::divide(),
        ["int80"] => faults::int80(),
        ["wild-syscalls"] => wild::run(1, false),
        ["wild-syscalls", seed] => wild::run(seed.parse().expect("a seed"), false),
        ["wild-syscalls", seed, "all"] => wild::run(seed.parse().expect("a seed"), true),
        ["oom"] => edges::oom(None),
        ["oom", limit] => edges::oom(Some(limit.parse().expect("MiB"))),
        ["syscall-registers"] => edges::syscall_registers(),
        ["sigreturn", what] => edges::sigreturn(what),
        _ => {
            eprintln!("hostile: no such subcommand");
            std::process::exit(2);
        }
    }
    println!("hostile: still here");
}
