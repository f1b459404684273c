//! The processor's own breakpoints and watchpoints (SDM 3B, chapter 18 "Debug, Branch Profile, TSC, and Intel RDT Features"): four
//! places, each of which ends a run of the vCPU when the program comes there, or uses it.
//!
//! KVM may take them and not keep to them: some kinds of KVM, and emulators below one, never report any. So whoever wants to rely on them
//! asks [`Vcpu::probe_points`] first, which tries.

use abi::PAGE_SIZE;
use abi::layout::{CALL_PAGE, CALL_PAGE_UD2, CLOCK_PAGE};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};

use super::{FIXED_FLAGS, Position, UserRegs, Vcpu};
use crate::vm::exit::Exit;
use crate::vm::machine::{VmError, kvm_call};

/// How many there are.
pub(crate) const POINTS: usize = 4;
/// DR7: a point counts in all tasks, a bit each.
const GLOBAL: u64 = 2;
/// DR7: exact, and the bit that is always set.
const ALWAYS: u64 = 0x600;
/// DR6: a bit each.
const HITS: u64 = 0xf;
/// How often a kick may come between before the probe gives up.
const KICKS: u32 = 16;

/// What a point is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum On {
    /// The instruction there is about to be executed.
    Execution,
    /// It was written.
    Writing,
    /// It was read or written.
    Use,
}

/// A place, of a length that the processor knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Point {
    pub(crate) at: u64,
    pub(crate) on: On,
    len: u8,
}

impl Point {
    /// The instruction at `at`.
    pub(crate) fn execution(at: u64) -> Point {
        Point { at, on: On::Execution, len: 1 }
    }

    /// Memory: 1, 2, 4 or 8 bytes, at a multiple of that.
    pub(crate) fn memory(at: u64, len: u64, on: On) -> Option<Point> {
        let fits = matches!(len, 1 | 2 | 4 | 8) && at.is_multiple_of(len);
        fits.then_some(Point { at, on, len: len as u8 })
    }

    /// Its bits of DR7, as the first one's (SDM 3B, 18.2.4).
    fn control(self) -> u64 {
        let kind = match self.on {
            On::Execution => 0b00,
            On::Writing => 0b01,
            On::Use => 0b11,
        };
        let len = match self.len {
            1 => 0b00,
            2 => 0b01,
            8 => 0b10,
            _ => 0b11,
        };
        kind | len << 2
    }
}

/// What a vCPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Points([Option<Point>; POINTS]);

impl Points {
    /// Has a place for `point`, if one is left; it may have it already.
    pub(crate) fn add(&mut self, point: Point) -> bool {
        if self.0.contains(&Some(point)) {
            return true;
        }
        let free = self.0.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(point)).is_some()
    }

    /// Gives its place back; returns whether it had one.
    pub(crate) fn remove(&mut self, point: Point) -> bool {
        let place = self.0.iter_mut().find(|place| **place == Some(point));
        place.map(|place| *place = None).is_some()
    }

    /// The first that is among `hits`.
    pub(crate) fn hit(&self, hits: u8) -> Option<Point> {
        (0..).zip(&self.0).filter(|(place, _)| hits >> place & 1 != 0).find_map(|(_, point)| *point)
    }

    /// DR7.
    fn control(&self) -> u64 {
        let places = (0_u32..).zip(&self.0);
        places.fold(ALWAYS, |control, (place, point)| match point {
            None => control,
            Some(point) => control | GLOBAL << (2 * place) | point.control() << (16 + 4 * place),
        })
    }

    fn request(&self) -> kvm_guest_debug {
        let mut request = kvm_guest_debug::default();
        if *self != Points::default() {
            request.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
            let control = [(7, self.control())];
            let places = self.0.iter().enumerate();
            let addresses = places.filter_map(|(place, point)| Some((place, (*point)?.at)));
            for (register, value) in addresses.chain(control) {
                if let Some(slot) = request.arch.debugreg.get_mut(register) {
                    *slot = value;
                }
            }
        }
        request
    }
}

impl Vcpu {
    /// Has exactly these from the next entry on. A run ends at one with vector 1, and [`Vcpu::hits`] says at which.
    pub(crate) fn set_points(&mut self, points: &Points) -> Result<(), VmError> {
        let set = self.fd.set_guest_debug(&points.request());
        set.map_err(kvm_call("set the processor's breakpoints"))
    }

    /// The points at which the last run ended: a bit each.
    pub(crate) fn hits(&self) -> u8 {
        self.hits
    }

    /// Takes over what KVM says of DR6 at an exit.
    pub(super) fn note_hits(&mut self, dr6: u64) {
        self.hits = (dr6 & HITS) as u8;
    }

    /// Whether this host keeps to points, found out by executing an instruction of the call page: once with a point at it, and once with
    /// a point at the memory that it reads. For a vCPU that no thread runs, which has no points afterwards. `None` if kicks came between.
    pub(crate) fn probe_points(&mut self) -> Option<bool> {
        let found = self.try_points();
        self.hits = 0;
        match self.set_points(&Points::default()) {
            Ok(()) => found,
            Err(_) => Some(false),
        }
    }

    fn try_points(&mut self) -> Option<bool> {
        // RET, with a return address of 0 in a page of which it has no other use: the clock's last word.
        let way_in = if self.machine.is_soft_host() { CALL_PAGE_UD2 } else { CALL_PAGE };
        let (code, word) = (way_in.raw() + 2, CLOCK_PAGE.raw() + PAGE_SIZE - 8);
        let begin = UserRegs { rip: code, rsp: word, rflags: FIXED_FLAGS, ..UserRegs::default() };
        let read = Point::memory(word, 8, On::Use)?;
        // What is about to be executed stays; what was read is behind the instruction.
        for (point, end) in [(Point::execution(code), code), (read, 0)] {
            let mut points = Points::default();
            points.add(point);
            if self.set_points(&points).is_err() {
                return Some(false);
            }
            let exit = self.run_from(&begin)?;
            let is_hit = matches!(exit, Exit::Exception { vector: 1, .. })
                && points.hit(self.hits()) == Some(point)
                && self.regs.rip == end;
            if !is_hit {
                return Some(false);
            }
        }
        Some(true)
    }

    fn run_from(&mut self, begin: &UserRegs) -> Option<Exit> {
        for _ in 0..KICKS {
            self.regs = *begin;
            self.position = Position::Ring3;
            self.restore_all = true;
            let mut exit = self.run().ok()?;
            for _ in 0..KICKS {
                if exit != Exit::KickedInKernel {
                    break;
                }
                exit = self.run().ok()?;
            }
            match exit {
                Exit::Kicked => {}
                Exit::KickedInKernel => return None,
                exit => return Some(exit),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{On, POINTS, Point, Points};

    #[test]
    fn there_are_four_and_what_goes_gives_its_place_back() {
        let mut points = Points::default();
        let all: Vec<Point> = (0..=POINTS as u64).map(|at| Point::execution(0x1000 + at)).collect();
        assert!(all[..POINTS].iter().all(|point| points.add(*point)));
        assert!(!points.add(all[POINTS]));
        assert!(points.add(all[1]), "it is there already");
        assert!(points.remove(all[1]) && !points.remove(all[1]));
        assert!(points.add(all[POINTS]));
        assert_eq!(points.hit(0b0010), Some(all[POINTS]));
        assert_eq!(points.hit(0b1100), Some(all[2]));
        assert_eq!(points.hit(0), None);
        assert!(points.remove(all[0]));
        assert_eq!(points.hit(0b0001), None);
    }

    #[test]
    fn memory_is_of_a_length_and_at_an_address_that_the_processor_can_watch() {
        let fits = |at, len| Point::memory(at, len, On::Use).is_some();
        assert!(fits(0x1001, 1) && fits(0x1002, 2) && fits(0x1004, 4) && fits(0x1008, 8));
        assert!(!fits(0x1001, 2) && !fits(0x1004, 8) && !fits(0x1000, 3));
        assert!(!fits(0x1000, 16) && !fits(0x1000, 0));
    }

    #[test]
    fn registers_are_as_the_manual_has_them() {
        let mut points = Points::default();
        assert_eq!((points.request().control, points.request().arch.debugreg), (0, [0; 8]));
        points.add(Point::execution(0x1000));
        points.add(Point::memory(0x2000, 8, On::Writing).unwrap());
        points.add(Point::memory(0x3004, 4, On::Use).unwrap());
        points.add(Point::memory(0x4002, 2, On::Writing).unwrap());
        let registers = points.request().arch.debugreg;
        // G0-G3 and the length and kind of each: 00 00, 10 01, 11 11, 01 01.
        let control = 0x5_f_9_0 << 16 | 0x600 | 0b1010_1010;
        assert_eq!(registers, [0x1000, 0x2000, 0x3004, 0x4002, 0, 0, 0, control]);
    }
}
