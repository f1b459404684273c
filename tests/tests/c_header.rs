//! `guest-sdk/include/spacejmp.h` agrees with `abi`, compiles on its own as C and as C++ with
//! all warnings, and works outside a VM as far as possible.

use std::fmt::Write;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use abi::call::{ALL, AT_SPACEJMP, CALL_HYPER};
use abi::objects::{SegParams, SegRoot, SegStat, VasStat, attach, seg_ctl, vas_ctl};

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/include/spacejmp.h")
}

fn is_there(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The program compiled from `source`. The folder lives as long as the program.
fn compile(
    compiler: &str,
    flags: &[&str],
    name: &str,
    source: &str,
) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (file, program) = (folder.path().join(name), folder.path().join("program"));
    fs::write(&file, source).expect("write the source");
    let output = Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-static", "-I"])
        .arg(header().parent().expect("the header is in a folder"))
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|err| panic!("cannot run {compiler}: {err}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler} {flags:?}:\n{complaint}\n{source}");
    (folder, program)
}

/// Compares every number and layout of the header with `abi`, at compile time.
fn twin() -> String {
    let mut source =
        String::from("#define SPACEJMP_HEADER_ONLY\n#include <spacejmp.h>\n#include <stdio.h>\n");
    let mut same = |what: &str, value: u64| {
        writeln!(source, "SJ_STATIC_ASSERT({what} == {value:#x}u, \"abi has another {what}\");")
            .expect("a String takes everything");
    };
    for &(number, name) in ALL {
        same(&format!("SJ_CALL_{}", name.to_uppercase()), u64::from(number));
    }
    same("AT_SPACEJMP", AT_SPACEJMP);
    same("SJ_CALL_HYPER", u64::from(CALL_HYPER));
    same("VAS_ATTACH_READ_ONLY", attach::READ_ONLY);
    same("VAS_ATTACH_NO_TAG", attach::NO_TAG);
    same("VAS_ATTACH_POPULATE", attach::POPULATE);
    same("VAS_ATTACH_OWNED", attach::OWNED);
    same("VAS_ATTACH_PINNED", attach::PINNED);
    same("VAS_CTL_SET_MODE", vas_ctl::SET_MODE);
    same("VAS_CTL_SET_TAGGED", vas_ctl::SET_TAGGED);
    same("VAS_CTL_SET_INSTANCE_TAGGED", vas_ctl::SET_INSTANCE_TAGGED);
    same("SEG_CTL_SET_MODE", seg_ctl::SET_MODE);
    same("SEG_CTL_SET_LOCKABLE", seg_ctl::SET_LOCKABLE);
    same("SEG_CTL_SET_PAGES", seg_ctl::SET_PAGES);
    same("SEG_CTL_RECOVER", seg_ctl::RECOVER);
    same("SEG_CTL_MARK_INCONSISTENT", seg_ctl::MARK_INCONSISTENT);
    same("SEG_CTL_SET_DURABILITY", seg_ctl::SET_DURABILITY);
    same("SEG_CTL_SET_LIFETIME", seg_ctl::SET_LIFETIME);
    same("SEG_READ", abi::Right::Read.raw());
    same("SEG_WRITE", abi::Right::Write.raw());
    same("SEG_PAGES_LARGEST", abi::objects::PagePolicy::Largest as u64);
    same("SEG_PAGES_4K", abi::objects::PagePolicy::Small4K as u64);
    same("SEG_PAGES_2M", abi::objects::PagePolicy::Large2M as u64);
    same("SEG_PERSISTENT", abi::objects::Lifetime::Persistent as u64);
    same("SEG_VOLATILE", abi::objects::Lifetime::Volatile as u64);
    same("SEG_VERSIONED", abi::objects::Lifetime::Versioned as u64);
    same("SJ_NAME_MAX", abi::objects::NAME_MAX_BYTES as u64);
    same("sizeof(struct seg_params)", size_of::<SegParams>() as u64);
    same("SEG_DURABLE_EACH", abi::objects::Durability::Each.raw().into());
    same("SEG_DURABLE_MANUAL", abi::objects::Durability::Manual.raw().into());
    let mut offset = |field: &str, value: usize| {
        let (object, field) = field.split_once('.').expect("a field of a structure");
        same(&format!("offsetof(struct {object}, {field})"), value as u64);
    };
    offset("seg_params.base", offset_of!(SegParams, base));
    offset("seg_params.size_bytes", offset_of!(SegParams, size_bytes));
    offset("seg_params.reserve_bytes", offset_of!(SegParams, reserve_bytes));
    offset("seg_params.mode", offset_of!(SegParams, mode));
    offset("seg_params.lifetime", offset_of!(SegParams, lifetime));
    offset("seg_params.pages", offset_of!(SegParams, pages));
    offset("seg_params.lockable", offset_of!(SegParams, lockable));
    offset("seg_params.durability", offset_of!(SegParams, durability));
    offset("seg_stat.durability", offset_of!(SegStat, durability));
    offset("seg_stat.base", offset_of!(SegStat, base));
    offset("seg_stat.size_bytes", offset_of!(SegStat, size_bytes));
    offset("seg_stat.reserve_bytes", offset_of!(SegStat, reserve_bytes));
    offset("seg_stat.stored_bytes", offset_of!(SegStat, stored_bytes));
    offset("seg_stat.mode", offset_of!(SegStat, mode));
    offset("seg_stat.lifetime", offset_of!(SegStat, lifetime));
    offset("seg_stat.pages", offset_of!(SegStat, pages));
    offset("seg_stat.lockable", offset_of!(SegStat, lockable));
    offset("seg_stat.dirty", offset_of!(SegStat, dirty));
    offset("seg_stat.inconsistent", offset_of!(SegStat, inconsistent));
    offset("seg_stat.access", offset_of!(SegStat, access));
    offset("seg_stat.attachers", offset_of!(SegStat, attachers));
    offset("seg_stat.name", offset_of!(SegStat, name));
    offset("vas_stat.mode", offset_of!(VasStat, mode));
    offset("vas_stat.segments", offset_of!(VasStat, segments));
    offset("vas_stat.attachers", offset_of!(VasStat, attachers));
    offset("vas_stat.tagged", offset_of!(VasStat, tagged));
    offset("vas_stat.access", offset_of!(VasStat, access));
    offset("vas_stat.name", offset_of!(VasStat, name));
    offset("seg_root.fingerprint", offset_of!(SegRoot, fingerprint));
    // Outside a VM: errors by C's conventions, and no call made.
    source.push_str(
        "int main(void) {\n\
         if (vas_find(\"a\") != 0 || errno != ENOSYS) return 1;\n\
         errno = 0;\n\
         if (vas_attach(1, 0) != -1 || errno != ENOSYS) return 2;\n\
         errno = 0;\n\
         if (vas_switch(VAS_HOME) != -1 || errno != ENOSYS) return 3;\n\
         if (sj_call(SJ_CALL_NULL | SJ_CALL_HYPER, 0, 0, 0, 0, 0, 0) != -ENOSYS) return 4;\n\
         puts(\"same\");\n\
         return 0;\n}\n",
    );
    source
}

#[track_caller]
fn prints_same(program: &Path) {
    let output = Command::new(program).output().expect("start the program");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"same\n");
}

#[test]
fn numbers_and_layouts_are_those_of_abi_in_c() {
    for optimise in ["-O0", "-O2"] {
        let (_folder, program) = compile("cc", &["-std=gnu11", optimise], "twin.c", &twin());
        prints_same(&program);
    }
    let (_folder, program) = compile("cc", &["-std=c11", "-O2"], "twin.c", &twin());
    prints_same(&program);
}

#[test]
fn numbers_and_layouts_are_those_of_abi_in_cxx() {
    if !is_there("c++") {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    for standard in ["-std=c++11", "-std=c++20"] {
        let (_folder, program) = compile("c++", &[standard, "-O2"], "twin.cc", &twin());
        prints_same(&program);
    }
}

#[test]
fn every_call_has_a_number_and_a_function() {
    let text = fs::read_to_string(header()).expect("read the header");
    let defined: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#define SJ_CALL_"))
        .filter(|rest| rest.split_whitespace().nth(1).is_some_and(|n| n.starts_with("0x534a")))
        .collect();
    assert_eq!(defined.len(), ALL.len(), "{defined:?}");
    for &(_, name) in ALL {
        let is_about_objects = name.starts_with("vas_") || name.starts_with("seg_");
        let function = if is_about_objects { name.to_owned() } else { format!("sj_{name}") };
        let found = text.lines().any(|line| {
            line.starts_with("static inline ") && line.contains(&format!(" {function}("))
        });
        assert!(found, "the header has no function {function}");
        let declared = text
            .lines()
            .any(|line| line.starts_with("SJ_API ") && line.contains(&format!(" {function}(")));
        assert!(declared, "the header does not declare {function}");
    }
}

/// Registers, red zone and floating point survive a call made where they are in use: a function
/// that clobbers everything it may stands in for the call page.
#[test]
fn a_call_spoils_only_what_the_compiler_was_told() {
    let source = r#"
#include <sys/auxv.h>
static unsigned long stand_in_page(unsigned long type);
#define getauxval stand_in_page
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <stdio.h>
__asm__(".text\nstand_in:\n"
        "imulq $2, %rdi\nimulq $3, %rsi\nimulq $5, %rdx\nimulq $7, %r10\nimulq $11, %r8\n"
        "imulq $13, %r9\naddq %rdi, %rax\naddq %rsi, %rax\naddq %rdx, %rax\naddq %r10, %rax\n"
        "addq %r8, %rax\naddq %r9, %rax\nmovq $-1, %rcx\nmovq %rcx, %rdx\nmovq %rcx, %rsi\n"
        "movq %rcx, %rdi\nmovq %rcx, %r8\nmovq %rcx, %r9\nmovq %rcx, %r10\nmovq %rcx, %r11\n"
        "pcmpeqd %xmm0, %xmm0\npcmpeqd %xmm7, %xmm7\npcmpeqd %xmm15, %xmm15\n"
        "pushq %rcx\npushq %rcx\npushq %rcx\npushq %rcx\naddq $32, %rsp\nret\n");
extern char stand_in[];
static unsigned long stand_in_page(unsigned long type)
{
    return type == AT_SPACEJMP ? (unsigned long)(uintptr_t)stand_in : 0;
}
/* A leaf: its array lies in the red zone. */
__attribute__((noinline)) static long leaf(volatile long *in, double f)
{
    volatile long zone[8];
    for (int i = 0; i < 8; i++) zone[i] = in[i];
    long result = sj_call(1, in[0], in[1], in[2], in[3], in[4], in[5]);
    for (int i = 0; i < 8; i++) result += zone[i] == in[i] ? 0 : 1000000;
    return result + (long)(f * 2.0);
}
int main(void)
{
    volatile long in[8] = {100, 200, 300, 400, 500, 600, 700, 800};
    long expected = 1 + 200 + 600 + 1500 + 2800 + 5500 + 7800 + 3;
    long got = leaf(in, 1.5);
    if (got != expected) return printf("%ld, not %ld\n", got, expected), 1;
    puts("same");
    return 0;
}
"#;
    for optimise in ["-O0", "-O2", "-O3"] {
        let (_folder, program) = compile("cc", &["-std=gnu11", optimise], "spoil.c", source);
        prints_same(&program);
    }
}

/// The first exercise of the page on teaching ends in a crash whose report the page speaks of.
#[test]
fn the_program_of_the_first_exercise_sees_two_values_at_one_address_and_none_at_home() {
    tests::skip_without_kvm!();
    let page = include_str!("../../docs/src/teaching.md");
    let (_, source) = page.split_once("```c\n").expect("it has a program");
    let (source, _) = source.split_once("```").expect("which ends");
    let (folder, program) = compile("cc", &["-std=gnu11", "-O1"], "worlds.c", source);
    let store = folder.path().join("store");
    let ended = tests::vm::Run::new(program).store(store).in_vm();
    assert_eq!(ended.out(), "at 0x200000000000 in left: 1\n", "{ended:?}");
    let report = ended.expect_signal(libc::SIGSEGV);
    assert!(report.contains("segment `left` (+0x0) of VAS `left` or segment `right`"), "{report}");
}
