//! Tables by hand, damaged ones, and this test's own.

use proptest::prelude::{any, prop, proptest};

use super::{PATH_MAX, Program, SourceLine, lines, read_table, shown};

/// A unit of version 4 or 5 with two files, `a.c` where the compiler ran and `/inc/b.h`, and this program.
fn unit(version: u16, program: &[u8]) -> Vec<u8> {
    let mut header = vec![1, 1, 1, 0xfb, 14, 13];
    header.extend([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    if version == 5 {
        // A list of paths; two of paths, by offset, with their directories and a checksum.
        header.extend([1, 1, 0x08, 2]);
        header.extend(b"/home\0/inc\0");
        header.extend([3, 1, 0x1f, 2, 0x0b, 5, 0x1e, 3]);
        for (name, directory) in [(0_u32, 0), (0, 0), (4, 1)] {
            header.extend(name.to_le_bytes());
            header.push(directory);
            header.extend([0xaa; 16]);
        }
    } else {
        header.extend(b"/inc\0\0a.c\0\0\0\0b.h\0\x01\x80\x01\x05\0");
    }
    let mut unit = version.to_le_bytes().to_vec();
    if version == 5 {
        unit.extend([8, 0]);
    }
    unit.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    unit.extend(header);
    unit.extend(program);
    [&u32::try_from(unit.len()).unwrap().to_le_bytes()[..], &unit].concat()
}

/// From `at` on: 4 bytes of line 10 of file 1, 4 of line 12 of file 2, then nothing.
fn program(at: u64) -> Vec<u8> {
    let mut program = vec![0, 9, 2];
    program.extend(at.to_le_bytes());
    // Nine lines down, a row; four bytes and a line on as a special one; the other file; the end.
    program.extend([3, 9, 1, 4, 2, 13 + 4 * 14 + 5 + 2, 2, 4, 0, 1, 1]);
    program
}

fn look_up(table: &[u8], addresses: &[u64]) -> Vec<Option<String>> {
    let mut found = vec![None; addresses.len()];
    let mut wanted: Vec<_> = addresses.iter().enumerate().map(|(index, at)| (*at, index)).collect();
    wanted.sort_unstable();
    let strings = |_, offset: u64| match offset {
        0 => Some(&b"a.c"[..]),
        4 => Some(&b"b.h"[..]),
        _ => None,
    };
    read_table(table, wanted, &strings, &mut found);
    found.into_iter().map(|line: Option<SourceLine>| line.map(|line| line.to_string())).collect()
}

#[test]
fn an_address_has_the_line_of_the_row_that_holds_it() {
    for version in [2, 4, 5] {
        let mut table = unit(version, &program(0x1000));
        if version == 2 {
            // Without a number of operations.
            table = unit(4, &program(0x1000));
            table.remove(11);
            table[0] -= 1;
            table[4] = 2;
            table[6] -= 1;
        }
        let found = look_up(&table, &[0xfff, 0x1000, 0x1003, 0x1004, 0x1007, 0x1008]);
        let expected =
            [None, Some("a.c:10"), Some("a.c:10"), Some("/inc/b.h:12"), Some("/inc/b.h:12"), None];
        assert_eq!(found, expected.map(|line| line.map(str::to_owned)), "version {version}");
    }
}

#[test]
fn units_follow_each_other_and_damaged_ones_are_left_out() {
    let mut damaged = unit(4, &program(0x2000));
    damaged[4] = 77;
    let table = [unit(5, &program(0x1000)), damaged, unit(4, &program(0x3000))].concat();
    let found = look_up(&table, &[0x3004, 0x1000, 0x2000]);
    let expected = [Some("/inc/b.h:12".to_owned()), Some("a.c:10".to_owned()), None];
    assert_eq!(found, expected);
}

#[test]
fn code_that_was_left_out_holds_nothing() {
    assert_eq!(look_up(&unit(4, &program(0)), &[0, 3, 5]), [None, None, None]);
}

#[test]
fn lists_without_bytes_and_numbers_without_end_take_no_time() {
    // No format, and as many entries as there are numbers.
    let mut table = unit(5, &program(0x1000));
    let format = table.windows(2).position(|it| it == [1, 1]).unwrap();
    assert!(look_up(&table, &[0x1004])[0].is_some());
    let list = table.windows(5).position(|it| it == b"/home").unwrap() - 4;
    assert!(format < list);
    table[list] = 0;
    table[list + 1..list + 10].fill(0xff);
    assert_eq!(look_up(&table, &[0x1004]), [None]);
    // A file far behind the last.
    let mut far = program(0x1000);
    let file = far.iter().position(|byte| *byte == 4).unwrap();
    far.splice(file + 1..=file + 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    for version in [4, 5] {
        assert_eq!(look_up(&unit(version, &far), &[0x1004]), [None]);
    }
    // The lowest number, in more bytes than it needs.
    let mut low = program(0x1000);
    let line = low.windows(2).position(|it| it == [3, 9]).unwrap() + 1;
    low.splice(
        line..=line,
        [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xff, 0x80, 0x7f],
    );
    let _ = look_up(&unit(4, &low), &[0x1000]);
}

#[test]
fn a_path_is_printable_and_its_end_is_shown() {
    assert_eq!(shown(b"a\x1b[31m\n/b.c"), "a?[31m?/b.c");
    let long = shown(&[b'x'; 5000]);
    assert!(long.starts_with("...x") && long.len() == PATH_MAX + 3);
}

#[test]
fn this_test_finds_its_own_line() {
    let file = std::fs::read("/proc/self/exe").unwrap();
    let function = Program::parse as fn(_, _) -> _ as usize as u64;
    let path = std::env::current_exe().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_us = |line: &&str| {
        line.ends_with(path.to_str().unwrap()) && line.split(' ').nth(2) == Some("00000000")
    };
    let start = |line: &str| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let starts = maps.lines().filter(of_us).map(start);
    let base = starts.filter(|&start| start <= function).max().unwrap();
    let found = lines(&*file, &[function - base, 1]);
    let line = found[0].as_ref().expect("tests have the lines of their code");
    assert!(line.file.ends_with("src/report/lines/mod.rs"), "{line}");
    let source = include_str!("mod.rs");
    let at = usize::try_from(line.line).unwrap();
    assert!(source.lines().nth(at - 1).unwrap().contains("fn parse(mut unit"), "{line}");
    assert_eq!(found[1], None);
}

proptest! {
    #[test]
    fn no_table_and_no_file_panics(
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        version in 4_u16..6,
    ) {
        let _ = lines(garbage.as_slice(), &[0, 0x1000]);
        let _ = look_up(&garbage, &[0x1000]);
        let _ = look_up(&unit(version, &garbage), &[0x1000, 0]);
        let mut table = unit(version, &program(0x1000));
        for (index, byte) in damage {
            let index = index.index(table.len());
            table[index] = byte;
        }
        let _ = look_up(&table, &[0x1000, 0x1004, u64::MAX]);
    }
}
