//! The guest kernel's image, as embedded in `spacejmp`: only instructions that every host executes
//! in ring 0, nothing left for a loader to resolve, least privilege, and short paths through the
//! null call and the switch.

mod counts;
mod kernel;
mod locks;
mod processor;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "also a module of the library `tests`, which needs `vmm`"
)]
#[path = "../../../tests/src/counts.rs"]
mod record;
mod recorded;
mod views;

use std::collections::{BTreeMap, HashMap};

use abi::layout::{KERNEL_BASE, KERNEL_PHYS, SYSTEM_BYTES};
use abi::shared::{KERNEL_ABI, KERNEL_MAGIC};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol};

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-kernel.elf"));

/// Maximum size of code, constants and data together: the kernel is small and stays small.
const MOST_BYTES: u64 = 16 << 10;

fn headers() -> Vec<ProgramHeader64<Endianness>> {
    let header = FileHeader64::<Endianness>::parse(IMAGE).expect("it is an ELF image");
    let endian = header.endian().expect("it has a byte order");
    let all = header.program_headers(endian, IMAGE).expect("it has program headers");
    all.iter().filter(|h| h.p_type(endian) == elf::PT_LOAD).copied().collect()
}

fn rights(h: &ProgramHeader64<Endianness>) -> u32 {
    h.p_flags(Endianness::Little).0 & 7
}

/// The bytes of the one executable segment and its address.
fn text() -> (u64, &'static [u8]) {
    let headers = headers();
    let code = headers.iter().find(|h| rights(h) & 1 != 0).expect("it has code");
    let bytes = code.data(Endianness::Little, IMAGE).expect("its code lies in the file");
    (code.p_vaddr(Endianness::Little), bytes)
}

/// Word `index` of the `KernelInfo` at the image's start.
fn info(index: usize) -> u64 {
    let headers = headers();
    let first = headers.iter().find(|h| h.p_vaddr(Endianness::Little) == KERNEL_BASE.raw());
    let bytes = first.expect("a segment begins at the base").data(Endianness::Little, IMAGE);
    let word = &bytes.expect("it lies in the file")[index * 8..index * 8 + 8];
    u64::from_le_bytes(word.try_into().expect("eight bytes"))
}

fn instructions() -> Vec<Instruction> {
    let (base, bytes) = text();
    let decoder = Decoder::with_ip(64, bytes, base, DecoderOptions::NONE);
    // The padding between functions decodes as something harmless or as nothing.
    decoder.into_iter().collect()
}

/// Classes of instructions that interpreting hosts execute in ring 0
/// (docs: host support; measured one by one).
fn is_allowed(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::CMOV
            | F::CX8
            | F::MULTIBYTENOP
            | F::PAUSE
            | F::SYSCALL
            | F::MSR
            | F::TSC
            | F::CPUID
    )
}

#[test]
fn the_kernel_executes_only_what_every_host_executes_in_ring_0() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let all = instructions();
    for instruction in &all {
        let at = instruction.ip();
        let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
        assert_ne!(instruction.code(), Code::INVALID, "no instruction at {at:#x}");
        for &feature in instruction.cpuid_features() {
            assert!(is_allowed(feature), "{name} at {at:#x} needs {feature:?}");
        }
        let registers = (0..instruction.op_count()).map(|op| instruction.op_register(op));
        for register in registers {
            let wide = register.is_vector_register()
                || register.is_st()
                || register.is_mm()
                || register.is_k();
            assert!(!wide, "{name} at {at:#x} uses {register:?}");
        }
        // In the classes above, but not executed by every host, or not wanted in this kernel.
        let odd = matches!(
            instruction.mnemonic(),
            Mnemonic::Vmcall
                | Mnemonic::Vmmcall
                | Mnemonic::Invpcid
                | Mnemonic::Rdtscp
                | Mnemonic::Stac
                | Mnemonic::Clac
                | Mnemonic::Cmpxchg16b
                | Mnemonic::Popcnt
                | Mnemonic::Int
                | Mnemonic::Sti
                | Mnemonic::Hlt
                | Mnemonic::In
        );
        assert!(!odd, "{name} at {at:#x}");
        *counts.entry(name).or_default() += 1;
    }
    println!("{} instructions: {counts:?}", all.len());
    assert!(counts["out"] >= 32, "the exits of 32 exception stubs: {counts:?}");
    // SYSRETs after a Linux call, a SpaceJMP call, and three paths of a switch; IRETs after a call
    // by UD2, six paths of a switch, and a single step that some processors report inside the
    // kernel.
    assert_eq!((counts["sysretq"], counts["iretq"]), (5, 8), "{counts:?}");
}

#[test]
fn the_decoder_sees_what_it_is_asked_to_find() {
    // popcnt eax, ebx; pxor xmm0, xmm0; invpcid rax, [rbx]; fld1: each is rejected by class.
    let bad: [&[u8]; 6] = [
        &[0xf3, 0x0f, 0xb8, 0xc3],
        &[0x66, 0x0f, 0xef, 0xc0],
        &[0x66, 0x0f, 0x38, 0x82, 0x03],
        &[0xd9, 0xe8],
        &[0x0f, 0x01, 0xcb],
        &[0x0f, 0xae, 0x23],
    ];
    for bytes in bad {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        let refused = instruction.cpuid_features().iter().any(|&feature| !is_allowed(feature));
        assert!(refused, "{:?} {:?}", instruction.mnemonic(), instruction.cpuid_features());
    }
}

#[test]
fn each_segment_has_the_least_rights_and_pages_of_its_own() {
    let mut found = Vec::new();
    let mut end = KERNEL_BASE.raw();
    let mut bytes = 0;
    for h in headers() {
        let endian = Endianness::Little;
        let (start, len) = (h.p_vaddr(endian), h.p_memsz(endian));
        assert_eq!(start % 4096, 0, "{start:#x}");
        assert!(start >= end, "{start:#x} begins before {end:#x}");
        assert_eq!(h.p_paddr(endian) - KERNEL_PHYS.raw(), start - KERNEL_BASE.raw());
        end = start + len;
        bytes += len;
        found.push(rights(&h));
    }
    // Read (4), read and execute (5), read and write (6), in this order.
    assert_eq!(found, [4, 5, 6]);
    assert!(end - KERNEL_BASE.raw() <= SYSTEM_BYTES - KERNEL_PHYS.raw());
    println!("{bytes} bytes in memory");
    assert!(bytes <= MOST_BYTES, "the kernel has grown to {bytes} bytes");
}

#[test]
fn nothing_is_left_for_a_loader_to_do() {
    let file = object::File::parse(IMAGE).expect("it is an ELF image");
    assert!(file.dynamic_relocations().is_none_or(|mut all| all.next().is_none()));
    for section in file.sections() {
        let name = section.name().unwrap_or("?").to_owned();
        assert!(section.relocations().next().is_none(), "{name} has relocations");
        assert!(!name.starts_with(".dynamic") && !name.starts_with(".interp"), "{name}");
    }
    for symbol in file.symbols().filter(|symbol| symbol.kind() != object::SymbolKind::Unknown) {
        assert!(!symbol.is_undefined(), "{:?} is not defined", symbol.name());
    }
    let header = FileHeader64::<Endianness>::parse(IMAGE).expect("it is an ELF image");
    assert_eq!(header.e_type(Endianness::Little), elf::ET_EXEC);
}

#[test]
fn the_kernels_own_description_is_true() {
    assert_eq!((info(0), info(1)), (KERNEL_MAGIC, KERNEL_ABI));
    let (base, bytes) = text();
    let code = base..base + bytes.len() as u64;
    let (entry, vectors, stride) = (info(2), info(3), info(4));
    assert!(code.contains(&entry) && code.contains(&vectors));
    assert!(code.contains(&(vectors + 31 * stride)));
    assert_eq!((info(5), info(6)), (base, code.end.next_multiple_of(4096)));
    let by_address: HashMap<u64, Instruction> =
        instructions().into_iter().map(|i| (i.ip(), i)).collect();
    for word in 9..14 {
        let found = by_address.get(&info(word)).map(Instruction::mnemonic);
        assert_eq!(found, Some(Mnemonic::Sysretq), "{:#x}", info(word));
    }
    // Each exception stub exits through its own port, whatever it pushes before.
    for vector in (0..32).filter(|&vector| vector != 6) {
        let mut at = vectors + vector * stride;
        let mut instruction = by_address[&at];
        // The single step's stub is elsewhere: it first checks whether the step was after SYSCALL,
        // and exits like the others if not.
        if vector == 1 {
            assert_eq!(instruction.mnemonic(), Mnemonic::Jmp);
            instruction = by_address[&instruction.near_branch_target()];
            for expected in [Mnemonic::Cmp, Mnemonic::Je] {
                assert_eq!(instruction.mnemonic(), expected);
                at = instruction.next_ip();
                instruction = by_address[&at];
            }
        }
        if matches!(instruction.mnemonic(), Mnemonic::Push) {
            at = instruction.next_ip();
            instruction = by_address[&at];
        }
        assert_eq!(instruction.mnemonic(), Mnemonic::Out, "vector {vector}");
        let port = u64::from(instruction.immediate8());
        assert_eq!(port, u64::from(abi::call::port::EXCEPTION) + vector);
    }
}
