//! What a type looks like in memory, as text, and its fingerprint.
//!
//! A root object is found by programs that were compiled at other times from other sources.
//! They compare fingerprints, 128 bits of the text; when those differ, the texts of both
//! sides say what it is. The text is a tree, one line for each type, field and variant:
//!
//! ```text
//! struct Notes (40 bytes, align 8)
//!   next +0: u64 (8 bytes, align 8)
//!   first +8: Option (8 bytes, align 8)
//!     VBox version 1 (8 bytes, align 8)
//!       struct Note (16 bytes, align 8)
//!         text +0: u64 (8 bytes, align 8)
//!         after +8: Option, as line 3
//! ```
//!
//! A type that occurs again refers to its first line, so recursive types end. Names of fields
//! and types are part of it (two numbers that change places are another type), names of
//! modules, crates, brands and lifetimes are not: two programs may each have a copy of the
//! source.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt::{self, Write as _};

use crate::brand::Brand;
use crate::storable::Storable;
use crate::type_id;

/// 128 bits that stand for a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u64; 2]);

impl Fingerprint {
    /// Of a text: FNV-1a with 128 bits. It detects mistakes; no attacker gains by a collision.
    #[must_use]
    pub fn of(text: &str) -> Fingerprint {
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = (1 << 88) + 0x13b;
        let hash =
            text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
        Fingerprint([hash as u64, (hash >> 64) as u64])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[1], self.0[0])
    }
}

/// The layout of a type in `V`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeLayout {
    text: String,
}

impl TypeLayout {
    /// The layout of `T`.
    #[must_use]
    pub fn of<T: Storable<V>, V: Brand>() -> TypeLayout {
        TypeLayout::written(|writer| writer.part::<T, V>(format_args!("")))
    }

    /// The layout that `describe` writes.
    pub(crate) fn written(describe: impl FnOnce(&mut LayoutWriter)) -> TypeLayout {
        let mut writer = LayoutWriter::default();
        describe(&mut writer);
        TypeLayout { text: writer.text }
    }

    /// The layout of a brand's root object.
    #[must_use]
    pub fn of_root<V: Brand>() -> TypeLayout {
        TypeLayout::of::<V::Root, V>()
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// In 128 bits.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.text)
    }

    /// The name of the type whose layout has this text.
    #[must_use]
    pub fn name_in(text: &str) -> &str {
        let line = text.lines().next().unwrap_or_default();
        line.split(" (").next().unwrap_or(line)
    }

    /// The name of the type whose layout has this text, without its version, and the version.
    #[must_use]
    pub fn versioned_name_in(text: &str) -> (&str, u32) {
        let name = TypeLayout::name_in(text);
        match name.rsplit_once(" version ").map(|(name, version)| (name, version.parse())) {
            Some((name, Ok(version))) => (name, version),
            _ => (name, 1),
        }
    }

    /// The first lines that differ, each with the fields that lead to it; empty where one text has
    /// ended.
    #[must_use]
    pub fn first_difference(ours: &str, theirs: &str) -> (String, String) {
        let lines = ours.lines().zip(theirs.lines());
        let same = lines.take_while(|(ours, theirs)| ours == theirs).count();
        (path_to(ours, same), path_to(theirs, same))
    }
}

impl TypeLayout {
    /// What a later layout of a type has in place of an earlier one's fields and variants, each in a line.
    #[must_use]
    pub fn changes(earlier: &str, later: &str) -> Vec<String> {
        let (before, after) = (parts(earlier), parts(later));
        let of = |parts: &[Part], name: &str| parts.iter().find(|part| part.name == name).cloned();
        let mut changes = Vec::new();
        for part in &before {
            match of(&after, &part.name) {
                None => changes.push(format!("gone: {}", part.first_line())),
                Some(now) if now.text != part.text => {
                    let (now, then) = TypeLayout::first_difference(&now.text, &part.text);
                    let ended =
                        |line: String| if line.is_empty() { "nothing".to_owned() } else { line };
                    let (now, then) = (ended(now), ended(then));
                    changes.push(format!("changed: {} > {now}; it was {then}", part.name));
                }
                Some(_) => {}
            }
        }
        let new = after.iter().filter(|part| of(&before, &part.name).is_none());
        changes.extend(new.map(|part| format!("new: {}", part.first_line())));
        changes
    }
}

/// A field or variant of the outermost type.
#[derive(Clone)]
struct Part {
    name: String,
    /// What it is, with all below it, but not where it lies.
    text: String,
}

impl Part {
    fn first_line(&self) -> String {
        format!("{}: {}", self.name, self.text.lines().next().unwrap_or_default())
    }
}

/// The parts of a layout's outermost type. Which line another one refers to is left out: it differs
/// where nothing else does.
fn parts(text: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in text.lines().skip(1) {
        let line = line.split(", as line ").next().unwrap_or(line);
        let Some(line) = line.strip_prefix("  ") else { continue };
        match parts.last_mut() {
            Some(part) if line.starts_with(' ') => {
                part.text.push('\n');
                part.text.push_str(line);
            }
            _ => {
                // `name +8: type`, `Variant = 3`, or a type without a label.
                let (name, rest) = line.split_once([' ', '(']).unwrap_or((line, ""));
                let rest = match rest.strip_prefix('+').and_then(|rest| rest.split_once(": ")) {
                    Some((_, what)) => what,
                    None => rest,
                };
                parts.push(Part { name: name.to_owned(), text: rest.to_owned() });
            }
        }
    }
    parts
}

/// Line `number` (from 0) of a layout and the names it is under.
fn path_to(text: &str, number: usize) -> String {
    let lines: Vec<&str> = text.lines().take(number.saturating_add(1)).collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let Some(last) = lines.get(number) else { return String::new() };
    let (mut path, mut under) = (last.trim().to_owned(), depth(last));
    for line in lines.iter().rev().skip(1) {
        if depth(line) < under {
            under = depth(line);
            let name = line.trim().split([' ', '(']).next().unwrap_or_default();
            // Lines without a label are the types of the fields above them.
            if line.contains(" +") {
                path = format!("{name} > {path}");
            }
        }
    }
    path
}

/// Writes a layout; passed to implementations of [`Storable`].
#[derive(Debug, Default)]
pub struct LayoutWriter {
    text: String,
    lines: usize,
    depth: usize,
    label: String,
    seen: HashMap<TypeId, (usize, String)>,
}

impl LayoutWriter {
    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = 2 * self.depth);
        self.lines += 1;
    }

    /// Describes the type `T`, which is called `name`; `inner` describes what it consists of.
    /// To be called exactly once by [`Storable::layout`], with the type itself.
    pub fn describe<T>(&mut self, name: impl fmt::Display, inner: impl FnOnce(&mut LayoutWriter)) {
        let label = std::mem::take(&mut self.label);
        let type_id = type_id::of::<T>();
        if let Some((line, name)) = self.seen.get(&type_id) {
            let text = format!("{label}{name}, as line {line}");
            return self.line(format_args!("{text}"));
        }
        self.seen.insert(type_id, (self.lines + 1, name.to_string()));
        let (size, align) = (size_of::<T>(), align_of::<T>());
        self.line(format_args!("{label}{name} ({size} bytes, align {align})"));
        self.depth += 1;
        inner(self);
        self.depth -= 1;
    }

    /// A part of the type that is being described, of type `T`, introduced by `label`.
    pub fn part<T: Storable<V>, V: Brand>(&mut self, label: fmt::Arguments<'_>) {
        self.label(label);
        T::layout(self);
    }

    /// Introduces the type that is described next.
    pub(crate) fn label(&mut self, label: fmt::Arguments<'_>) {
        self.label = label.to_string();
    }

    /// A field of the type that is being described.
    pub fn field<T: Storable<V>, V: Brand>(&mut self, name: &str, offset: usize) {
        self.part::<T, V>(format_args!("{name} +{offset}: "));
    }

    /// A variant of the enum that is being described; `inner` describes its fields.
    pub fn variant(
        &mut self,
        name: &str,
        discriminant: i128,
        inner: impl FnOnce(&mut LayoutWriter),
    ) {
        self.line(format_args!("{name} = {discriminant}"));
        self.depth += 1;
        inner(self);
        self.depth -= 1;
    }
}

/// What is told the fields and variants of a type, by what `#[derive(Storable)]` makes of it. Fields' types are inferred from the paths to them.
#[doc(hidden)]
pub trait Parts<V: Brand> {
    /// It is an enum, `S`, that begins with the number of its variant, in so many bytes if that is known.
    fn tag<S>(&mut self, bytes: Option<usize>);

    /// A field of a struct.
    fn field_of<S, T: Storable<V>>(&mut self, name: &'static str, offset: usize, way: fn(&S) -> &T);

    /// A field of a variant.
    fn field_of_variant<S, T: Storable<V>>(
        &mut self,
        name: &'static str,
        offsets: &mut VariantOffsets,
        way: fn(&S) -> Option<&T>,
    );

    /// A variant; `inner` tells its fields.
    fn variant(&mut self, name: &'static str, discriminant: i128, inner: impl FnOnce(&mut Self));
}

impl<V: Brand> Parts<V> for LayoutWriter {
    fn tag<S>(&mut self, _bytes: Option<usize>) {}

    fn field_of<S, T: Storable<V>>(
        &mut self,
        name: &'static str,
        offset: usize,
        _way: fn(&S) -> &T,
    ) {
        self.field::<T, V>(name, offset);
    }

    fn field_of_variant<S, T: Storable<V>>(
        &mut self,
        name: &'static str,
        offsets: &mut VariantOffsets,
        _way: fn(&S) -> Option<&T>,
    ) {
        self.field::<T, V>(name, offsets.next::<T>());
    }

    fn variant(
        &mut self,
        name: &'static str,
        discriminant: i128,
        inner: impl FnOnce(&mut LayoutWriter),
    ) {
        LayoutWriter::variant(self, name, discriminant, inner);
    }
}

/// The alignment of the field that a path leads to.
#[doc(hidden)]
#[must_use]
pub fn align_of_field<S, T>(_way: fn(&S) -> Option<&T>) -> usize {
    align_of::<T>()
}

/// Offsets of a variant's fields, which C's rules give one after another.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct VariantOffsets(usize);

impl VariantOffsets {
    /// Fields begin at `start` or after it.
    #[must_use]
    pub const fn new(start: usize) -> VariantOffsets {
        VariantOffsets(start)
    }

    /// Where the next field, a `T`, lies.
    #[must_use]
    pub const fn next<T>(&mut self) -> usize {
        let offset = self.0.next_multiple_of(align_of::<T>());
        self.0 = offset + size_of::<T>();
        offset
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Storable, VBox, brand};

    brand! { Vas => u8, Other => u8 }

    #[derive(Storable)]
    #[storable(vas = V)]
    struct Node<T, V: Brand> {
        value: T,
        next: Option<VBox<Node<T, V>, V>>,
    }

    #[derive(Storable)]
    #[repr(u8)]
    #[expect(dead_code, reason = "only its layout matters")]
    enum Shape {
        Point,
        Circle { radius: u32 } = 5,
        Box(u8, u64),
    }

    #[derive(Storable)]
    #[repr(C)]
    #[expect(dead_code, reason = "only its layout matters")]
    enum Tagged {
        Small(u8),
        Large(u8, u64),
    }

    #[test]
    fn a_recursive_type_is_described_once() {
        let layout = TypeLayout::of::<Node<u32, Vas>, Vas>();
        let expected = "struct Node (16 bytes, align 8)\n  value +8: u32 (4 bytes, align 4)\n  \
                        next +0: Option (8 bytes, align 8)\n    VBox version 1 (8 bytes, align 8)\
                        \n      struct Node, as line 1\n";
        assert_eq!(layout.text(), expected);
        assert_eq!(TypeLayout::name_in(layout.text()), "struct Node");
    }

    #[test]
    fn brands_are_no_part_of_a_layout() {
        let of_other = TypeLayout::of::<Node<u32, Other>, Other>();
        assert_eq!(TypeLayout::of::<Node<u32, Vas>, Vas>(), of_other);
    }

    #[test]
    fn variants_lie_where_the_representation_says() {
        let text = TypeLayout::of::<Shape, Vas>().text().to_owned();
        let expected = "enum Shape (16 bytes, align 8)\n  Point = 0\n  Circle = 5\n    radius +4: u32 \
                        (4 bytes, align 4)\n  Box = 6\n    0 +1: u8 (1 bytes, align 1)\n    1 +8: u64 \
                        (8 bytes, align 8)\n";
        assert_eq!(text, expected);
        let text = TypeLayout::of::<Tagged, Vas>().text().to_owned();
        assert!(text.contains("Small = 0\n    0 +8: u8"), "{text}");
        assert!(text.contains("1 +16: u64"), "{text}");
    }

    #[expect(non_upper_case_globals, reason = "names that a derive might have taken for its own")]
    mod names {
        use super::*;

        const writer: u8 = 1;
        const start: u8 = 2;
        const offset: u8 = 3;
        const it: u8 = 4;
        const D_First: u8 = writer + start + offset + it;

        #[derive(Storable)]
        pub(super) struct Generic<__V>(__V);

        #[derive(Storable)]
        #[repr(u8)]
        #[expect(dead_code, reason = "only its layout matters")]
        pub(super) enum Numbered {
            First { offset: u8 } = D_First,
            Second(u16),
        }

        #[derive(Storable)]
        pub(super) enum Plain {
            First = -3,
            Second,
            Third = D_First as isize,
        }
    }

    #[test]
    fn a_derive_takes_no_name_from_the_user() {
        let text = TypeLayout::of::<names::Generic<u8>, Vas>().text().to_owned();
        assert!(text.contains("0 +0: u8"), "{text}");
        let text = TypeLayout::of::<names::Numbered, Vas>().text().to_owned();
        assert!(text.contains("First = 10\n    offset +1: u8"), "{text}");
        assert!(text.contains("Second = 11\n    0 +2: u16"), "{text}");
        let text = TypeLayout::of::<names::Plain, Vas>().text().to_owned();
        assert!(text.contains("First = -3\n  Second = -2\n  Third = 10\n"), "{text}");
    }

    #[test]
    fn an_option_whose_none_a_compiler_may_write_in_several_ways_names_the_compiler() {
        let first = |text: &TypeLayout| TypeLayout::name_in(text.text()).to_owned();
        for compiler_s_choice in [
            TypeLayout::of::<Option<bool>, Vas>(),
            TypeLayout::of::<Option<(u8, Option<char>)>, Vas>(),
        ] {
            assert!(first(&compiler_s_choice).starts_with("Option with a niche of rustc "));
        }
        for promised in [
            TypeLayout::of::<Option<u8>, Vas>(),
            TypeLayout::of::<Option<std::num::NonZero<u8>>, Vas>(),
            TypeLayout::of::<Option<VBox<u8, Vas>>, Vas>(),
        ] {
            assert_eq!(first(&promised), "Option");
        }
    }

    #[test]
    fn a_difference_is_told_with_the_fields_that_lead_to_it() {
        let ours = TypeLayout::of::<(u32, Node<[u32; 2], Vas>), Vas>();
        let theirs = TypeLayout::of::<(u32, Node<[f32; 2], Vas>), Vas>();
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
        let (ours, theirs) = TypeLayout::first_difference(ours.text(), theirs.text());
        assert_eq!(ours, "1 > value > u32, as line 2");
        assert_eq!(theirs, "1 > value > f32 (4 bytes, align 4)");
    }

    mod later {
        use super::*;

        #[derive(Storable)]
        #[storable(vas = V)]
        pub(super) struct Node<V: Brand> {
            first: u8,
            value: VBox<[f32; 2], V>,
            next: Option<VBox<Node<V>, V>>,
        }
    }

    mod before {
        use super::*;

        #[derive(Storable)]
        #[storable(vas = V)]
        pub(super) struct Node<V: Brand> {
            value: VBox<[u32; 2], V>,
            next: Option<VBox<Node<V>, V>>,
            gone: Duration,
        }
    }

    #[test]
    fn changes_are_told_by_field_whatever_moves_and_with_the_way_to_them() {
        let before = TypeLayout::of::<before::Node<Vas>, Vas>();
        let later = TypeLayout::of::<later::Node<Vas>, Vas>();
        let expected = [
            "changed: value > f32 (4 bytes, align 4); it was u32 (4 bytes, align 4)",
            "gone: gone: Duration (16 bytes, align 8)",
            "new: first: u8 (1 bytes, align 1)",
        ];
        assert_eq!(TypeLayout::changes(before.text(), later.text()), expected);
        assert!(TypeLayout::changes(later.text(), later.text()).is_empty());
        let variants = TypeLayout::changes(
            "enum A (1 bytes)\n  X = 0\n  Y = 1\n",
            "enum A (1)\n  X = 0\n  Z = 1\n",
        );
        assert_eq!(variants, ["gone: Y: = 1", "new: Z: = 1"]);
    }

    #[test]
    fn the_fingerprint_is_fnv_1a() {
        // Known answers: the empty text and "a".
        assert_eq!(Fingerprint::of("").to_string(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Fingerprint::of("a").to_string(), "d228cb696f1a8caf78912b704e4a8964");
    }
}
