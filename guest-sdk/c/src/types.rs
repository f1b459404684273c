//! Descriptions of C types, as the text that the crate `spacejmp` produces for the same type in
//! Rust.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::fmt::Write;

use abi::Errno;

/// `struct sj_type`.
#[repr(C)]
pub(crate) struct Type {
    name: *const c_char,
    size: u64,
    align: u64,
    fields: *const Field,
    field_count: u64,
}

/// `struct sj_field`.
#[repr(C)]
struct Field {
    name: *const c_char,
    offset: u64,
    of: *const Type,
    kind: u32,
    count: u32,
}

// SAFETY: the library's own are constant, and no thread writes to a program's.
unsafe impl Sync for Type {}

const KIND_PLAIN: u32 = 0;
const KIND_ARRAY: u32 = 1;
const KIND_SHARED: u32 = 2;
const KIND_OWNED: u32 = 3;

/// Deeper or longer ones are mistakes.
const MAX_DEPTH: usize = 64;
const MAX_FIELDS: u64 = 4096;

macro_rules! numbers {
    ($($symbol:ident = $type:ty, $name:literal;)*) => {$(
        #[unsafe(no_mangle)]
        static $symbol: Type = Type {
            name: $name.as_ptr(),
            size: size_of::<$type>() as u64,
            align: align_of::<$type>() as u64,
            fields: std::ptr::null(),
            field_count: 0,
        };
    )*};
}

numbers! {
    sj_u8 = u8, c"u8";
    sj_u16 = u16, c"u16";
    sj_u32 = u32, c"u32";
    sj_u64 = u64, c"u64";
    sj_i8 = i8, c"i8";
    sj_i16 = i16, c"i16";
    sj_i32 = i32, c"i32";
    sj_i64 = i64, c"i64";
    sj_f32 = f32, c"f32";
    sj_f64 = f64, c"f64";
}

/// Types are the same if they have the same address; pointers and arrays have no address of their
/// own.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Identity {
    Itself(*const Type),
    Array(*const Type, u32),
    Option(*const Type, u32),
    Pointer(*const Type, u32),
}

#[derive(Default)]
struct Writer {
    text: String,
    lines: usize,
    depth: usize,
    seen: HashMap<Identity, (usize, String)>,
}

/// The text of a type.
///
/// # Safety
/// It is made of what the macros of `spacejmp.h` make, or NULL.
pub(crate) unsafe fn text_of(of: *const Type) -> Result<String, Errno> {
    let mut writer = Writer::default();
    // SAFETY: the caller's promise.
    unsafe { writer.itself(of, "") }?;
    Ok(writer.text)
}

impl Writer {
    /// A type: its first line, and what `inner` writes below it unless it is there already.
    fn entry(
        &mut self,
        identity: Identity,
        label: &str,
        name: &str,
        (size, align): (u64, u64),
        inner: impl FnOnce(&mut Writer) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let again = self.seen.get(&identity);
        let text = match again {
            Some((line, name)) => format!("{name}, as line {line}"),
            None => format!("{name} ({size} bytes, align {align})"),
        };
        let indent = 2 * self.depth;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{label}{text}", "");
        self.lines += 1;
        if again.is_some() {
            return Ok(());
        }
        self.seen.insert(identity, (self.lines, name.to_owned()));
        self.depth += 1;
        inner(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// A type with all its parts.
    ///
    /// # Safety
    /// As [`text_of`].
    unsafe fn itself(&mut self, of: *const Type, label: &str) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        let Some(it) = (unsafe { of.as_ref() }) else { return Err(Errno::EINVAL) };
        // SAFETY: the caller's promise.
        let mut name = unsafe { string(it.name) }?;
        let mut fields = 0;
        if !it.fields.is_null() {
            name.insert_str(0, "struct ");
            fields = it.field_count;
        }
        self.entry(Identity::Itself(of), label, &name, (it.size, it.align), |writer| {
            if writer.depth > MAX_DEPTH || it.field_count > MAX_FIELDS {
                return Err(Errno::EINVAL);
            }
            for index in 0..fields as usize {
                // SAFETY: there are that many.
                let field = unsafe { it.fields.add(index) };
                // SAFETY: as above.
                let field = unsafe { &*field };
                // SAFETY: the caller's promise.
                unsafe { writer.field(field) }?;
            }
            Ok(())
        })
    }

    /// A field.
    ///
    /// # Safety
    /// As [`text_of`].
    unsafe fn field(&mut self, field: &Field) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        let name = unsafe { string(field.name) }?;
        let label = format!("{name} +{}: ", field.offset);
        let (of, kind) = (field.of, field.kind);
        // SAFETY: the caller's promise.
        let Some(it) = (unsafe { of.as_ref() }) else { return Err(Errno::EINVAL) };
        // SAFETY: the caller's promise.
        let itself = |writer: &mut Writer| unsafe { writer.itself(of, "") };
        let pointer = match kind {
            // SAFETY: the caller's promise.
            KIND_PLAIN => return unsafe { self.itself(of, &label) },
            KIND_ARRAY => {
                let size = it.size.checked_mul(field.count.into()).ok_or(Errno::EINVAL)?;
                let (identity, name) =
                    (Identity::Array(of, field.count), format!("array of {}", field.count));
                return self.entry(identity, &label, &name, (size, it.align), itself);
            }
            KIND_SHARED => "VPtr version 1",
            KIND_OWNED => "VBox version 1",
            _ => return Err(Errno::EINVAL),
        };
        self.entry(Identity::Option(of, kind), &label, "Option", (8, 8), |writer| {
            writer.entry(Identity::Pointer(of, kind), "", pointer, (8, 8), itself)
        })
    }
}

/// A name.
///
/// # Safety
/// It is NULL or a string.
unsafe fn string(text: *const c_char) -> Result<String, Errno> {
    if text.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(str::to_owned).map_err(|_| Errno::EINVAL)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_type_text(of: *const Type, buffer: *mut c_char, size: usize) -> i64 {
    // SAFETY: `spacejmp.h` asks for a description.
    let text = unsafe { text_of(of) };
    // SAFETY: `spacejmp.h` asks for a buffer of `size` bytes.
    crate::errors::number(text.map(|text| unsafe { copy_text(&text, buffer, size) }))
}

/// Writes a text to `buffer`, with a 0 after it, truncated if it has no room. Returns its length.
///
/// # Safety
/// The buffer has `size` bytes.
pub(crate) unsafe fn copy_text(text: &str, buffer: *mut c_char, size: usize) -> u64 {
    if let Some(room) = size.checked_sub(1) {
        let count = text.len().min(room);
        // SAFETY: the caller's promise.
        unsafe { buffer.copy_from_nonoverlapping(text.as_ptr().cast(), count) };
        // SAFETY: as above; `count` is less than `size`.
        let end = unsafe { buffer.add(count) };
        // SAFETY: as above.
        unsafe { end.write(0) };
    }
    text.len() as u64
}
