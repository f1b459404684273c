//! Instances of a process that forks, attached again in its child: under the same handles, outside of all
//! of them.
#![forbid(unsafe_code)]

use abi::objects::{MAX_INSTANCES, attach};
use abi::{Right, SegId, VasId};

use super::AttachFlags;
use crate::process_tree::wire::{Reader, Writer};
use crate::vas::VasError;
use crate::vas::state::Vases;

/// What an instance was attached as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForChild {
    vh: u32,
    vid: VasId,
    flags: AttachFlags,
    /// Segments that were attached to the instance alone.
    local: Vec<(SegId, Right)>,
}

const ATTACHED_BYTES: usize = 4 * 8;
const LOCAL_BYTES: usize = 2 * 8;

impl ForChild {
    /// One with this handle.
    #[cfg(test)]
    pub(crate) fn new(
        vh: u32,
        vid: VasId,
        flags: AttachFlags,
        local: Vec<(SegId, Right)>,
    ) -> ForChild {
        ForChild { vh, vid, flags, local }
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.vh
    }

    /// Which VAS it is of.
    #[must_use]
    pub fn vid(&self) -> VasId {
        self.vid
    }

    /// Writes them for another VMM.
    pub fn encode(all: &[ForChild], out: &mut Writer) {
        out.words(&[all.len() as u64]);
        for ForChild { vh, vid, flags, local } in all {
            out.words(&[u64::from(*vh), vid.raw(), flags.0, local.len() as u64]);
            for (sid, right) in local {
                out.words(&[sid.raw(), u64::from(*right == Right::Write)]);
            }
        }
    }

    /// What [`ForChild::encode`] has written; `None` for what no VMM sends.
    pub fn decode(input: &mut Reader<'_>) -> Option<Vec<ForChild>> {
        let count = input.count(ATTACHED_BYTES)?;
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let [vh, vid, flags] = input.words()?;
            let vh = u32::try_from(vh).ok().filter(|vh| (1..MAX_INSTANCES).contains(vh))?;
            let (vid, flags) = (VasId::new(vid)?, AttachFlags::new(flags)?);
            let count = input.count(LOCAL_BYTES)?;
            let mut local = Vec::with_capacity(count);
            for _ in 0..count {
                let [sid, writes] = input.words()?;
                let right = match writes {
                    0 => Right::Read,
                    1 => Right::Write,
                    _ => return None,
                };
                local.push((SegId::new(sid)?, right));
            }
            all.push(ForChild { vh, vid, flags, local });
        }
        Some(all)
    }
}

impl Vases {
    /// The instances that a child attaches again, by handle.
    #[must_use]
    pub fn instances_for_child(&self) -> Vec<ForChild> {
        if !self.is_active() {
            return Vec::new();
        }
        let state = self.lock();
        let attached = |(vh, instance): (u32, &crate::vas::state::instances::Instance)| {
            let traits = instance.traits;
            let flags = [
                (traits.read_only, attach::READ_ONLY),
                (traits.owned, attach::OWNED),
                (traits.pinned, attach::PINNED),
                (!instance.tagged, attach::NO_TAG),
            ];
            let flags = flags.iter().filter(|(has, _)| *has).fold(0, |all, (_, flag)| all | flag);
            let local = instance.members.iter().filter(|(_, member)| member.local);
            let local = local.map(|(sid, member)| (sid, member.right)).collect();
            ForChild { vh, vid: instance.vid, flags: AttachFlags(flags), local }
        };
        let of_program = state.instances.iter().filter(|(_, it)| it.stands_for.is_none());
        of_program.map(attached).collect()
    }

    /// Attaches an instance of the parent's under the handle that it has there.
    ///
    /// # Errors
    /// As [`Vases::attach`]: then the child does not have it.
    pub fn attach_again(&self, of: &ForChild) -> Result<(), VasError> {
        self.attach_as(of.vid, of.flags, Some(of.vh))?;
        for (sid, right) in &of.local {
            self.attach_local(u64::from(of.vh), *sid, *right)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use abi::{Right, SegId, VasId};
    use proptest::prelude::*;

    use super::{AttachFlags, ForChild};
    use crate::process_tree::wire::{Reader, Writer};

    #[test]
    fn what_is_written_is_read() {
        let local = vec![(SegId::new(7).unwrap(), Right::Write)];
        let flags = AttachFlags::new(1).unwrap();
        let all = [3, 9].map(|vh| ForChild {
            vh,
            vid: VasId::new(5).unwrap(),
            flags,
            local: local.clone(),
        });
        let mut out = Writer::default();
        ForChild::encode(&all, &mut out);
        assert_eq!(ForChild::decode(&mut Reader(&out.finish())).unwrap(), all);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(words in prop::collection::vec(0..5_u64, 0..40)) {
            let mut out = Writer::default();
            out.words(&words);
            let _ = ForChild::decode(&mut Reader(&out.finish()));
        }
    }
}
