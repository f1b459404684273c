//! x
use std::os::fd::AsFd;
use vmm::process::*;
fn main() {
    let mut args = std::env::args_os().skip(1);
    let program = args.next().unwrap().into();
    let args = args.map(|a| a.into_encoded_bytes()).collect();
    let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let stdio = [
        dup(std::io::stdin().as_fd()),
        dup(std::io::stdout().as_fd()),
        dup(std::io::stderr().as_fd()),
    ];
    let t = std::time::Instant::now();
    let p = Process::start(RunConfig { program, args, env: vec![], memory_bytes: 4 << 30, stdio });
    let p = match p {
        Ok(p) => p,
        Err(e) => {
            eprintln!("{}", vmm::error::chain(&e));
            std::process::exit(125)
        }
    };
    eprintln!("started {:?}", t.elapsed());
    let o = p.wait();
    eprintln!(
        "{o:?} {:?} guest {:?} threads {:?} tables {}",
        t.elapsed(),
        p.guest_ns,
        p.threads.counts(),
        p.machine.table_frames()
    );
    if let Outcome::Killed { report, .. } = o {
        eprintln!("{report}");
    }
}
