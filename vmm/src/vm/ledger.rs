//! A run's use of host memory, by kind, accounted against one limit (`--memory`).
//!
//! Code that allocates memory on the program's behalf charges it here first, and releases the
//! charge when the host has the memory back. A charge that would exceed the limit is refused and
//! changes nothing. What the VM itself needs before the program starts is constant, and not
//! counted.
//!
//! All decisions are based on counters kept here, never on page tables, which lie in guest memory.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::process_tree::Member;
use crate::process_tree::images::ImagePlace;

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Pages of the program's own address space: accessed, made present, or written by a call, and
    /// not released since, whatever access the program has to them now.
    Private,
    /// Page tables.
    Tables,
    /// The VMM's records of the program's areas and slots.
    Records,
    /// Files in memory: `memfd_create` and `/dev/shm`.
    Files,
    /// Volatile segments.
    Volatile,
    /// Pages of versioned segments that a visit has changed, and copies kept for the next one; not those
    /// that were written out. Copies of pages that lie in several files.
    Versioned,
}

impl MemoryKind {
    /// Every kind, in the order of the report.
    pub const ALL: [MemoryKind; 6] = [
        MemoryKind::Private,
        MemoryKind::Tables,
        MemoryKind::Records,
        MemoryKind::Files,
        MemoryKind::Volatile,
        MemoryKind::Versioned,
    ];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MemoryKind::Private => "private",
            MemoryKind::Tables => "tables",
            MemoryKind::Records => "records",
            MemoryKind::Files => "files",
            MemoryKind::Volatile => "volatile",
            MemoryKind::Versioned => "versioned",
        }
    }
}

/// A charge was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of {} memory are over the limit of {limit_bytes} bytes", kind.name())]
pub struct OverLimit {
    /// What it was for.
    pub kind: MemoryKind,
    /// How much was requested.
    pub bytes: u64,
    /// The limit.
    pub limit_bytes: u64,
}

#[derive(Debug, Default)]
struct Account {
    now: AtomicU64,
    peak: AtomicU64,
}

/// Memory held of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct HeldReport {
    /// [`MemoryKind::name`].
    pub kind: &'static str,
    /// Bytes held now.
    pub bytes: u64,
    /// The maximum held at the same time.
    pub peak_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct MemoryLedger {
    limit: AtomicU64,
    total: Account,
    kinds: [Account; MemoryKind::ALL.len()],
    /// This process's place in a run of several, whose limit they share.
    member: OnceLock<Member>,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        MemoryLedger {
            limit: AtomicU64::new(u64::MAX),
            total: Account::default(),
            kinds: Default::default(),
            member: OnceLock::new(),
        }
    }
}

impl MemoryLedger {
    /// From now on up to `limit_bytes` may be held. What the VM has allocated for itself so far is
    /// forgotten: it is the same for every program.
    pub fn begin(&self, limit_bytes: u64) {
        for account in self.kinds.iter().chain([&self.total]) {
            account.now.store(0, Relaxed);
            account.peak.store(0, Relaxed);
        }
        self.limit.store(limit_bytes, Relaxed);
    }

    /// From now on what is held counts together with what the other processes of the run hold. To be
    /// called right after [`MemoryLedger::begin`].
    pub fn share(&self, member: Member) {
        let _ = self.member.set(member);
    }

    /// Charges `bytes` to `kind`.
    ///
    /// # Errors
    /// [`OverLimit`]: nothing is charged.
    pub fn charge(&self, kind: MemoryKind, bytes: u64) -> Result<(), OverLimit> {
        let limit_bytes = self.limit.load(Relaxed);
        let fits = |now: u64| now.checked_add(bytes).filter(|&sum| sum <= limit_bytes);
        let Ok(before) = self.total.now.fetch_update(Relaxed, Relaxed, fits) else {
            return Err(OverLimit { kind, bytes, limit_bytes });
        };
        if self.member.get().is_some_and(|member| !member.charge(bytes, limit_bytes)) {
            self.total.subtract(bytes);
            return Err(OverLimit { kind, bytes, limit_bytes });
        }
        self.total.peak.fetch_max(before + bytes, Relaxed);
        self.kinds[kind as usize].add(bytes);
        Ok(())
    }

    /// Whether a charge of `bytes` would be accepted now. This reserves nothing.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub fn check(&self, kind: MemoryKind, bytes: u64) -> Result<(), OverLimit> {
        let (own, limit_bytes) = (self.total.now.load(Relaxed), self.limit.load(Relaxed));
        let now = self.member.get().map_or(own, |member| member.registry().total_bytes());
        match now.checked_add(bytes) {
            Some(sum) if sum <= limit_bytes => Ok(()),
            _ => Err(OverLimit { kind, bytes, limit_bytes }),
        }
    }

    /// Records `bytes` that are already allocated, even over the limit: small allocations that
    /// accompany a charged one, and what the host turned out to hold.
    pub fn note(&self, kind: MemoryKind, bytes: u64) {
        if let Some(member) = self.member.get() {
            member.note(bytes);
        }
        self.total.add(bytes);
        self.kinds[kind as usize].add(bytes);
    }

    /// A place for a new image in the run's table; `None` where it is charged to this process alone.
    #[must_use]
    pub fn new_image(&self) -> Option<ImagePlace> {
        self.member.get()?.new_image()
    }

    /// Whether this process has an image of another one's.
    #[must_use]
    pub fn has_image(&self, image: ImagePlace) -> bool {
        self.member.get().is_some_and(|member| member.has_image(image))
    }

    /// Charges `bytes` of an image of this process's.
    ///
    /// # Errors
    /// [`OverLimit`]: nothing is charged.
    pub fn charge_image(&self, image: Option<ImagePlace>, bytes: u64) -> Result<(), OverLimit> {
        let kind = MemoryKind::Private;
        let (Some(image), Some(member)) = (image, self.member.get()) else {
            return self.charge(kind, bytes);
        };
        let limit_bytes = self.limit.load(Relaxed);
        if !member.charge_image(image, bytes, limit_bytes) {
            return Err(OverLimit { kind, bytes, limit_bytes });
        }
        self.adopt(bytes);
        Ok(())
    }

    /// Records `bytes` of an image that another process of the run has charged, to the run or to this one's
    /// place in it.
    pub fn adopt(&self, bytes: u64) {
        self.total.add(bytes);
        self.kinds[MemoryKind::Private as usize].add(bytes);
    }

    /// This process has the image no longer.
    pub fn release_image(&self, image: Option<ImagePlace>, bytes: u64) {
        let (Some(image), Some(member)) = (image, self.member.get()) else {
            return self.release(MemoryKind::Private, bytes);
        };
        member.release_image(image);
        self.total.subtract(bytes);
        self.kinds[MemoryKind::Private as usize].subtract(bytes);
    }

    /// Releases `bytes` of `kind`, which the host has back.
    pub fn release(&self, kind: MemoryKind, bytes: u64) {
        if let Some(member) = self.member.get() {
            member.release(bytes);
        }
        self.total.subtract(bytes);
        self.kinds[kind as usize].subtract(bytes);
    }

    /// Bytes held of `kind`.
    #[must_use]
    pub fn held(&self, kind: MemoryKind) -> u64 {
        self.kinds[kind as usize].now.load(Relaxed)
    }

    /// Total bytes held.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.now.load(Relaxed)
    }

    /// The limit.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Memory held, by kind.
    #[must_use]
    pub fn report(&self) -> Vec<HeldReport> {
        let report = |kind: MemoryKind| {
            let account = &self.kinds[kind as usize];
            let (bytes, peak_bytes) = (account.now.load(Relaxed), account.peak.load(Relaxed));
            HeldReport { kind: kind.name(), bytes, peak_bytes }
        };
        MemoryKind::ALL.map(report).to_vec()
    }
}

impl crate::files::MemoryAccount for MemoryLedger {
    fn charge(&self, bytes: u64) -> Result<(), crate::files::OverLimit> {
        self.charge(MemoryKind::Files, bytes).map_err(|_| crate::files::OverLimit)
    }

    fn note(&self, bytes: u64) {
        self.note(MemoryKind::Files, bytes);
    }

    fn release(&self, bytes: u64) {
        self.release(MemoryKind::Files, bytes);
    }

    fn used_bytes(&self) -> u64 {
        self.total()
    }

    fn limit_bytes(&self) -> u64 {
        self.limit_bytes()
    }
}

impl Account {
    fn add(&self, bytes: u64) {
        let before = self.now.fetch_add(bytes, Relaxed);
        self.peak.fetch_max(before.saturating_add(bytes), Relaxed);
    }

    /// Saturates at zero: what was charged before [`MemoryLedger::begin`] may be released after it.
    fn subtract(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.now.fetch_update(Relaxed, Relaxed, less);
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryKind, MemoryLedger};

    #[test]
    fn kinds_share_one_limit_and_a_refused_charge_takes_nothing() {
        let ledger = MemoryLedger::default();
        ledger.begin(100);
        ledger.charge(MemoryKind::Private, 60).unwrap();
        ledger.charge(MemoryKind::Files, 40).unwrap();
        let refused = ledger.charge(MemoryKind::Tables, 1).unwrap_err();
        assert_eq!(
            (refused.kind, refused.bytes, refused.limit_bytes),
            (MemoryKind::Tables, 1, 100)
        );
        assert!(ledger.charge(MemoryKind::Private, u64::MAX).is_err());
        ledger.release(MemoryKind::Private, 10);
        ledger.charge(MemoryKind::Tables, 10).unwrap();
        assert_eq!(ledger.total(), 100);
        assert_eq!(MemoryKind::ALL.map(|kind| ledger.held(kind)), [50, 10, 0, 40, 0, 0]);
        let private = ledger.report()[0];
        assert_eq!((private.kind, private.bytes, private.peak_bytes), ("private", 50, 60));
    }

    #[test]
    fn what_is_noted_counts_against_later_charges() {
        let ledger = MemoryLedger::default();
        ledger.begin(10);
        ledger.note(MemoryKind::Records, 11);
        assert!(ledger.check(MemoryKind::Private, 0).is_err());
        assert!(ledger.charge(MemoryKind::Private, 0).is_err());
        ledger.release(MemoryKind::Records, 5);
        assert!(ledger.check(MemoryKind::Private, 4).is_ok());
        assert!(ledger.check(MemoryKind::Private, 5).is_err());
    }

    #[test]
    fn threads_that_charge_at_once_never_pass_the_limit() {
        let ledger = MemoryLedger::default();
        ledger.begin(1000);
        let taken: u64 = std::thread::scope(|scope| {
            let taker =
                || (0..1000).filter(|_| ledger.charge(MemoryKind::Files, 1).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(taker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap() as u64).sum()
        });
        assert_eq!((taken, ledger.total()), (1000, 1000));
    }
}
