//! The program's clock, kept accurate by the VMM: calibration, discipline, publication.
//!
//! Ring 3 reads the time-stamp counter and applies the linear function in the clock page
//! (`clock_page.rs`, `vdso_code.rs`). Whether the guest sees the host's counter, or one with an
//! offset, depends on the kind of KVM; so the program's first call passes a reading (R8 and R9, see
//! [`HINT_MAGIC`]), and only then is the clock switched on. Programs that never ask for the time
//! cost nothing.
//!
//! The host disciplines its clock (NTP), and ours follows: about once a second the rate is measured
//! again and adjusted so that the difference vanishes. The sequence-lock protocol, with readers in
//! other vCPUs at any point:
//!
//! ```text
//! K1  sequence number made odd          readers that start now wait
//! K2  full fence, then RDTSC = base     readers that got through before K1 read less
//! K3  function computed from that base, words stored in order
//! K4  sequence number made even         readers see the new function, counters above the base
//! ```
//!
//! The base is read inside, not before, because otherwise a VMM thread that is preempted in between
//! lets readers run ahead on the old function, and time goes backwards when the new, slower one
//! appears.

use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};

use abi::GuestPhys;

use super::clock_page::{Ahead, ClockPage, Truth, word};
use super::clock_rate::{Moment, Rate};
use crate::vm::{GuestMem, MemoryError};

/// Value of R8 in a call made by the vDSO: R9 then holds the time-stamp counter.
pub const HINT_MAGIC: i64 = 0x534a_7473_6321_0001;

const NS: u64 = super::clock_page::NS;
/// A hint up to this much older than the VMM's own reading may be from the call being served.
const HINT_AGE_MAX_NS: u64 = 200_000_000;
/// Number of unexplained hints after which the clock stays off permanently: each costs a few calls
/// to KVM.
const HINTS_MAX: u8 = 8;
/// Differences between the host's clocks change only in steps; smaller changes are measurement
/// noise.
const AHEAD_NOISE_NS: u64 = 2_000;

/// Where the page's words are stored: guest memory, or this process's own in a test.
pub trait ClockWords {
    /// Why a word cannot be stored.
    type Error;

    /// Stores word number `index` atomically, after all earlier stores (release order).
    ///
    /// # Errors
    /// When there is no such memory; the clock then keeps what it published before.
    fn store(&self, index: usize, value: u64) -> Result<(), Self::Error>;
}

/// A clock page in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct GuestWords<'a> {
    /// The VM's memory.
    pub mem: &'a GuestMem,
    /// Start of the page.
    pub page: GuestPhys,
}

impl ClockWords for GuestWords<'_> {
    type Error = MemoryError;

    fn store(&self, index: usize, value: u64) -> Result<(), MemoryError> {
        self.mem.store(self.page.offset(index as u64 * 8), value)
    }
}

/// The host's time-stamp counter.
#[must_use]
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction and user space may use it.
    unsafe { _rdtsc() }
}

/// The host's time-stamp counter, read after everything before it, stores included.
fn host_tsc_ordered() -> u64 {
    // The fence drains stores; LFENCE keeps RDTSC from running before the fence has finished
    // (SDM 2B, RDTSC).
    fence(Ordering::SeqCst);
    // SAFETY: part of SSE2, which every x86-64 processor has.
    unsafe { _mm_lfence() };
    host_tsc()
}

fn host_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure it is given.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(NS).wrapping_add(ts.tv_nsec as u64)
}

/// Reads `middle` between two readings of `outer` a few times, and returns the attempt with the
/// shortest interval: the time, by `outer`, at which `middle` was read, and its value.
fn bracket<T>(outer: impl Fn() -> u64, middle: impl Fn() -> T) -> (u64, T) {
    let once = || {
        let before = outer();
        let value = middle();
        let width = outer().wrapping_sub(before);
        (width, before.wrapping_add(width / 2), value)
    };
    let mut best = once();
    for _ in 0..4 {
        let next = once();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

/// Counter and monotonic clock at the same time.
fn moment() -> Moment {
    let (tsc, ns) = bracket(host_tsc, || host_ns(libc::CLOCK_MONOTONIC));
    Moment { tsc, ns }
}

fn ahead() -> Ahead {
    let of = |clock| {
        let (monotonic, other) = bracket(|| host_ns(libc::CLOCK_MONOTONIC), || host_ns(clock));
        other.wrapping_sub(monotonic)
    };
    Ahead {
        real_ns: of(libc::CLOCK_REALTIME),
        boot_ns: of(libc::CLOCK_BOOTTIME),
        tai_ns: of(libc::CLOCK_TAI),
        raw_ns: of(libc::CLOCK_MONOTONIC_RAW),
    }
}

impl Ahead {
    /// `new`, where it differs by more than the measurement noise; otherwise wall clocks would go
    /// back by some nanoseconds at each refresh.
    fn settle(self, new: Ahead) -> Ahead {
        let pick = |old: u64, new: u64| {
            let is_noise = (new.wrapping_sub(old) as i64).unsigned_abs() <= AHEAD_NOISE_NS;
            if is_noise { old } else { new }
        };
        Ahead {
            real_ns: pick(self.real_ns, new.real_ns),
            boot_ns: pick(self.boot_ns, new.boot_ns),
            tai_ns: pick(self.tai_ns, new.tai_ns),
            raw_ns: self.raw_ns,
        }
    }
}

/// Whether this host's counter runs at a constant rate, also in sleep states, and is synchronised
/// on all processors, as far as its kernel knows. Determined once per process.
#[must_use]
pub fn host_tsc_is_stable() -> bool {
    static STABLE: OnceLock<bool> = OnceLock::new();
    *STABLE.get_or_init(|| {
        let dir = "/sys/devices/system/clocksource/clocksource0";
        let read = |name| std::fs::read_to_string(format!("{dir}/{name}")).ok();
        let is_invariant =
            __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0;
        stable(read("current_clocksource"), read("available_clocksource"), is_invariant)
    })
}

/// If the kernel uses the counter as its clock source, it is stable. With another clock source (a
/// paravirtual clock, say) the counter is stable if the processor guarantees it and the kernel,
/// which removes an unreliable counter from its list, still lists it.
fn stable(current: Option<String>, available: Option<String>, is_invariant: bool) -> bool {
    match (current, available) {
        (Some(current), _) if current.trim() == "tsc" => true,
        (_, Some(available)) => is_invariant && available.split_whitespace().any(|s| s == "tsc"),
        (_, None) => is_invariant,
    }
}

#[derive(Debug)]
enum State {
    /// No hint so far could be explained.
    Waiting {
        hints_left: u8,
    },
    Running(Running),
}

#[derive(Debug)]
struct Running {
    /// The guest's counter minus the host's.
    counter_offset: u64,
    ahead: Ahead,
    page: ClockPage,
}

/// The VMM's side of a program's clock.
#[derive(Debug)]
pub struct GuestClock {
    rate: Rate,
    sequence: u64,
    state: State,
}

impl GuestClock {
    /// Records the current time; `khz` is the counter's rate if KVM knows it.
    #[must_use]
    pub fn new(khz: Option<u32>) -> GuestClock {
        let rate = Rate::new(moment(), khz);
        GuestClock { rate, sequence: 0, state: State::Waiting { hints_left: HINTS_MAX } }
    }

    /// Whether the page has been switched on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Switches the clock on in `page` if possible; returns whether this call did.
    ///
    /// `hint` is the counter that ring 3 read just before the call being served. `vcpu_tsc` reads
    /// the counter as KVM shows it to that vCPU; it is called only when the host's own counter does
    /// not explain the hint. If neither does, or the host's counter is unreliable, the clock stays
    /// off and programs continue to make the call.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn start<W: ClockWords>(
        &mut self,
        hint: u64,
        vcpu_tsc: impl Fn() -> Option<u64>,
        page: &W,
    ) -> Result<bool, W::Error> {
        let State::Waiting { hints_left: left @ 1.. } = &mut self.state else {
            return Ok(false);
        };
        *left -= 1;
        if !host_tsc_is_stable() {
            *left = 0;
            return Ok(false);
        }
        let now = moment();
        let Some(slope) = self.rate.initial(now) else {
            // Too early to have measured the rate: this does not count as an unexplained hint.
            *left += 1;
            return Ok(false);
        };
        let age_max = slope.ticks(HINT_AGE_MAX_NS as f64);
        let Some(counter_offset) = explain(hint, now.tsc, age_max, || {
            let (host, guest) = bracket(host_tsc, vcpu_tsc);
            Some(guest?.wrapping_sub(host))
        }) else {
            return Ok(false);
        };
        let ahead = ahead();
        let page = publish(&mut self.sequence, page, |tsc| {
            let truth = Truth { monotonic_ns: now.later(tsc, slope), ahead };
            ClockPage::start(tsc.wrapping_add(counter_offset), &truth, slope)
        })?;
        self.state = State::Running(Running { counter_offset, ahead, page });
        Ok(true)
    }

    /// Adjusts the clock towards the host's; call this about once a second. Does nothing while the
    /// clock is off.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn refresh<W: ClockWords>(&mut self, page: &W) -> Result<(), W::Error> {
        let State::Running(running) = &mut self.state else { return Ok(()) };
        let now = moment();
        let Some(slope) = self.rate.update(now) else { return Ok(()) };
        running.ahead = running.ahead.settle(ahead());
        running.page = publish(&mut self.sequence, page, |tsc| {
            let truth = Truth { monotonic_ns: now.later(tsc, slope), ahead: running.ahead };
            running.page.next(tsc.wrapping_add(running.counter_offset), &truth, slope)
        })?;
        Ok(())
    }
}

/// The guest's counter minus the host's, if a call whose counter was `hint` can have been made
/// within `age_max` ticks before `host`; `kvm_offset` is the offset according to KVM.
fn explain(
    hint: u64,
    host: u64,
    age_max: u64,
    kvm_offset: impl FnOnce() -> Option<u64>,
) -> Option<u64> {
    let fits = |offset: &u64| host.wrapping_add(*offset).wrapping_sub(hint) < age_max;
    Some(0).filter(fits).or_else(|| kvm_offset().filter(fits))
}

/// Writes the page that `compute` returns for the counter, under the sequence lock (K1 to K4
/// above), and returns it.
fn publish<W: ClockWords>(
    sequence: &mut u64,
    words: &W,
    compute: impl FnOnce(u64) -> ClockPage,
) -> Result<ClockPage, W::Error> {
    // K1. Only our own sequence number counts, not the page's: it is the program's memory.
    words.store(word::SEQUENCE, *sequence | 1)?;
    // K2
    let page = compute(host_tsc_ordered());
    // K3
    for (index, value) in page.words().into_iter().enumerate().skip(word::SEQUENCE + 1) {
        words.store(index, value)?;
    }
    // K4. Readers compare the lower half.
    *sequence = sequence.wrapping_add(2);
    words.store(word::SEQUENCE, *sequence)?;
    Ok(page)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// For tests elsewhere that set the page's contents themselves.
    pub(crate) fn publish_for_test<W: ClockWords>(
        sequence: &mut u64,
        words: &W,
        compute: impl FnOnce(u64) -> ClockPage,
    ) -> ClockPage {
        publish(sequence, words, compute).unwrap_or_else(|_| panic!("the page is memory"))
    }

    #[derive(Default)]
    struct Log {
        stores: RefCell<Vec<(usize, u64)>>,
        /// The counter at the last store.
        tsc: Cell<u64>,
    }

    impl ClockWords for Log {
        type Error = std::convert::Infallible;

        fn store(&self, index: usize, value: u64) -> Result<(), Self::Error> {
            self.stores.borrow_mut().push((index, value));
            self.tsc.set(host_tsc());
            Ok(())
        }
    }

    #[test]
    fn stores_are_bracketed_by_an_odd_and_the_next_even_number() {
        let (log, mut sequence) = (Log::default(), 6);
        let page = publish_for_test(&mut sequence, &log, |tsc| {
            assert_eq!(log.stores.borrow().as_slice(), [(0, 7)]);
            assert!(tsc >= log.tsc.get(), "the counter was read before the page was locked");
            ClockPage::arbitrary([tsc, 1, 2, 3], 4, 5)
        });
        let log = log.stores.into_inner();
        assert_eq!(log.first(), Some(&(0, 7)));
        assert_eq!(log.last(), Some(&(0, 8)));
        for (index, value) in page.words().into_iter().enumerate().skip(1) {
            assert_eq!(log[index], (index, value));
        }
    }

    #[test]
    fn a_hint_is_explained_by_the_hosts_counter_first() {
        let asked = || panic!("KVM need not be asked");
        assert_eq!(explain(1000, 1000, 100, asked), Some(0));
        assert_eq!(explain(901, 1000, 100, asked), Some(0));
    }

    #[test]
    fn a_hint_of_another_counter_is_explained_by_kvms_offset_or_not_at_all() {
        let behind = 0u64.wrapping_sub(900);
        assert_eq!(explain(95, 1000, 100, || Some(behind)), Some(behind));
        assert_eq!(explain(95, 1000, 100, || Some(5)), None);
        assert_eq!(explain(95, 1000, 100, || None), None);
        // From the future, and too old.
        assert_eq!(explain(1001, 1000, 100, || None), None);
        assert_eq!(explain(900, 1000, 100, || None), None);
    }

    #[test]
    fn an_offset_is_found_to_the_width_of_one_reading() {
        if !host_tsc_is_stable() {
            eprintln!("SKIPPED: this host's time-stamp counter is not to be trusted");
            return;
        }
        let shift = 0u64.wrapping_sub(host_tsc() / 2);
        let guest = || host_tsc().wrapping_add(shift);
        let mut clock = GuestClock::new(None);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(clock.start(guest(), || Some(guest()), &Log::default()), Ok(true));
        let State::Running(running) = &clock.state else { panic!("it runs") };
        let off = running.counter_offset.wrapping_sub(shift) as i64;
        // One of five readings is not interrupted; 50 us at 4 GHz allows for an odd one.
        assert!(off.abs() < 200_000, "{off} ticks off");
    }

    #[test]
    fn hints_nobody_can_explain_leave_the_clock_off_for_good() {
        let mut clock = GuestClock::new(Some(2_000_000));
        let asked = Cell::new(0);
        for _ in 0..100 {
            let vcpu = || {
                asked.set(asked.get() + 1);
                None
            };
            assert_eq!(clock.start(u64::MAX / 3, vcpu, &Log::default()), Ok(false));
        }
        assert!(!clock.is_running());
        assert!(asked.get() <= 5 * u32::from(HINTS_MAX), "{} calls to KVM", asked.get());
        assert_eq!(clock.start(host_tsc(), || None, &Log::default()), Ok(false));
    }

    #[test]
    fn a_counter_is_trusted_if_the_kernel_does() {
        let text = |s: &str| Some(s.to_owned());
        assert!(stable(text("tsc\n"), text("tsc hpet acpi_pm \n"), false));
        assert!(stable(text("kvm-clock\n"), text("kvm-clock tsc \n"), true));
        assert!(!stable(text("kvm-clock\n"), text("kvm-clock tsc \n"), false));
        assert!(!stable(text("hpet\n"), text("hpet acpi_pm \n"), true));
        assert!(stable(None, None, true));
        assert!(!stable(None, None, false));
    }

    #[test]
    fn distances_between_clocks_change_by_steps_only() {
        let old = Ahead { real_ns: 1 << 40, boot_ns: 100, tai_ns: 0, raw_ns: 5 };
        let noisy = Ahead { real_ns: (1 << 40) - 300, boot_ns: 600, tai_ns: u64::MAX, raw_ns: 9 };
        assert_eq!(old.settle(noisy), old);
        let stepped = Ahead { real_ns: (1 << 40) - 3_000_000, ..old };
        assert_eq!(old.settle(stepped), stepped);
    }
}
