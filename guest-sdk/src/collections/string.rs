//! `VString`: text in a VAS.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use super::key::VKey;
use super::vec::{VVec, VecMut};
use super::words;
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Owns text in the heap of `V`: what `String` is at home. As a key of a map it is looked up by
/// `&str`.
///
/// ```
/// use spacejmp::{Space, collections::VString};
///
/// spacejmp::brand! { Greeting => VString<Greeting> }
///
/// let space = Space::<Greeting>::in_memory(1 << 20, |at| VString::new(at, "hello"))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     root.at_mut(at).push_str(", world")?;
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// assert_eq!(space.read(|v| v.root().at(v).len())?, 12);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct VString<V: Brand> {
    /// Always UTF-8.
    bytes: VVec<u8, V>,
}

/// A [`VString`] to be changed. It derefs to the text, and `write!` appends to it.
pub struct StringMut<'a, V: Brand> {
    /// Always UTF-8.
    bytes: VecMut<'a, u8, V>,
}

/// The text in bytes of a `VString`.
#[inline]
fn text(bytes: &[u8]) -> &str {
    // SAFETY: only whole characters are ever put into a `VString`'s bytes and taken out.
    unsafe { std::str::from_utf8_unchecked(bytes) }
}

impl<V: Brand> VString<V> {
    /// A copy of `text`, which may be empty and has no memory then.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    #[inline]
    pub fn new(at: &At<V, Write>, text: &str) -> Result<VString<V>, AllocError> {
        Ok(VString { bytes: VVec::from_slice(at, text.as_bytes())? })
    }

    /// No text, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn empty() -> VString<V> {
        VString { bytes: VVec::new() }
    }

    /// The text.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a str {
        text(self.bytes.at(at))
    }

    /// The text, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> StringMut<'a, V> {
        StringMut { bytes: self.bytes.at_mut(at) }
    }

    /// The text in a box, which has a word less and does not grow. It moves if there is room for more
    /// of it.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; the text is dropped.
    pub fn into_boxed(self, at: &At<V, Write>) -> Result<VBox<str, V>, AllocError> {
        let bytes = self.bytes.into_boxed(at)?.into_pointer();
        let Some(text) = NonNull::new(bytes.as_ptr() as *mut str) else {
            unreachable!("the address of bytes is not null")
        };
        // SAFETY: the bytes are those of the box that was given up, and UTF-8.
        Ok(unsafe { VBox::of(text) })
    }

    /// How many bytes it has.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<V: Brand> StringMut<'_, V> {
    /// Appends text.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is appended.
    #[inline]
    pub fn push_str(&mut self, text: &str) -> Result<(), AllocError> {
        self.bytes.extend_from_slice(text.as_bytes())
    }

    /// Appends a character.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    #[inline]
    pub fn push(&mut self, character: char) -> Result<(), AllocError> {
        self.push_str(character.encode_utf8(&mut [0; 4]))
    }

    /// Removes the last character.
    pub fn pop(&mut self) -> Option<char> {
        let last = self.chars().next_back()?;
        let len = self.bytes.len() - last.len_utf8();
        self.bytes.truncate(len);
        Some(last)
    }

    /// Puts text before the byte at `index`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is changed.
    ///
    /// # Panics
    /// If `index` is within a character or beyond the end.
    pub fn insert_str(&mut self, index: usize, text: &str) -> Result<(), AllocError> {
        assert!(self.is_char_boundary(index), "index {index} is no boundary of a character");
        self.bytes.extend_from_slice(text.as_bytes())?;
        let tail = self.bytes.get_mut(index..).unwrap_or_default();
        tail.rotate_right(text.len());
        Ok(())
    }

    /// Truncates the text to `len` bytes.
    ///
    /// # Panics
    /// If `len` is within a character.
    pub fn truncate(&mut self, len: usize) {
        if len < self.bytes.len() {
            assert!(self.is_char_boundary(len), "length {len} is no boundary of a character");
            self.bytes.truncate(len);
        }
    }

    /// Moves the text from the byte at `index` on into a text of its own.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is moved.
    ///
    /// # Panics
    /// If `index` is within a character or beyond the end.
    pub fn split_off(&mut self, index: usize) -> Result<VString<V>, AllocError> {
        assert!(self.is_char_boundary(index), "index {index} is no boundary of a character");
        Ok(VString { bytes: self.bytes.split_off(index)? })
    }

    /// Removes all text and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Makes room for `more` bytes.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        self.bytes.reserve(more)
    }
}

/// What is written before an error stays.
impl<V: Brand> fmt::Write for StringMut<'_, V> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|_| fmt::Error)
    }
}

impl<V: Brand> Deref for StringMut<'_, V> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        text(&self.bytes)
    }
}

impl<V: Brand> fmt::Debug for StringMut<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<V: Brand> fmt::Display for StringMut<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl<V: Brand> Default for VString<V> {
    fn default() -> VString<V> {
        VString::empty()
    }
}

impl<V: Brand> fmt::Debug for VString<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VString<{}>(len {})", V::NAME, self.len())
    }
}

// SAFETY: its bytes are.
unsafe impl<V: Brand> Storable<V> for VString<V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VString version 1", |writer| {
            writer.part::<VVec<u8, V>, V>(format_args!(""));
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VString");
        let [address, capacity, len] = words::in_vec(place);
        checker.text(address, len, capacity);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        let [address, _, len] = words::in_vec(place);
        checker.show_bytes(address, len)
    }
}

impl<V: Brand> VKey<V> for VString<V> {
    type Borrowed = str;

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a str {
        self.at(at)
    }
}
