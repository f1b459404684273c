//! The address spaces of a process that goes on from a snapshot are attached again: under the handles that it has for
//! them, within what is granted to this run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Remedy;
use crate::linux::survivor::Survivor;
use crate::linux::task::Process;
use crate::store::{Name, Object, StoreError};
use crate::vas::VasError;
use crate::vas::attach::kept::{KeptVas, KeptVases, KeptVersion, KeptVisit};

/// Why they cannot be.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// This run has another store.
    #[error("its address spaces are in another store than this run's")]
    OtherStore,
    /// The store cannot be used.
    #[error("the store with its address spaces cannot be used")]
    Store(#[source] Box<VasError>),
    /// One was deleted.
    #[error("VAS '{name}', which the program had attached, was deleted{}", after(*is_replaced))]
    Gone {
        /// Its name then.
        name: Name,
        /// Another one has that name now.
        is_replaced: bool,
    },
    /// The version that a thread saw cannot be.
    #[error("cannot attach '{name}', the version that a thread of the program saw")]
    Version {
        /// Its name.
        name: Name,
        /// Why.
        #[source]
        source: Box<VasError>,
    },
    /// One cannot be attached.
    #[error("cannot attach VAS '{name}' again, which the program had attached")]
    Attach {
        /// Its name then.
        name: Name,
        /// Why.
        #[source]
        source: Box<VasError>,
    },
}

fn after(is_replaced: bool) -> &'static str {
    if is_replaced { ", and the one of that name is another one" } else { "" }
}

impl Remedy for AttachError {
    fn remedy(&self) -> Option<String> {
        match self {
            AttachError::OtherStore => {
                Some("make the snapshot again, in the store that its program uses".into())
            }
            AttachError::Store(source) => source.remedy(),
            AttachError::Version { name, source } => match **source {
                // The version's name begins with that of its VAS.
                VasError::NotGranted { .. } => {
                    let of = name.as_str().split("@@").next().unwrap_or_default().to_owned();
                    Some(format!("grant it as it was granted then: --vas {of}"))
                }
                VasError::Store(StoreError::NotFound(_)) => {
                    Some("make it again, from a run as it is now".into())
                }
                _ => source.remedy(),
            },
            AttachError::Gone { .. } => Some("make it again, from a run as it is now".into()),
            AttachError::Attach { name, source } => match **source {
                VasError::NotGranted { .. } => {
                    Some(format!("grant it as it was granted then: --vas {name}"))
                }
                _ => source.remedy(),
            },
        }
    }
}

/// Attaches them, and has those threads begin inside that were there. No thread of the process has run yet; `first` is the
/// number that the first one had.
///
/// # Errors
/// [`AttachError`].
pub(super) fn attach(process: &Process, kept: &KeptVases, first: u32) -> Result<(), AttachError> {
    let of_store = |source| AttachError::Store(Box::new(source));
    let store = process.vases.granted().map_err(of_store)?.store;
    if store.id() != kept.store {
        return Err(AttachError::OtherStore);
    }
    for KeptVas { name, again } in &kept.attached {
        let failed = |source| AttachError::Attach { name: name.clone(), source: Box::new(source) };
        match store.vas(again.vid()) {
            Err(StoreError::NotFound(Object::Vas(_))) => {
                let is_replaced = store.find_vas(name).is_ok();
                return Err(AttachError::Gone { name: name.clone(), is_replaced });
            }
            found => drop(found.map_err(|error| failed(error.into()))?),
        }
        process.vases.attach_again(again).map_err(failed)?;
    }
    let mut stand_ins = BTreeMap::new();
    for KeptVisit { tid, handle, version } in &kept.visits {
        let named = kept.attached.iter().find(|it| it.again.handle() == *handle);
        let name = version.as_ref().map(|it| &it.name).or(named.map(|it| &it.name));
        let failed = |source| match name {
            Some(name) => AttachError::Version { name: name.clone(), source: Box::new(source) },
            None => AttachError::Store(Box::new(source)),
        };
        let inside = match version {
            None => *handle,
            Some(KeptVersion { vid, .. }) => match stand_ins.get(&(*vid, *handle)) {
                Some(inside) => *inside,
                None => {
                    let made = process.vases.attach_stand_in(*vid, *handle).map_err(failed)?;
                    stand_ins.insert((*vid, *handle), made);
                    made
                }
            },
        };
        let other = (*tid != first).then_some(tid.cast_signed());
        let begun = process.life.with_vcpu(other, |vcpu| process.vases.begin_inside(vcpu, inside));
        begun.unwrap_or(Err(VasError::NotWriting)).map_err(failed)?;
    }
    Ok(())
}

/// What a process needs once it has address spaces attached.
pub(super) fn look_after(process: &Arc<Process>) {
    if process.vases.takes_up_sharing() {
        Survivor::make_here(process);
    }
    if process.vases.is_to_let_go() {
        process.call_every_second(|process| process.vases.let_go());
    }
}
