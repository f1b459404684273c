//! Linux's names for the bits of `CPUID`, for `flags` in `/proc/cpuinfo`.
//!
//! Those that a program in ring 3 can use or looks for; bits for the kernel alone have no name
//! here. Names and places: `arch/x86/include/asm/cpufeatures.h`.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::vm::machine::leaf;

/// A register of a leaf, and the names of its bits: number and name.
struct Register {
    function: u32,
    index: u32,
    word: fn(&kvm_cpuid_entry2) -> u32,
    names: &'static str,
}

const REGISTERS: [Register; 8] = [
    Register {
        function: 1,
        index: 0,
        word: |l| l.edx,
        names: "0 fpu 1 vme 2 de 3 pse 4 tsc 5 msr 6 pae 7 mce 8 cx8 9 apic 11 sep 12 mtrr 13 pge \
                14 mca 15 cmov 16 pat 17 pse36 19 clflush 23 mmx 24 fxsr 25 sse 26 sse2 27 ss 28 ht",
    },
    Register {
        function: 0x8000_0001,
        index: 0,
        word: |l| l.edx,
        names: "11 syscall 20 nx 22 mmxext 25 fxsr_opt 26 pdpe1gb 27 rdtscp 29 lm",
    },
    Register {
        function: 1,
        index: 0,
        word: |l| l.ecx,
        names: "0 pni 1 pclmulqdq 9 ssse3 12 fma 13 cx16 17 pcid 19 sse4_1 20 sse4_2 22 movbe \
                23 popcnt 25 aes 26 xsave 28 avx 29 f16c 30 rdrand 31 hypervisor",
    },
    Register {
        function: 0x8000_0001,
        index: 0,
        word: |l| l.ecx,
        names: "0 lahf_lm 5 abm 6 sse4a 7 misalignsse 8 3dnowprefetch 11 xop 16 fma4 21 tbm",
    },
    Register {
        function: 7,
        index: 0,
        word: |l| l.ebx,
        names: "0 fsgsbase 3 bmi1 4 hle 5 avx2 7 smep 8 bmi2 9 erms 10 invpcid 11 rtm 16 avx512f \
                17 avx512dq 18 rdseed 19 adx 20 smap 21 avx512ifma 23 clflushopt 24 clwb \
                26 avx512pf 27 avx512er 28 avx512cd 29 sha_ni 30 avx512bw 31 avx512vl",
    },
    Register {
        function: 0xd,
        index: 1,
        word: |l| l.eax,
        names: "0 xsaveopt 1 xsavec 2 xgetbv1 3 xsaves",
    },
    Register {
        function: 7,
        index: 0,
        word: |l| l.ecx,
        names: "1 avx512vbmi 2 umip 3 pku 6 avx512_vbmi2 8 gfni 9 vaes 10 vpclmulqdq \
                11 avx512_vnni 12 avx512_bitalg 14 avx512_vpopcntdq 22 rdpid 25 cldemote \
                27 movdiri 28 movdir64b",
    },
    Register { function: 7, index: 0, word: |l| l.edx, names: "4 fsrm 14 serialize" },
];

/// The names of the bits that are set, in Linux's order of registers.
pub(super) fn names(cpuid: &CpuId) -> Vec<&'static str> {
    let mut set = Vec::new();
    for register in &REGISTERS {
        let word = leaf(cpuid, register.function, register.index).map_or(0, register.word);
        let words: Vec<&str> = register.names.split_whitespace().collect();
        for pair in words.chunks_exact(2) {
            if let [bit, name] = pair
                && bit.parse::<u32>().is_ok_and(|bit| word.checked_shr(bit).unwrap_or(0) & 1 != 0)
            {
                set.push(*name);
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::{REGISTERS, names};
    use kvm_bindings::{CpuId, kvm_cpuid_entry2};

    #[test]
    fn every_name_has_a_bit_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for register in &REGISTERS {
            let words: Vec<&str> = register.names.split_whitespace().collect();
            assert_eq!(words.len() % 2, 0, "{}", register.names);
            let mut last = None;
            for pair in words.chunks_exact(2) {
                let bit: u32 = pair[0].parse().unwrap_or_else(|_| panic!("{pair:?}"));
                assert!(bit < 32 && last.is_none_or(|last| last < bit), "{pair:?}");
                assert!(seen.insert(pair[1]), "{pair:?} is there twice");
                last = Some(bit);
            }
        }
    }

    #[test]
    fn bits_become_names() {
        let entry = kvm_cpuid_entry2 { function: 1, edx: 1 << 26, ..Default::default() };
        let cpuid = CpuId::from_entries(&[entry]).expect("one entry fits");
        assert_eq!(names(&cpuid), ["sse2"]);
    }
}
