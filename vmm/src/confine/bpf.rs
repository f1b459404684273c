//! Filters in the host kernel's classic BPF, put together from a few kinds of question.
#![forbid(unsafe_code)]

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// Where `struct seccomp_data` has what (seccomp(2)): the number, the architecture, the address behind
/// the instruction, and the arguments, of which the low halves come first.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const ADDRESS: u32 = 8;
const ARGUMENTS: u32 = 16;

/// The low half of an argument.
pub(super) const fn argument(index: u32) -> u32 {
    ARGUMENTS + 8 * index
}

/// A filter, or a piece of one that no path leaves but by its end or by a result.
#[derive(Clone, Debug, Default)]
pub(super) struct Code(pub(super) Vec<sock_filter>);

impl Code {
    fn push(&mut self, code: u32, [jt, jf]: [u8; 2], k: u32) {
        self.0.push(sock_filter { code: code as u16, jt, jf, k });
    }

    /// Reads a word of `struct seccomp_data`.
    pub(super) fn load(&mut self, at: u32) {
        self.push(BPF_LD | BPF_W | BPF_ABS, [0, 0], at);
    }

    /// Ends with a result.
    pub(super) fn result(&mut self, result: u32) {
        self.push(BPF_RET | BPF_K, [0, 0], result);
    }

    /// Keeps these bits of the word.
    pub(super) fn mask(&mut self, bits: u32) {
        self.push(BPF_ALU | BPF_AND | BPF_K, [0, 0], bits);
    }

    /// Runs `then` if the word is `value`, and goes on behind it if not.
    pub(super) fn if_equal(&mut self, value: u32, then: &Code) {
        match u8::try_from(then.0.len()) {
            Ok(len) => self.push(BPF_JMP | BPF_JEQ | BPF_K, [0, len], value),
            Err(_) => {
                self.push(BPF_JMP | BPF_JEQ | BPF_K, [1, 0], value);
                self.skip(then.0.len());
            }
        }
        self.0.extend_from_slice(&then.0);
    }

    /// Runs `below` if the word is less than `value`, `above` if not. Neither may come to its end.
    fn split(&mut self, value: u32, below: &Code, above: &Code) {
        match u8::try_from(below.0.len()) {
            Ok(len) => self.push(BPF_JMP | BPF_JGE | BPF_K, [len, 0], value),
            Err(_) => {
                self.push(BPF_JMP | BPF_JGE | BPF_K, [0, 1], value);
                self.skip(below.0.len());
            }
        }
        self.0.extend_from_slice(&below.0);
        self.0.extend_from_slice(&above.0);
    }

    fn skip(&mut self, instructions: usize) {
        self.push(BPF_JMP | BPF_JA, [0, 0], instructions as u32);
    }

    /// Ends with `inside` if the word is one of `values`, which ascend, and with `outside` if not.
    pub(super) fn one_of(&mut self, values: &[u32], inside: u32, outside: u32) {
        // Where the result changes, as the word grows.
        let mut edges = Vec::new();
        for value in values {
            if edges.last() == Some(value) {
                edges.pop();
            } else {
                edges.push(*value);
            }
            edges.extend(value.checked_add(1));
        }
        let results = [outside, inside];
        self.0.extend(between(&edges, 0, results).0);
    }
}

/// The search between `edges`, of which `passed` lie below.
fn between(edges: &[u32], passed: usize, results: [u32; 2]) -> Code {
    let mut code = Code::default();
    let middle = edges.len() / 2;
    match edges.get(middle) {
        None => code.result(results[passed % 2]),
        Some(edge) => {
            let (below, above) = edges.split_at(middle);
            let below = between(below, passed, results);
            let above = between(above.get(1..).unwrap_or_default(), passed + middle + 1, results);
            code.split(*edge, &below, &above);
        }
    }
    code
}

/// Runs a filter as the kernel does, on `struct seccomp_data` as words.
#[cfg(test)]
pub(super) fn run(code: &[sock_filter], data: &[u32; 16]) -> u32 {
    let (mut at, mut word) = (0_usize, 0_u32);
    loop {
        let insn = code[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { insn.jt } else { insn.jf });
        match u32::from(insn.code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => word = data[insn.k as usize / 4],
            code if code == BPF_ALU | BPF_AND | BPF_K => word &= insn.k,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(word == insn.k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(word >= insn.k),
            code if code == BPF_JMP | BPF_JA => at += insn.k as usize,
            code if code == BPF_RET | BPF_K => return insn.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, NUMBER, run};

    fn with_number(number: u32) -> [u32; 16] {
        let mut data = [0; 16];
        data[0] = number;
        data
    }

    #[test]
    fn exactly_the_numbers_of_a_list_are_found_in_it() {
        // Runs and holes of all lengths, the ends of the range, and a list that needs long jumps.
        let few = [0, 1, 2, 5, 7, 8, 9, 100, 101, u32::MAX];
        let many: Vec<u32> = (0..400).map(|n| n * 3).collect();
        for list in [&few[..], &many, &[], &[7]] {
            let mut code = Code::default();
            code.load(NUMBER);
            code.one_of(list, 1, 2);
            let asked = (0..1300).chain([u32::MAX - 1, u32::MAX]);
            for number in asked {
                let expected = if list.contains(&number) { 1 } else { 2 };
                assert_eq!(run(&code.0, &with_number(number)), expected, "{number}");
            }
        }
    }

    #[test]
    fn what_is_asked_of_one_number_is_not_asked_of_others() {
        for length in [1, 300] {
            let mut then = Code::default();
            (0..length).for_each(|_| then.load(NUMBER));
            then.result(1);
            let mut code = Code::default();
            code.load(NUMBER);
            code.if_equal(16, &then);
            code.result(2);
            assert_eq!(run(&code.0, &with_number(16)), 1);
            assert_eq!(run(&code.0, &with_number(17)), 2);
        }
    }
}
