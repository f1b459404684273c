//! A processor emulator that knows the instructions of the kernel's fast paths, and counts them.
//!
//! Hosts differ in what they can count, and not all of them single-step ring 0. The emulator runs
//! the actual bytes of the image, on any machine, with its own memory; an unknown instruction fails
//! the test.

use std::collections::HashMap;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// How a path through the kernel ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Sysret,
    Iret,
    /// By an OUT to this port.
    Out(u64),
}

#[derive(Default)]
pub(crate) struct Processor {
    code: HashMap<u64, Instruction>,
    registers: HashMap<Register, u64>,
    memory: HashMap<u64, u64>,
    /// Zero, sign, carry and overflow flags.
    flags: (bool, bool, bool, bool),
    /// Base of GS, and the one that SWAPGS swaps in.
    pub(crate) gs: (u64, u64),
    /// The last value loaded into CR3.
    pub(crate) cr3: u64,
    pub(crate) count: usize,
    /// How many instructions of the last run were locked: with a prefix, or exchanges with memory.
    pub(crate) locked: usize,
    /// Where the last run has stored.
    pub(crate) stored: Vec<u64>,
}

impl Processor {
    pub(crate) fn new(instructions: Vec<Instruction>) -> Processor {
        let code = instructions.into_iter().map(|i| (i.ip(), i)).collect();
        Processor { code, ..Processor::default() }
    }

    pub(crate) fn load(&self, address: u64) -> u64 {
        assert_eq!(address % 8, 0, "{address:#x}");
        self.memory.get(&address).copied().unwrap_or(0)
    }

    pub(crate) fn store(&mut self, address: u64, value: u64) {
        assert_eq!(address % 8, 0, "{address:#x}");
        self.memory.insert(address, value);
    }

    pub(crate) fn register(&self, register: Register) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, register: Register, value: u64) {
        self.registers.insert(register, value);
    }

    fn address(&self, i: &Instruction, op: u32) -> u64 {
        let address = i.virtual_address(op, 0, |register, _, _| match register {
            Register::GS => Some(self.gs.0),
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            register => Some(self.register(register.full_register())),
        });
        address.unwrap_or_else(|| panic!("no address at {:#x}", i.ip()))
    }

    fn size(i: &Instruction, op: u32) -> usize {
        match i.op_kind(op) {
            OpKind::Register => i.op_register(op).size(),
            OpKind::Memory => i.memory_size().size(),
            _ => 8,
        }
    }

    fn read(&self, i: &Instruction, op: u32) -> u64 {
        match i.op_kind(op) {
            OpKind::Register => {
                let register = i.op_register(op);
                let whole = self.register(register.full_register());
                whole & mask(register.size())
            }
            OpKind::Memory => {
                let address = self.address(i, op);
                let word = self.load(address & !7);
                word >> (address % 8 * 8) & mask(i.memory_size().size())
            }
            _ => i.immediate(op),
        }
    }

    fn write(&mut self, i: &Instruction, op: u32, value: u64) {
        match i.op_kind(op) {
            OpKind::Register => {
                let register = i.op_register(op);
                let full = register.full_register();
                let kept = match register.size() {
                    // A write of 32 bits clears the upper half (SDM 1, 3.4.1.1).
                    4 | 8 => 0,
                    size => self.register(full) & !mask(size),
                };
                self.set(full, kept | value & mask(register.size()));
            }
            _ => {
                let address = self.address(i, op);
                self.stored.push(address);
                let (shift, mask) = (address % 8 * 8, mask(i.memory_size().size()));
                let kept = self.load(address & !7) & !(mask << shift);
                self.store(address & !7, kept | (value & mask) << shift);
            }
        }
    }

    /// Sets the flags for `result` of an operation on `size` bytes.
    fn judge(&mut self, result: u64, size: usize, carry: bool, overflow: bool) -> u64 {
        let result = result & mask(size);
        self.flags = (result == 0, result >> (size * 8 - 1) != 0, carry, overflow);
        result
    }

    fn subtract(&mut self, left: u64, right: u64, size: usize) -> u64 {
        let (left, right) = (left & mask(size), right & mask(size));
        let result = left.wrapping_sub(right);
        let overflow = (left ^ right) & (left ^ result);
        self.judge(result, size, left < right, overflow >> (size * 8 - 1) & 1 != 0)
    }

    fn add(&mut self, left: u64, right: u64, size: usize) -> u64 {
        let (left, right) = (left & mask(size), right & mask(size));
        let result = left.wrapping_add(right) & mask(size);
        let overflow = (left ^ result) & (right ^ result);
        self.judge(result, size, result < left, overflow >> (size * 8 - 1) & 1 != 0)
    }

    fn push(&mut self, value: u64) {
        let rsp = self.register(Register::RSP) - 8;
        self.set(Register::RSP, rsp);
        self.stored.push(rsp);
        self.store(rsp, value);
    }

    fn pop(&mut self) -> u64 {
        let rsp = self.register(Register::RSP);
        self.set(Register::RSP, rsp + 8);
        self.load(rsp)
    }

    fn holds(&self, i: &Instruction) -> bool {
        use iced_x86::ConditionCode as C;
        let (zero, sign, carry, overflow) = self.flags;
        match i.condition_code() {
            C::e => zero,
            C::ne => !zero,
            C::b => carry,
            C::ae => !carry,
            C::be => carry || zero,
            C::a => !carry && !zero,
            C::s => sign,
            C::ns => !sign,
            C::l => sign != overflow,
            C::ge => sign == overflow,
            C::le => zero || sign != overflow,
            C::g => !zero && sign == overflow,
            other => panic!("{other:?} at {:#x}", i.ip()),
        }
    }

    /// Runs from `entry` until the kernel exits.
    pub(crate) fn run(&mut self, entry: u64) -> End {
        let mut at = entry;
        (self.count, self.locked) = (0, 0);
        self.stored.clear();
        while self.count < 2000 {
            let i = *self.code.get(&at).unwrap_or_else(|| panic!("no instruction at {at:#x}"));
            self.count += 1;
            let exchanges = i.mnemonic() == Mnemonic::Xchg && i.op0_kind() == OpKind::Memory;
            self.locked += usize::from(i.has_lock_prefix() || exchanges);
            at = i.next_ip();
            match i.mnemonic() {
                Mnemonic::Sysretq => return End::Sysret,
                Mnemonic::Iretq => return End::Iret,
                Mnemonic::Out => return End::Out(i.immediate(0)),
                Mnemonic::Jmp if i.op0_kind() != OpKind::NearBranch64 => at = self.read(&i, 0),
                Mnemonic::Jmp => at = i.near_branch_target(),
                Mnemonic::Jrcxz => {
                    if self.register(Register::RCX) == 0 {
                        at = i.near_branch_target();
                    }
                }
                Mnemonic::Call => {
                    self.push(at);
                    at = i.near_branch_target();
                }
                Mnemonic::Ret => at = self.pop(),
                _ if i.is_jcc_short_or_near() => {
                    if self.holds(&i) {
                        at = i.near_branch_target();
                    }
                }
                _ => self.execute(&i),
            }
        }
        panic!("the kernel is not left");
    }

    fn execute(&mut self, i: &Instruction) {
        let size = if i.op_count() > 0 { Self::size(i, 0) } else { 0 };
        let sources = |processor: &Self| (processor.read(i, 0), processor.read(i, 1));
        match i.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Swapgs => self.gs = (self.gs.1, self.gs.0),
            Mnemonic::Mov if i.op0_register() == Register::CR3 => self.cr3 = self.read(i, 1),
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.read(i, 1);
                self.write(i, 0, value);
            }
            Mnemonic::Lea => {
                let address = self.address(i, 1);
                self.write(i, 0, address);
            }
            Mnemonic::Push => {
                let value = self.read(i, 0);
                self.push(value);
            }
            Mnemonic::Pop => {
                let value = self.pop();
                self.write(i, 0, value);
            }
            Mnemonic::Xchg => {
                let (left, right) = sources(self);
                self.write(i, 0, right);
                self.write(i, 1, left);
            }
            Mnemonic::Cmp => {
                let (left, right) = sources(self);
                self.subtract(left, right, size);
            }
            Mnemonic::Sub => {
                let (left, right) = sources(self);
                let result = self.subtract(left, right, size);
                self.write(i, 0, result);
            }
            Mnemonic::Add => {
                let (left, right) = sources(self);
                let result = self.add(left, right, size);
                self.write(i, 0, result);
            }
            Mnemonic::Inc | Mnemonic::Dec => {
                let (left, carry) = (self.read(i, 0), self.flags.2);
                let by = if i.mnemonic() == Mnemonic::Inc { 1 } else { mask(size) };
                let result = self.add(left, by, size);
                self.flags.2 = carry;
                self.write(i, 0, result);
            }
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => {
                let (left, right) = sources(self);
                let result = match i.mnemonic() {
                    Mnemonic::Or => left | right,
                    Mnemonic::Xor => left ^ right,
                    _ => left & right,
                };
                let result = self.judge(result, size, false, false);
                if i.mnemonic() != Mnemonic::Test {
                    self.write(i, 0, result);
                }
            }
            Mnemonic::Not => {
                let value = !self.read(i, 0);
                self.write(i, 0, value);
            }
            Mnemonic::Neg => {
                let value = self.read(i, 0);
                let result = self.subtract(0, value, size);
                self.write(i, 0, result);
            }
            Mnemonic::Shl | Mnemonic::Shr => {
                let (value, by) = sources(self);
                assert!(by > 0 && by < size as u64 * 8, "at {:#x}", i.ip());
                let result = if i.mnemonic() == Mnemonic::Shl { value << by } else { value >> by };
                let result = self.judge(result, size, false, false);
                self.write(i, 0, result);
            }
            Mnemonic::Bt | Mnemonic::Btr => {
                let (value, bit) = sources(self);
                self.flags.2 = value >> bit & 1 != 0;
                if i.mnemonic() == Mnemonic::Btr {
                    self.write(i, 0, value & !(1 << bit));
                }
            }
            Mnemonic::Xadd => {
                let (left, right) = sources(self);
                let sum = self.add(left, right, size);
                self.write(i, 1, left);
                self.write(i, 0, sum);
            }
            Mnemonic::Cmpxchg => {
                let (found, new) = sources(self);
                let expected = self.register(Register::RAX) & mask(size);
                self.subtract(expected, found, size);
                if expected == found {
                    self.write(i, 0, new);
                } else {
                    self.set(Register::RAX, found);
                }
            }
            other => {
                let holds = || self.holds(i);
                let value = match i.code().condition_code() {
                    iced_x86::ConditionCode::None => panic!("{other:?} at {:#x}", i.ip()),
                    // SETcc has one operand, CMOVcc two.
                    _ if i.op_count() == 1 => u64::from(holds()),
                    _ if holds() => self.read(i, 1),
                    _ => self.read(i, 0),
                };
                self.write(i, 0, value);
            }
        }
    }
}

fn mask(size: usize) -> u64 {
    if size >= 8 { !0 } else { (1 << (size * 8)) - 1 }
}
