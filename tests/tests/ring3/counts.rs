//! The exact number of exits of each path, against `resources/counts.toml`; and that under
//! EPT a load of CR3 causes none.
//!
//! A path is executed N and 2N times on fresh vCPUs and the difference divided by N, so that
//! one-time costs cancel. Kicks are not counted: they belong to no path.

use abi::PAGE_SIZE_2M;
use abi::call::{CALL_HYPER_NULL, CALL_NULL};
use tests::counts::{Table, compare};
use tests::kvm::other_kind_of_host;
use tests::skip_without_kvm;
use vmm::access::{FaultCause, FaultOutcome};
use vmm::vm::{Exit, PcidPolicy};

use crate::bench::{Bench, CODE, NOWHERE, SYSCALL, call_page, mov_eax};
use crate::switch::{END, Switcher, switch_to};
use crate::switch_locks::Locked;

/// Rounds of a path.
const ROUNDS: u32 = 16;
/// What the path of the page fault goes through.
const TOUCHED_BYTES: u64 = 2 * ROUNDS as u64 * PAGE_SIZE_2M;
/// KVM also counts unrelated events on the host, which only add: the minimum of several attempts
/// is the path's own. At least and at most this many attempts.
const TRIES: std::ops::RangeInclusive<u32> = 2..=20;

/// `mov r15d, rounds; 1: body; dec r15d; jnz 1b; ud2`.
fn repeat(rounds: u32, body: &[u8]) -> Vec<u8> {
    let mut code = vec![0x41, 0xbf];
    code.extend_from_slice(&rounds.to_le_bytes());
    code.extend_from_slice(body);
    code.extend_from_slice(&[0x41, 0xff, 0xcf, 0x0f, 0x85]);
    let back = -(body.len() as i32 + 9);
    code.extend_from_slice(&back.to_le_bytes());
    code.extend_from_slice(&END);
    code
}

/// Exits to the VMM, and all exits KVM counts but those for the host's interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Exits {
    to_vmm: u64,
    all: Option<u64>,
}

fn all_exits(bench: &Bench) -> Option<u64> {
    let stats = bench.vcpu.kvm_stats().ok()?;
    let numbers = stats.read().expect("KVM's statistics can be read");
    Some(numbers.get("exits")?.saturating_sub(*numbers.get("irq_exits")?))
}

/// Runs `body` for `rounds` rounds; faults are resolved, calls answered with 0.
///
/// Unless it `builds` memory, it is run once before: how often the first run exits, for memory
/// the host has yet to allocate, depends on whether the host has huge pages left.
fn exits(mut bench: Bench, rounds: u32, body: &[u8], builds: bool) -> Exits {
    if !builds {
        run_to_end(&mut bench, 2, body);
    }
    let before = all_exits(&bench);
    let to_vmm = run_to_end(&mut bench, rounds, body);
    let all = all_exits(&bench).zip(before).map(|(after, before)| after.saturating_sub(before));
    Exits { to_vmm, all }
}

/// Runs it; exits to the VMM.
fn run_to_end(bench: &mut Bench, rounds: u32, body: &[u8]) -> u64 {
    let code = repeat(rounds, body);
    let end = CODE + code.len() as u64 - 2;
    bench.load(&code);
    bench.vcpu.regs.rbx = NOWHERE + TOUCHED_BYTES - PAGE_SIZE_2M;
    bench.vcpu.regs.rax = 0;
    let mut to_vmm = 0;
    loop {
        match bench.vcpu.run().expect("KVM runs the vCPU") {
            Exit::Kicked | Exit::KickedInKernel => continue,
            Exit::Syscall(_) | Exit::Call(_) => bench.vcpu.regs.rax = 0,
            Exit::Exception { vector: 6, frame, .. } if frame.rip == end => break,
            Exit::Exception { vector: 14, frame, address }
                if bench.private.fault(address, FaultCause::of(frame.error))
                    == FaultOutcome::Resolved => {}
            other => panic!("{other:x?}"),
        }
        to_vmm += 1;
    }
    to_vmm
}

/// Exits of one round. KVM's own are exact only where it has no tables to build: with
/// EPT, and for paths that touch no new memory.
fn each(path: &str, bench: &dyn Fn() -> Bench, body: &[u8], builds: bool) -> Exits {
    let count = |rounds, so_far: Option<Exits>| {
        let now = exits(bench(), rounds, body, builds);
        let before = so_far.unwrap_or(now);
        assert_eq!(now.to_vmm, before.to_vmm, "{path}: {rounds} rounds, another try");
        Exits { to_vmm: now.to_vmm, all: now.all.min(before.all) }
    };
    let rounds = u64::from(ROUNDS);
    let is_exact = |once: Exits, twice: Exits| match (once.all, twice.all) {
        (Some(once), Some(twice)) => twice.checked_sub(once).is_some_and(|n| n % rounds == 0),
        _ => true,
    };
    let (mut once, mut twice) = (count(ROUNDS, None), count(2 * ROUNDS, None));
    for tried in 1..*TRIES.end() {
        if tried >= *TRIES.start() && (builds || !has_ept() || is_exact(once, twice)) {
            break;
        }
        (once, twice) = (count(ROUNDS, Some(once)), count(2 * ROUNDS, Some(twice)));
    }
    let per_round = |once: u64, twice: u64| {
        let more = twice.checked_sub(once).expect("more rounds take no fewer exits");
        assert_eq!(more % rounds, 0, "{path}: {once} and {twice} exits");
        more / rounds
    };
    let all = once.all.zip(twice.all).filter(|_| has_ept() && !builds);
    let all = all.map(|(once, twice)| per_round(once, twice));
    Exits { to_vmm: per_round(once.to_vmm, twice.to_vmm), all }
}

/// Whether KVM here translates with EPT.
fn has_ept() -> bool {
    std::fs::read_to_string("/sys/module/kvm_intel/parameters/ept")
        .is_ok_and(|text| text.trim() == "Y")
}

fn switcher(policy: PcidPolicy) -> Bench {
    Switcher::on(Bench::with_tags(policy), 1).bench
}

fn locked(policy: PcidPolicy, number: u32) -> Bench {
    let needs: Vec<_> = (0..number).map(|page| (page, true)).collect();
    Locked::on(Switcher::on(Bench::with_tags(policy), 1), number, &[&needs]).s.bench
}

#[test]
fn every_path_takes_as_many_exits_as_recorded() {
    skip_without_kvm!();
    let model = Bench::new();
    let (soft, tagged) = (model.machine.is_soft_host(), model.machine.has_pcid());
    drop(model);
    let kind = if soft { "software" } else { "hardware" };
    let mut calls = Table::new(&format!("exits.{kind}.calls"));
    let mut tags = Table::new("exits.hardware.tagged");
    let mut all = Table::new("vm-exits.intel-ept");
    const FAULT: &str = "page fault, resolved";
    let mut add = |table: &mut Table, path: &str, bench: &dyn Fn() -> Bench, body: &[u8]| {
        let exits = each(path, bench, body, path == FAULT);
        table.add(path, exits.to_vmm);
        if let Some(number) = exits.all {
            all.add(path, number);
        }
    };

    let call = |number: u32| [&mov_eax(number)[..], &call_page()].concat();
    add(&mut calls, "null call", &Bench::new, &call(CALL_NULL));
    add(&mut calls, "null hypercall", &Bench::new, &call(CALL_HYPER_NULL));
    let getpid = [&mov_eax(39)[..], &SYSCALL].concat();
    add(&mut calls, "Linux call", &Bench::new, &getpid);
    // mov [rbx], al; sub rbx, 2 MiB. Downwards, since upwards the VMM would map ever more ahead.
    let touch = [0x88, 0x03, 0x48, 0x81, 0xeb, 0, 0, 0x20, 0];
    let fresh = || {
        let bench = Bench::new();
        bench.map(NOWHERE, TOUCHED_BYTES, 3);
        bench
    };
    add(&mut calls, FAULT, &fresh, &touch);
    let there_and_back = [switch_to(1), switch_to(0)].concat();
    for policy in [PcidPolicy::Without, PcidPolicy::AsOffered] {
        let (name, table) = match policy {
            PcidPolicy::Without => ("switch", &mut calls),
            _ if !tagged => continue,
            _ => ("tagged switch", &mut tags),
        };
        let path = format!("{name} there and back, no locks");
        add(table, &path, &|| switcher(policy), &there_and_back);
        for number in [1, 2, 4] {
            let path = format!("{name} there and back, {number} exclusive");
            add(table, &path, &|| locked(policy, number), &there_and_back);
        }
    }

    let here = "ring3: counts::every_path_takes_as_many_exits_as_recorded";
    let mut tables = vec![calls];
    if tagged {
        tables.push(tags);
    } else {
        other_kind_of_host(&format!("{here}, [exits.hardware.tagged]"), "no PCID is offered");
    }
    if has_ept() && tagged {
        tables.push(all);
    } else {
        let reason = "needs kvm_intel with EPT and PCID";
        other_kind_of_host(&format!("{here}, [vm-exits.intel-ept]"), reason);
    }
    compare(tables);
}

#[test]
fn under_ept_loads_of_cr3_cause_no_exits() {
    skip_without_kvm!();
    let here = "ring3: counts::under_ept_loads_of_cr3_cause_no_exits";
    if !has_ept() {
        return other_kind_of_host(here, "KVM does not translate with EPT here");
    }
    let body = [switch_to(1), switch_to(0)].concat();
    for policy in PcidPolicy::ALL {
        let least = |rounds| {
            let tries =
                (0..*TRIES.end() / 6).map(|_| exits(switcher(policy), rounds, &body, false));
            tries.map(|exits| exits.all.expect("kvm_intel counts exits")).min()
        };
        let (few, many) = (least(10).expect("tried"), least(5000).expect("tried"));
        println!("{policy:?}: {few} exits in 20 switches, {many} in 10,000");
        // Far below one in a hundred: other events during so long a run.
        assert!(many <= few + 16, "{policy:?}: {few} exits in 20 switches, {many} in 10,000");
    }
}
