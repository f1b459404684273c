//! The registers as gdb knows them: their order in packets, and the description of that which gdb reads.
//!
//! Features and names are gdb's (its manual, "i386 Features"). AVX-512's further registers are not among
//! them.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use abi::shared::selector;

use crate::linux::debug::registers::Registers;
use crate::vm::UserRegs;

/// Where XSAVE's legacy area has what (SDM 1, 10.5.1 and 13.4.1).
const CONTROL: usize = 0;
const STATUS: usize = 2;
const TAGS: usize = 4;
const OPCODE: usize = 6;
const INSTRUCTION: usize = 8;
const OPERAND: usize = 16;
const MXCSR: usize = 24;
const STACK: usize = 32;
const XMM: usize = 160;
/// Which components are not in their initial state.
const COMPONENTS: usize = 512;

/// A register, in gdb's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    General(usize),
    Flags,
    Segment(u16),
    Stack(usize),
    Fpu(usize),
    Xmm(usize),
    Mxcsr,
    Call,
    Base(usize),
    YmmHigh(usize),
}

const GENERAL: [&str; 17] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip",
];
const SEGMENTS: [(&str, u16); 6] = [
    ("cs", selector::USER_CODE),
    ("ss", selector::USER_DATA),
    ("ds", 0),
    ("es", 0),
    ("fs", 0),
    ("gs", 0),
];
const FPU: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];

/// Which registers there are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Where the upper halves of the AVX registers are in the XSAVE area.
    pub avx: Option<usize>,
}

impl Layout {
    fn all(self) -> impl Iterator<Item = Register> {
        let avx = if self.avx.is_some() { 16 } else { 0 };
        (0..GENERAL.len())
            .map(Register::General)
            .chain([Register::Flags])
            .chain(SEGMENTS.iter().map(|(_, selector)| Register::Segment(*selector)))
            .chain((0..8).map(Register::Stack))
            .chain((0..FPU.len()).map(Register::Fpu))
            .chain((0..16).map(Register::Xmm))
            .chain([Register::Mxcsr, Register::Call])
            .chain((0..2).map(Register::Base))
            .chain((0..avx).map(Register::YmmHigh))
    }

    /// All of them, as `g` has them.
    pub(super) fn values(self, of: &Registers) -> Vec<u8> {
        self.all().flat_map(|register| self.get(of, register)).collect()
    }

    /// One, by gdb's number.
    pub(super) fn value(self, of: &Registers, number: u64) -> Option<Vec<u8>> {
        let register = self.all().nth(usize::try_from(number).ok()?)?;
        Some(self.get(of, register))
    }

    /// Changes all, as `G` has them; `false` if these are not so many.
    pub(super) fn set_values(self, of: &mut Registers, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for register in self.all() {
            let Some((value, after)) = rest.split_at_checked(register.bytes()) else {
                return false;
            };
            if self.get(of, register) != value {
                self.set(of, register, value);
            }
            rest = after;
        }
        rest.is_empty()
    }

    /// Changes one, by gdb's number; `false` if there is none, or the value has another length.
    pub(super) fn set_value(self, of: &mut Registers, number: u64, value: &[u8]) -> bool {
        let index = usize::try_from(number).ok();
        let Some(register) = index.and_then(|index| self.all().nth(index)) else { return false };
        let fits = value.len() == register.bytes();
        if fits {
            self.set(of, register, value);
        }
        fits
    }

    fn get(self, of: &Registers, register: Register) -> Vec<u8> {
        let area = |at: usize, len: usize| {
            let bytes = of.xsave.get(at..at + len);
            bytes.map_or_else(|| vec![0; len], <[u8]>::to_vec)
        };
        match register {
            Register::General(index) => general(&of.regs, index).to_le_bytes().to_vec(),
            Register::Flags => (of.regs.rflags as u32).to_le_bytes().to_vec(),
            Register::Segment(selector) => u32::from(selector).to_le_bytes().to_vec(),
            Register::Stack(index) => area(STACK + 16 * index, 10),
            Register::Fpu(index) => fpu(&of.xsave, index).to_le_bytes().to_vec(),
            Register::Xmm(index) => area(XMM + 16 * index, 16),
            Register::Mxcsr => area(MXCSR, 4),
            Register::Call => of.call.to_le_bytes().to_vec(),
            Register::Base(index) => {
                of.bases.get(index).copied().unwrap_or_default().to_le_bytes().to_vec()
            }
            // In its initial state, what is there is not the register.
            Register::YmmHigh(_) if of.xsave.get(COMPONENTS).is_none_or(|it| it & 4 == 0) => {
                vec![0; 16]
            }
            Register::YmmHigh(index) => area(self.avx.unwrap_or_default() + 16 * index, 16),
        }
    }

    fn set(self, of: &mut Registers, register: Register, value: &[u8]) {
        let word =
            || value.iter().take(8).rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let mut put = |at: usize, component: u8| {
            if let Some(place) = of.xsave.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
            if let Some(components) = of.xsave.get_mut(COMPONENTS) {
                *components |= component;
            }
        };
        match register {
            Register::General(index) => {
                if let Some(place) = general_mut(&mut of.regs, index) {
                    *place = word();
                }
            }
            Register::Flags => of.regs.rflags = word(),
            // No program can change them.
            Register::Segment(_) => {}
            Register::Stack(index) => put(STACK + 16 * index, 1),
            Register::Fpu(index) => set_fpu(&mut of.xsave, index, word()),
            Register::Xmm(index) => put(XMM + 16 * index, 2),
            Register::Mxcsr => put(MXCSR, 2),
            Register::Call => of.call = word(),
            Register::Base(index) => {
                if let Some(base) = of.bases.get_mut(index) {
                    *base = word();
                }
            }
            Register::YmmHigh(index) => {
                let start = self.avx.unwrap_or_default();
                let is_initial = of.xsave.get(COMPONENTS).is_some_and(|it| it & 4 == 0);
                if let Some(area) = of.xsave.get_mut(start..start + 256).filter(|_| is_initial) {
                    area.fill(0);
                }
                if let Some(place) = of.xsave.get_mut(start + 16 * index..start + 16 * index + 16) {
                    place.copy_from_slice(value);
                }
                if let Some(components) = of.xsave.get_mut(COMPONENTS) {
                    *components |= 4;
                }
            }
        }
    }

    /// The description for gdb.
    pub(super) fn description(self) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
             <architecture>i386:x86-64</architecture><osabi>GNU/Linux</osabi>\
             <feature name=\"org.gnu.gdb.i386.core\">",
        );
        let register = |xml: &mut String, name: &str, bits: u32, kind: &str, group: &str| {
            let group =
                if group.is_empty() { String::new() } else { format!(" group=\"{group}\"") };
            let _ = write!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"{group}/>");
        };
        for name in GENERAL {
            let kind = match name {
                "rip" => "code_ptr",
                "rsp" | "rbp" => "data_ptr",
                _ => "int64",
            };
            register(&mut xml, name, 64, kind, "");
        }
        register(&mut xml, "eflags", 32, "int32", "");
        SEGMENTS.iter().for_each(|(name, _)| register(&mut xml, name, 32, "int32", ""));
        (0..8).for_each(|n| register(&mut xml, &format!("st{n}"), 80, "i387_ext", ""));
        FPU.iter().for_each(|name| register(&mut xml, name, 32, "int", "float"));
        xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.sse\">");
        for (id, kind, count) in [
            ("v4f", "ieee_single", 4),
            ("v2d", "ieee_double", 2),
            ("v16i8", "int8", 16),
            ("v8i16", "int16", 8),
            ("v4i32", "int32", 4),
            ("v2i64", "int64", 2),
        ] {
            let _ = write!(xml, "<vector id=\"{id}\" type=\"{kind}\" count=\"{count}\"/>");
        }
        xml.push_str("<union id=\"vec128\">");
        for (name, kind) in [
            ("v4_float", "v4f"),
            ("v2_double", "v2d"),
            ("v16_int8", "v16i8"),
            ("v8_int16", "v8i16"),
            ("v4_int32", "v4i32"),
            ("v2_int64", "v2i64"),
            ("uint128", "uint128"),
        ] {
            let _ = write!(xml, "<field name=\"{name}\" type=\"{kind}\"/>");
        }
        xml.push_str("</union>");
        (0..16).for_each(|n| register(&mut xml, &format!("xmm{n}"), 128, "vec128", ""));
        register(&mut xml, "mxcsr", 32, "int", "vector");
        xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.linux\">");
        register(&mut xml, "orig_rax", 64, "int", "");
        xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.segments\">");
        register(&mut xml, "fs_base", 64, "int", "");
        register(&mut xml, "gs_base", 64, "int", "");
        if self.avx.is_some() {
            xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.avx\">");
            (0..16).for_each(|n| register(&mut xml, &format!("ymm{n}h"), 128, "uint128", ""));
        }
        xml.push_str("</feature></target>");
        xml
    }
}

impl Register {
    fn bytes(self) -> usize {
        match self {
            Register::General(_) | Register::Call | Register::Base(_) => 8,
            Register::Flags | Register::Segment(_) | Register::Fpu(_) | Register::Mxcsr => 4,
            Register::Stack(_) => 10,
            Register::Xmm(_) | Register::YmmHigh(_) => 16,
        }
    }
}

fn general(regs: &UserRegs, index: usize) -> u64 {
    let mut regs = *regs;
    general_mut(&mut regs, index).map_or(0, |register| *register)
}

fn general_mut(r: &mut UserRegs, index: usize) -> Option<&mut u64> {
    let all = [
        &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp,
        &mut r.rsp, &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13,
        &mut r.r14, &mut r.r15, &mut r.rip,
    ];
    all.into_iter().nth(index)
}

fn word(area: &[u8], at: usize, len: usize) -> u64 {
    let bytes = area.get(at..at + len).unwrap_or_default();
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// One of the FPU's control registers, by its place in [`FPU`].
fn fpu(area: &[u8], index: usize) -> u32 {
    let value = match index {
        0 => word(area, CONTROL, 2),
        1 => word(area, STATUS, 2),
        2 => return full_tags(area),
        3 => word(area, INSTRUCTION + 4, 2),
        4 => word(area, INSTRUCTION, 4),
        5 => word(area, OPERAND + 4, 2),
        6 => word(area, OPERAND, 4),
        _ => word(area, OPCODE, 2),
    };
    value as u32
}

fn set_fpu(area: &mut [u8], index: usize, value: u64) {
    let (at, len, value) = match index {
        0 => (CONTROL, 2, value),
        1 => (STATUS, 2, value),
        // One bit for each register that is not empty.
        2 => (TAGS, 1, (0..8).fold(0, |tags, n| tags | u64::from(value >> (2 * n) & 3 != 3) << n)),
        3 => (INSTRUCTION + 4, 2, value),
        4 => (INSTRUCTION, 4, value),
        5 => (OPERAND + 4, 2, value),
        6 => (OPERAND, 4, value),
        _ => (OPCODE, 2, value),
    };
    if let Some(place) = area.get_mut(at..at + len) {
        place.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
    if let Some(components) = area.get_mut(COMPONENTS) {
        *components |= 1;
    }
}

/// The tag word as FSAVE has it: two bits for each physical register (SDM 1, 8.1.7).
fn full_tags(area: &[u8]) -> u32 {
    let (tags, top) = (word(area, TAGS, 1), word(area, STATUS, 2) >> 11 & 7);
    let mut full = 0;
    for n in 0..8_u64 {
        let at = STACK + 16 * ((8 + n - top) % 8) as usize;
        let (exponent, fraction) = (word(area, at + 8, 2) & 0x7fff, word(area, at, 8));
        let tag = match (tags >> n & 1, exponent) {
            (0, _) => 3,
            (_, 0) if fraction == 0 => 1,
            (_, 0 | 0x7fff) => 2,
            _ if fraction >> 63 == 0 => 2,
            _ => 0,
        };
        full |= tag << (2 * n);
    }
    full
}

#[cfg(test)]
mod tests {
    use super::{COMPONENTS, Layout, Registers, UserRegs};

    const LAYOUT: Layout = Layout { avx: Some(576) };

    fn sample() -> Registers {
        let mut xsave: Vec<u8> = (0..4096_u32).map(|n| (n * 7 % 251) as u8).collect();
        xsave[COMPONENTS] = 7;
        let regs = UserRegs { rax: 1, rip: 0x1234_5678_9abc, r15: 15, ..UserRegs::default() };
        Registers { regs, bases: [0xf5, 0x65], xsave, call: 202 }
    }

    #[test]
    fn all_registers_come_back_as_they_were_and_each_by_its_number() {
        let from = sample();
        let values = LAYOUT.values(&from);
        assert_eq!(values.len(), 17 * 8 + 7 * 4 + 80 + 32 + 256 + 4 + 8 + 16 + 256);
        let mut to = Registers { xsave: vec![0; 4096], regs: UserRegs::default(), ..sample() };
        (to.bases, to.call) = ([0; 2], 0);
        assert!(LAYOUT.set_values(&mut to, &values));
        // The tag word is told in another form, of which less is kept.
        let tags = |values: Vec<u8>| [&values[..252], &values[256..]].concat();
        assert_eq!(tags(LAYOUT.values(&to)), tags(values.clone()));
        let mut at = 0;
        for number in 0.. {
            let Some(value) = LAYOUT.value(&from, number) else { break };
            assert_eq!(values[at..at + value.len()], value, "{number}");
            at += value.len();
            let mut changed = sample();
            assert!(LAYOUT.set_value(&mut changed, number, &vec![0x11; value.len()]));
            assert!(!LAYOUT.set_value(&mut changed, number, &[]));
        }
        assert_eq!(at, values.len());
        assert!(!LAYOUT.set_values(&mut to, &values[1..]));
        assert!(!LAYOUT.set_value(&mut to, u64::MAX, &[0; 8]));
    }

    #[test]
    fn the_description_has_each_register_once_and_in_the_order_of_the_values() {
        for layout in [LAYOUT, Layout { avx: None }] {
            let xml = layout.description();
            let bits: Vec<usize> = xml
                .split("bitsize=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
                .collect();
            let sizes: Vec<usize> = layout.all().map(|register| register.bytes() * 8).collect();
            assert_eq!(bits, sizes);
        }
    }

    #[test]
    fn what_is_in_its_initial_state_is_zero_until_it_is_written() {
        let mut registers = sample();
        registers.xsave[COMPONENTS] = 3;
        let (first, last) = (60, 75);
        assert_eq!(LAYOUT.value(&registers, first), Some(vec![0; 16]));
        assert!(LAYOUT.set_value(&mut registers, last, &[9; 16]));
        assert_eq!(LAYOUT.value(&registers, last), Some(vec![9; 16]));
        assert_eq!(LAYOUT.value(&registers, first), Some(vec![0; 16]));
        let none = Registers { xsave: Vec::new(), ..sample() };
        assert_eq!(LAYOUT.values(&none).len(), LAYOUT.values(&registers).len());
    }
}
