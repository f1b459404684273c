//! A model, and VMs that must behave like it.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};

use abi::{SegId, VasId};

use super::call::{Call, Step};
use super::draw::{self, Raw};
use super::state::Model;
use crate::world::{Talker, World};

/// Where model and system disagree.
#[derive(Debug)]
pub(super) struct Disagreement {
    /// After so many steps.
    pub(super) after: usize,
    said: String,
    why: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.said, self.why)
    }
}

/// What sequences came to, while the model agreed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) sequences: u64,
    pub(super) steps: u64,
    /// Digests of the model's states.
    states: HashSet<u64>,
}

impl Seen {
    /// How many states the model was in, without those it was in before.
    pub(super) fn states(&self) -> usize {
        self.states.len()
    }

    fn note(&mut self, model: &Model) {
        self.steps += 1;
        let mut digest = DefaultHasher::new();
        format!("{model:?}").hash(&mut digest);
        self.states.insert(digest.finish());
    }
}

/// One store, some VMs, and the model's state of them.
pub(super) struct Lockstep {
    world: World,
    vms: Vec<Talker>,
    threads: usize,
    model: Model,
    killed: bool,
    said: String,
}

impl Lockstep {
    pub(super) fn start(vms: usize, threads: usize) -> Lockstep {
        let world = World::new();
        let model = Model::new(vms, threads);
        let vms = (0..vms).map(|_| boot(&world, threads)).collect();
        Lockstep { world, vms, threads, model, killed: false, said: String::new() }
    }

    /// Executes the steps that the numbers encode; then every VM reads everything, and
    /// ends.
    pub(super) fn run(mut self, raw: &[Raw], seen: &mut Seen) -> Result<(), Disagreement> {
        for (n, raw) in raw.iter().enumerate() {
            let step = draw::step(&self.model, raw);
            self.step(&step).map_err(|why| self.disagreement(n + 1, why))?;
            seen.note(&self.model);
        }
        seen.sequences += 1;
        self.finish().map_err(|why| self.disagreement(raw.len(), format!("at the end: {why}")))
    }

    fn disagreement(&self, after: usize, why: String) -> Disagreement {
        Disagreement { after, said: self.said.clone(), why }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Call { vm, thread, ref call } => self.call(vm, thread, call),
            Step::Kill { vm } => {
                let _ = writeln!(self.said, "{step}");
                self.vms[vm].kill();
                self.model.kill(vm);
                self.killed = true;
                self.vms[vm] = boot(&self.world, self.threads);
                Ok(())
            }
            Step::Exit { vm } => {
                let _ = writeln!(self.said, "{step}");
                self.end(vm)?;
                self.vms[vm] = boot(&self.world, self.threads);
                Ok(())
            }
        }
    }

    fn end(&mut self, vm: usize) -> Result<(), String> {
        self.vms[vm].end()?;
        self.model.exit(vm);
        Ok(())
    }

    fn call(&mut self, vm: usize, thread: usize, call: &Call) -> Result<(), String> {
        let reply = self.vms[vm].ask(&format!("{thread} {call}"))?;
        let _ = writeln!(self.said, "VM {vm} thread {thread}: {call} {reply}");
        let wanted = match self.model.answer(vm, thread, call, &reply) {
            Ok(text) => format!("= {text}").trim_end().to_owned(),
            Err(error) => format!("! {error:?}"),
        };
        if reply != wanted {
            let log = self.vms[vm].log();
            return Err(format!("the model says {wanted}\n{:?}\nVM {vm} says {log}", self.model));
        }
        // A base chosen by the system.
        if let (Call::SegAlloc { params, .. }, Some(sid)) = (call, reply.strip_prefix("= "))
            && params.base == 0
        {
            let sid = sid.parse().map_err(|_| format!("{sid:?} is no id"))?;
            let stat = self.vms[vm].ask(&format!("{thread} {}", Call::SegStat { sid }))?;
            let base = stat.split(',').nth(2).and_then(|base| base.parse().ok());
            self.model.learn_base(sid, base.ok_or(stat)?)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        for vm in 0..self.vms.len() {
            self.call(vm, 0, &Call::VasList)?;
            self.call(vm, 0, &Call::SegList)?;
        }
        for vm in 0..self.vms.len() {
            self.end(vm)?;
        }
        // What is on disk, read independently.
        let store = self.world.store();
        let report = vmm::store::check_store(&self.world.path()).map_err(|e| e.to_string())?;
        let dangling = |field: &str| field == "segment";
        let bad = report.findings.iter().find(|finding| {
            finding.severity == vmm::store::Severity::Error && !dangling(&finding.field)
        });
        if let Some(bad) = bad {
            return Err(bad.to_string());
        }
        if self.killed {
            store.gc().map_err(|e| e.to_string())?;
        }
        // Volatile ones that no program has attached yet would stay in shared memory.
        let (vids, sids) = (self.model.vases.keys(), self.model.segments.keys());
        for vid in vids.filter_map(|&vid| VasId::new(vid)) {
            store.delete_vas(vid).map_err(|e| e.to_string())?;
        }
        for sid in sids.filter_map(|&sid| SegId::new(sid)) {
            store.delete_segment(sid).map_err(|e| e.to_string())?;
        }
        let left = (store.list_vases(), store.list_segments());
        assert!(matches!(&left, (Ok(v), Ok(s)) if v.is_empty() && s.is_empty()), "{left:?}");
        self.world.left_clean();
        Ok(())
    }
}

fn boot(world: &World, threads: usize) -> Talker {
    Talker::start(world.command("vas_model", &[&threads.to_string()]), "vas_model")
}
