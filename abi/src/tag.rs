//! When a TLB tag's translations may be kept, and why that is safe.
//!
//! With PCID, each instance has a tag, and CR3 is loaded with it. For each tag, each vCPU remembers
//! the *generation* that it last loaded with it. An instance's generation is a number that no other
//! instance has or had; the instance gets a new one with each change that removes a translation,
//! and a tag may pass from one instance to another. The whole rule is then:
//!
//! ```text
//!   load CR3:   remembered == the instance's generation?  yes: keep the tag's translations
//!                                                         no:  flush them, remember it
//! ```
//!
//! What the TLB holds for a tag was put there since the tag's last flush on that vCPU, while it ran
//! the remembered generation and no other. If that is the instance's generation, nothing has been
//! removed from the instance since. Otherwise the flush removes whatever is there.
//!
//! 1. The generation is recorded before CR3 is loaded, and if it was recorded without a flush, the
//!    code that completes the switch must flush (`guest-kernel/src/locks.rs`, `FLUSH`).
//! 2. Code that changes CR3 without applying the rule, as the VMM does, makes the vCPU forget the
//!    tag: 0 is no instance's generation.
//! 3. Root and generation must be a consistent snapshot. The VMM clears the root, writes the
//!    generation, writes the root; the kernel reads root, generation, root.
//! 4. The VMM must take a vCPU that is inside the instance while it changes out of it and back in
//!    with the new generation: this rule is applied only when CR3 is loaded.

/// Whether a load of CR3 may keep the tag's translations: `remembered` is the generation that
/// this vCPU last loaded with this tag, `generation` that of the instance.
#[inline(always)]
#[must_use]
pub const fn keeps(remembered: u64, generation: u64) -> bool {
    remembered == generation
}

#[cfg(test)]
mod tests {
    use super::keeps;
    use std::collections::HashSet;

    const VCPUS: usize = 2;
    const TAGS: usize = 2;
    const INSTANCES: usize = 3;

    /// The whole state: which version of which instance each TLB remembers.
    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    struct World {
        /// For each instance: its tag, its generation, and how often something was removed.
        instances: [(usize, u64, u8); INSTANCES],
        next: u64,
        vcpus: [Vcpu; VCPUS],
    }

    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    struct Vcpu {
        /// The instance it is in, and the version of it that it runs.
        inside: Option<(usize, u8)>,
        remembered: [u64; TAGS],
        /// What the TLB holds for each tag: instances and their versions.
        tlb: [Vec<(usize, u8)>; TAGS],
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// By the kernel.
        Load(usize, usize),
        /// By the VMM, which has KVM flush everything.
        Forced(usize, usize),
        TakeAway(usize),
        Retag(usize, usize),
    }

    fn steps() -> Vec<Step> {
        let mut all = Vec::new();
        for instance in 0..INSTANCES {
            for vcpu in 0..VCPUS {
                all.push(Step::Load(vcpu, instance));
                all.push(Step::Forced(vcpu, instance));
            }
            all.push(Step::TakeAway(instance));
            all.extend((0..TAGS).map(|tag| Step::Retag(instance, tag)));
        }
        all
    }

    /// Ways to break the rule, to check that the model notices.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Fault {
        None,
        SameGenerationAfterTakingAway,
        OneGenerationForTwo,
        ForcedRemembers,
        NotRemembered,
    }

    impl World {
        fn new() -> World {
            let vcpu =
                Vcpu { inside: None, remembered: [0; TAGS], tlb: [const { Vec::new() }; TAGS] };
            World {
                instances: [(0, 1, 0), (1, 2, 0), (0, 3, 0)],
                next: 4,
                vcpus: [const { None::<Vcpu> }; VCPUS].map(|_| vcpu.clone()),
            }
        }

        fn new_generation(&mut self, instance: usize) {
            self.instances[instance].1 = self.next;
            self.next += 1;
        }

        /// Runs on `vcpu`, which is in `instance`: the TLB fills. It may use anything that it holds
        /// for the tag.
        fn run(&mut self, vcpu: usize, instance: usize) -> Result<(), String> {
            let (tag, _, version) = self.instances[instance];
            let vcpu = &mut self.vcpus[vcpu];
            vcpu.inside = Some((instance, version));
            if !vcpu.tlb[tag].contains(&(instance, version)) {
                vcpu.tlb[tag].push((instance, version));
                vcpu.tlb[tag].sort_unstable();
            }
            if vcpu.tlb[tag].iter().any(|&held| held != (instance, version)) {
                return Err(format!("in {instance}, version {version}, with {:?}", vcpu.tlb[tag]));
            }
            Ok(())
        }

        fn take(&mut self, step: Step, fault: Fault) -> Result<(), String> {
            match step {
                Step::Load(vcpu, instance) => {
                    let (tag, generation, _) = self.instances[instance];
                    let own = &mut self.vcpus[vcpu];
                    if !keeps(own.remembered[tag], generation) {
                        if fault != Fault::NotRemembered {
                            own.remembered[tag] = generation;
                        }
                        own.tlb[tag].clear();
                    }
                    self.run(vcpu, instance)
                }
                Step::Forced(vcpu, instance) => {
                    let (tag, _, _) = self.instances[instance];
                    let own = &mut self.vcpus[vcpu];
                    own.tlb.iter_mut().for_each(Vec::clear);
                    if fault != Fault::ForcedRemembers {
                        own.remembered[tag] = 0;
                    }
                    self.run(vcpu, instance)
                }
                Step::TakeAway(instance) => {
                    self.instances[instance].2 += 1;
                    match fault {
                        Fault::SameGenerationAfterTakingAway => {}
                        Fault::OneGenerationForTwo => {
                            self.instances[instance].1 = self.instances[INSTANCES - 1].1;
                        }
                        _ => self.new_generation(instance),
                    }
                    self.bring_out(instance, fault)
                }
                Step::Retag(instance, tag) => {
                    self.instances[instance].0 = tag;
                    self.new_generation(instance);
                    self.bring_out(instance, fault)
                }
            }
        }

        /// The VMM stops vCPUs inside a changed instance and loads their CR3 again.
        fn bring_out(&mut self, instance: usize, fault: Fault) -> Result<(), String> {
            for vcpu in 0..VCPUS {
                if self.vcpus[vcpu].inside.is_some_and(|(inside, _)| inside == instance) {
                    self.take(Step::Forced(vcpu, instance), fault)?;
                }
            }
            Ok(())
        }

        /// The same world with generations numbered in order of first use, so that worlds that
        /// differ in nothing else are equal.
        fn canonical(mut self) -> World {
            let mut names = vec![0];
            let mut name = |generation: u64| {
                names.iter().position(|&known| known == generation).unwrap_or_else(|| {
                    names.push(generation);
                    names.len() - 1
                }) as u64
            };
            for instance in &mut self.instances {
                instance.1 = name(instance.1);
            }
            for vcpu in &mut self.vcpus {
                vcpu.remembered = vcpu.remembered.map(&mut name);
            }
            self.next = names.len() as u64;
            self
        }
    }

    /// Explores all worlds within `depth` steps; returns the first wrong one, if any.
    fn explore(depth: usize, fault: Fault) -> (usize, Option<String>) {
        let mut known = HashSet::from([World::new()]);
        let mut frontier: Vec<World> = known.iter().cloned().collect();
        for _ in 0..depth {
            let mut next = Vec::new();
            for world in frontier {
                for step in steps() {
                    let mut after = world.clone();
                    if let Err(wrong) = after.take(step, fault) {
                        return (known.len(), Some(format!("{step:?}: {wrong}")));
                    }
                    let after = after.canonical();
                    if known.insert(after.clone()) {
                        next.push(after);
                    }
                }
            }
            frontier = next;
        }
        (known.len(), None)
    }

    #[test]
    fn no_vcpu_ever_runs_with_a_translation_that_was_taken_away() {
        let (worlds, wrong) = explore(5, Fault::None);
        println!("{worlds} worlds");
        assert_eq!(wrong, None);
        assert!(worlds > 10_000, "{worlds} worlds are not all there are");
    }

    #[test]
    fn the_model_notices_each_way_to_get_it_wrong() {
        for (depth, fault) in [
            (5, Fault::SameGenerationAfterTakingAway),
            (5, Fault::OneGenerationForTwo),
            (5, Fault::ForcedRemembers),
        ] {
            assert!(explore(depth, fault).1.is_some(), "{fault:?}");
        }
        // This one only flushes more often than it must.
        assert_eq!(explore(4, Fault::NotRemembered).1, None);
    }
}
