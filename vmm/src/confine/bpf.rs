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

    /// Runs `then` if the word is one of `values`, and goes on behind it if not.
    pub(super) fn if_one_of(&mut self, values: &[u32], then: &Code) {
        // As many as one jump passes over.
        for values in values.chunks(128) {
            for (value, later) in values.iter().zip((0..values.len() as u8).rev()) {
                // Behind the others, and the jump over `then`.
                self.push(BPF_JMP | BPF_JEQ | BPF_K, [later + 1, 0], *value);
            }
            self.skip(then.0.len());
            self.0.extend_from_slice(&then.0);
        }
    }

    fn skip(&mut self, instructions: usize) {
        self.push(BPF_JMP | BPF_JA, [0, 0], instructions as u32);
    }

    /// Ends as `cases` say for the word's value, each with code that ends, and as `otherwise` for a value that is
    /// not among them. They ascend.
    pub(super) fn select<'a>(&mut self, cases: &[(u32, &'a Code)], otherwise: &'a Code) {
        // From which value on, as the word grows, something else follows.
        let mut edges: Vec<(u32, &'a Code)> = Vec::new();
        let mut change = |at, to: &'a Code| {
            let last = edges.last().map_or(otherwise, |(_, last)| *last);
            if !std::ptr::eq(last, to) {
                edges.push((at, to));
            }
        };
        let mut next = Some(0);
        for (value, then) in cases {
            match next {
                Some(next) if next < *value => change(next, otherwise),
                _ => {}
            }
            change(*value, then);
            next = value.checked_add(1);
        }
        if let Some(next) = next {
            change(next, otherwise);
        }
        self.search(&edges, otherwise);
    }

    /// The search between `edges`; `first` is for what is below all of them.
    fn search(&mut self, edges: &[(u32, &Code)], first: &Code) {
        if edges.len() > MOST_EDGES {
            let (below, above) = edges.split_at(edges.len() / 2);
            if let Some((edge, then)) = above.first() {
                let mut code = Code::default();
                code.search(below, first);
                self.push(BPF_JMP | BPF_JGE | BPF_K, [0, 1], *edge);
                self.skip(code.0.len());
                self.0.append(&mut code.0);
                self.search(above.get(1..).unwrap_or_default(), then);
            }
            return;
        }
        // Questions first; then the ends of one instruction and jumps to the others, which all of them reach.
        let mut ends: Vec<&Code> = Vec::new();
        for end in std::iter::once(&first).chain(edges.iter().map(|(_, end)| end)) {
            if !ends.iter().any(|known| std::ptr::eq(*known, *end)) {
                ends.push(end);
            }
        }
        let mut questions = Vec::new();
        ask(&mut questions, edges, first);
        let count = questions.len();
        for (at, (edge, branches)) in questions.into_iter().enumerate() {
            let offset = |branch| match branch {
                Branch::Question(to) => to - at - 1,
                Branch::End(end) => {
                    let place = ends.iter().position(|known| std::ptr::eq(*known, end));
                    count + place.unwrap_or(0) - at - 1
                }
            };
            // Not more than `2 * MOST_EDGES`.
            let branches = branches.map(|branch| offset(branch) as u8);
            self.push(BPF_JMP | BPF_JGE | BPF_K, branches, edge);
        }
        let mut long = Code::default();
        for (at, end) in ends.iter().enumerate() {
            match end.0.as_slice() {
                [one] => self.0.push(*one),
                code => {
                    self.skip(ends.len() - at - 1 + long.0.len());
                    long.0.extend_from_slice(code);
                }
            }
        }
        self.0.append(&mut long.0);
    }
}

/// With as many ends, each is within a jump's reach.
const MOST_EDGES: usize = 127;

/// Where a question leads.
#[derive(Clone, Copy)]
enum Branch<'a> {
    /// To another one, by its place.
    Question(usize),
    End(&'a Code),
}

/// Adds the questions that decide between `edges`, each with where it leads if the word is not below its edge, and if it
/// is; returns where they begin.
fn ask<'a>(
    questions: &mut Vec<(u32, [Branch<'a>; 2])>,
    edges: &[(u32, &'a Code)],
    first: &'a Code,
) -> Branch<'a> {
    let (below, above) = edges.split_at(edges.len() / 2);
    let Some((edge, then)) = above.first() else { return Branch::End(first) };
    let at = questions.len();
    questions.push((*edge, [Branch::End(first); 2]));
    let below = ask(questions, below, first);
    let above = ask(questions, above.get(1..).unwrap_or_default(), then);
    if let Some((_, branches)) = questions.get_mut(at) {
        *branches = [above, below];
    }
    Branch::Question(at)
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

/// Instructions until a filter ends for a call, or asks for its arguments.
#[cfg(test)]
pub(super) fn steps(code: &[sock_filter], number: u32, architecture: u32) -> usize {
    let (mut at, mut word) = (0_usize, 0_u32);
    for step in 1.. {
        let insn = code[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { insn.jt } else { insn.jf });
        match u32::from(insn.code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => match insn.k {
                NUMBER => word = number,
                ARCHITECTURE => word = architecture,
                _ => return step,
            },
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(word == insn.k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(word >= insn.k),
            code if code == BPF_JMP | BPF_JA => at += insn.k as usize,
            _ => return step,
        }
    }
    unreachable!("every path ends")
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
            let [mut inside, mut outside] = [Code::default(), Code::default()];
            inside.result(1);
            outside.result(2);
            let cases: Vec<_> = list.iter().map(|value| (*value, &inside)).collect();
            code.select(&cases, &outside);
            let asked = (0..1300).chain([u32::MAX - 1, u32::MAX]);
            for number in asked {
                let expected = if list.contains(&number) { 1 } else { 2 };
                assert_eq!(run(&code.0, &with_number(number)), expected, "{number}");
            }
        }
    }

    #[test]
    fn each_number_of_a_list_has_an_end_of_its_own() {
        // Neighbours, holes, and ends that need long jumps.
        let ends: Vec<(u32, Code)> = [0, 1, 2, 5, 6, 40, u32::MAX]
            .into_iter()
            .map(|value| {
                let mut end = Code::default();
                (0..value.min(300)).for_each(|_| end.load(NUMBER));
                end.result(value / 2 + 10);
                (value, end)
            })
            .collect();
        let cases: Vec<_> = ends.iter().map(|(value, end)| (*value, end)).collect();
        let mut outside = Code::default();
        outside.result(2);
        let mut code = Code::default();
        code.load(NUMBER);
        code.select(&cases, &outside);
        for number in (0..100).chain([u32::MAX - 1, u32::MAX]) {
            let expected =
                if cases.iter().any(|(value, _)| *value == number) { number / 2 + 10 } else { 2 };
            assert_eq!(run(&code.0, &with_number(number)), expected, "{number}");
        }
    }

    #[test]
    fn one_of_several_values_is_found_wherever_it_is_among_them() {
        for length in [1, 2, 128, 129, 300] {
            let values: Vec<u32> = (0..length).map(|value| value * 2).collect();
            let mut then = Code::default();
            then.result(1);
            let mut code = Code::default();
            code.load(NUMBER);
            code.if_one_of(&values, &then);
            code.result(2);
            for number in 0..2 * length + 2 {
                let expected = if values.contains(&number) { 1 } else { 2 };
                assert_eq!(run(&code.0, &with_number(number)), expected, "{number} of {length}");
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
