//! Arrays of numbers in a space, and buffers onto them.
//!
//! In a visit to read a buffer of a large array is the space's own memory, read-only, with a [`ground`] below it; of
//! a small one it is a copy. In a visit to write
//! it is memory of this process's that is written back when the visit commits: the changes of a visit are seen by
//! its thread only, and no handler could bring another thread to them. All `unsafe` code on buffers is here.

use std::ffi::{CString, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, PoisonError};

use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyMemoryView, PyTuple};

use crate::ground;
use crate::memory::{Fault, Memory};
use crate::proxies::Handle;
use crate::space::Transaction;
use crate::stored::{Cell, Kind};
use crate::visit::{Here, Outcome, Visit};

/// Bytes of a header without its shape: data, bytes, format, item size, dimensions.
const HEADER: u64 = 40;
const MAX_DIMENSIONS: usize = 32;
/// What an array's data is aligned to: a cache line, or a page for large ones.
const ALIGN: u64 = 64;
const PAGE: u64 = 4096;
const LARGE: u64 = 1 << 16;
/// From how many bytes on a buffer onto the newest version shows the space's memory: for that the version has to be
/// kept under its number, which takes tens of milliseconds, and waits for who writes. Fewer are copied sooner.
const SHOWN: u64 = 32 << 20;

/// What the numbers are, and how they lie; the last index counts fastest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// As in `struct`: `d`, `f`, `q`, ..., `Zd` for complex numbers.
    format: String,
    item_bytes: u64,
    lengths: Vec<u64>,
}

/// Bytes of a number of this format, in this machine's way.
fn item_bytes(format: &str) -> Option<u64> {
    Some(match format {
        "?" | "b" | "B" => 1,
        "h" | "H" | "e" => 2,
        "i" | "I" | "f" => 4,
        "l" | "L" | "q" | "Q" | "d" | "Zf" => 8,
        "Zd" => 16,
        _ => return None,
    })
}

impl Shape {
    fn bytes(&self) -> u64 {
        self.lengths.iter().product::<u64>() * self.item_bytes
    }

    /// Of a header in a space, with address and bytes of the data.
    fn load(memory: &Memory, at: u64) -> Result<(Shape, u64, u64), Fault> {
        let damaged = Fault::Damaged("no array", at);
        let [data, bytes, format, item, dimensions] = memory.words(at)?;
        if dimensions > MAX_DIMENSIONS as u64 {
            return Err(damaged);
        }
        let lengths = (0..dimensions).map(|index| memory.word(at + HEADER + 8 * index));
        let lengths = lengths.collect::<Result<Vec<u64>, Fault>>()?;
        let format: String = format
            .to_le_bytes()
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(*byte))
            .collect();
        let known = item_bytes(&format).filter(|known| *known == item).ok_or(damaged)?;
        let total = lengths.iter().try_fold(known, |total, length| total.checked_mul(*length));
        if total != Some(bytes) || bytes > isize::MAX as u64 {
            return Err(damaged);
        }
        Ok((Shape { format, item_bytes: item, lengths }, data, bytes))
    }
}

/// The shape of what a view shows, if it can be stored.
pub(crate) fn shape_of(
    view: &Bound<'_, PyMemoryView>,
    name: impl Fn() -> String,
) -> PyResult<Shape> {
    let given: String = view.getattr("format")?.extract()?;
    let item: u64 = view.getattr("itemsize")?.extract()?;
    let lengths: Vec<u64> = view.getattr("shape")?.extract()?;
    // Prefixes mean this machine's order, as long as the sizes are the same.
    let format = given.trim_start_matches(['@', '=', '<']);
    if item_bytes(format) != Some(item) || lengths.len() > MAX_DIMENSIONS {
        return Err(PyTypeError::new_err(format!(
            "cannot store the items of this {}, of format `{given}`: arrays of bool, integers, floats and complex \
             numbers in this machine's byte order can be stored",
            name()
        )));
    }
    Ok(Shape { format: format.to_owned(), item_bytes: item, lengths })
}

/// Writes an array, and returns its cell.
pub(crate) fn write(memory: &mut Memory, shape: &Shape, bytes: &[u8]) -> Result<Cell, Fault> {
    let at = memory.allocate(HEADER + 8 * shape.lengths.len() as u64, 8)?;
    let size = bytes.len() as u64;
    let data = match size {
        0 => 0,
        _ => match memory.allocate(size, if size < LARGE { ALIGN } else { PAGE }) {
            Ok(data) => data,
            Err(fault) => {
                memory.free(at)?;
                return Err(fault);
            }
        },
    };
    memory.write(data, bytes)?;
    let mut format = [0; 8];
    format[..shape.format.len()].copy_from_slice(shape.format.as_bytes());
    let dimensions = shape.lengths.len() as u64;
    memory.set_words(at, [data, size, u64::from_le_bytes(format), shape.item_bytes, dimensions])?;
    for (length, index) in shape.lengths.iter().zip(0..) {
        memory.set_words(at + HEADER + 8 * index, [*length])?;
    }
    Ok(Cell::new(Kind::Array, at))
}

/// A `memoryview` of ordinary memory with a copy.
pub(crate) fn copy<'py>(py: Python<'py>, memory: &Memory, at: u64) -> Outcome<Bound<'py, PyAny>> {
    let (shape, data, bytes) = Shape::load(memory, at)?;
    let copy = PyByteArray::new(py, memory.bytes(data, bytes)?);
    let view = PyMemoryView::from(copy.as_any())?;
    // `memoryview` knows no complex numbers, and no shape with a 0 in it.
    if shape.format.starts_with('Z') || bytes == 0 {
        return Ok(view.into_any());
    }
    let how = PyDict::new(py);
    how.set_item("format", &shape.format)?;
    how.set_item("shape", PyTuple::new(py, &shape.lengths)?)?;
    Ok(view.call_method("cast", (), Some(&how))?)
}

/// Memory of this process's that a buffer of a visit to write shows.
#[derive(Debug)]
pub(crate) struct HomeCopy {
    /// Header of the array, and how often there was another at its address before.
    at: u64,
    age: u64,
    bytes: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is the value's own. Rust code accesses it under the interpreter's lock only (`HomeCopy::new`,
// `as_slice`, whose callers have a `Python` or are methods of Python's objects, of a module that asks for the lock).
unsafe impl Send for HomeCopy {}
// SAFETY: as above.
unsafe impl Sync for HomeCopy {}

impl HomeCopy {
    fn new(at: u64, age: u64, bytes: &[u8]) -> HomeCopy {
        let len = bytes.len();
        let pointer = Box::into_raw(Box::<[u8]>::from(bytes)).cast::<u8>();
        HomeCopy { at, age, bytes: NonNull::new(pointer).unwrap_or(NonNull::dangling()), len }
    }

    /// What is there now.
    ///
    /// # Safety
    /// No buffer of it is written to while the slice is used: there is none alive, or the interpreter's lock keeps
    /// their users out, which is what Python asks of those who share a buffer between threads.
    unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory is as long, and initialized; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for HomeCopy {
    fn drop(&mut self) {
        let slice = ptr::slice_from_raw_parts_mut(self.bytes.as_ptr(), self.len);
        // SAFETY: it came from a box of this length; buffers hold the visit, which holds this.
        drop(unsafe { Box::from_raw(slice) });
    }
}

/// Writes what buffers of a visit have changed to its space.
pub(crate) fn write_back(visit: &Visit) -> PyResult<()> {
    let copies = visit.exports.lock().unwrap_or_else(PoisonError::into_inner).copies.clone();
    for copy in copies {
        let is_there = visit.run(|here| Ok(here.age(copy.at) == copy.age))?;
        if !is_there {
            continue;
        }
        visit.change_quietly(|here| {
            let (_, data, bytes) = Shape::load(&here.memory, copy.at)?;
            // SAFETY: nothing of Python's runs until this returns.
            let now = unsafe { copy.as_slice() };
            if bytes != now.len() as u64 {
                return Err(Fault::Damaged("no array", copy.at).into());
            }
            // A page that stays as it was is no part of the change.
            let mut changed = false;
            for (page, offset) in now.chunks(PAGE as usize).zip((0..).step_by(PAGE as usize)) {
                if here.memory.bytes(data + offset, page.len() as u64)? != page {
                    here.memory.write(data + offset, page)?;
                    changed = true;
                }
            }
            Ok(changed)
        })?;
    }
    Ok(())
}

/// An array of numbers in a space: a buffer, for `memoryview`, NumPy and others.
#[pyclass(frozen, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Array {
    pub(crate) handle: Handle,
    shape: Shape,
}

/// What an exported buffer needs as long as it lives.
struct Export {
    format: CString,
    lengths: Vec<isize>,
    strides: Vec<isize>,
    _below: Below,
}

/// What keeps the memory of a buffer as it is.
enum Below {
    Copy(#[expect(dead_code, reason = "it is held")] Arc<HomeCopy>),
    Ground(#[expect(dead_code, reason = "it is held")] Arc<ground::Ground>),
}

impl Array {
    pub(crate) fn new(handle: Handle, here: &Here<'_>) -> Outcome<Array> {
        let (shape, ..) = Shape::load(&here.memory, handle.cell.word)?;
        Ok(Array { handle, shape })
    }

    fn visit(&self) -> &Visit {
        &self.handle.visit.get().visit
    }

    /// Where a buffer lies, whether it may be written, and what keeps it.
    fn place(&self) -> PyResult<(NonNull<u8>, bool, Below)> {
        let visit = self.visit();
        let at = self.handle.cell.word;
        let (stamp, age) = self.handle.run(|here| Ok((here.stamp()?, here.age(at))))?;
        let exports = || visit.exports.lock().unwrap_or_else(PoisonError::into_inner);
        if !visit.writes {
            let ground = exports().ground.clone();
            // One version only, as a tag, is there to be shown.
            let is_worth_it = self.shape.bytes() >= SHOWN || visit.space.is_one_version();
            let ground = match ground {
                None if is_worth_it => ground::below(visit.id(), &visit.space, stamp),
                ground => ground,
            };
            if let Some(ground) = ground {
                exports().ground = Some(Arc::clone(&ground));
                let place = self.handle.run(|here| {
                    let (_, data, bytes) = Shape::load(&here.memory, at)?;
                    Ok(here.memory.address(data, bytes)?)
                })?;
                return Ok((place, false, Below::Ground(ground)));
            }
        }
        let known = exports().copies.iter().find(|copy| (copy.at, copy.age) == (at, age)).cloned();
        let copy = match known {
            Some(copy) => copy,
            None => self.handle.run(|here| {
                let (_, data, bytes) = Shape::load(&here.memory, at)?;
                Ok(Arc::new(HomeCopy::new(at, age, here.memory.bytes(data, bytes)?)))
            })?,
        };
        let mut exports = exports();
        if !exports.copies.iter().any(|known| Arc::ptr_eq(known, &copy)) {
            exports.copies.push(Arc::clone(&copy));
        }
        Ok((copy.bytes, visit.writes, Below::Copy(copy)))
    }
}

#[pymethods]
impl Array {
    /// The format of an item, as in `struct` and `memoryview`.
    #[getter]
    fn format(&self) -> &str {
        &self.shape.format
    }

    /// Bytes of an item.
    #[getter]
    fn itemsize(&self) -> u64 {
        self.shape.item_bytes
    }

    /// Bytes of all items.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.shape.bytes()
    }

    /// Number of dimensions.
    #[getter]
    fn ndim(&self) -> usize {
        self.shape.lengths.len()
    }

    /// Items in each dimension.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape.lengths)
    }

    fn __len__(&self) -> PyResult<usize> {
        let first = self.shape.lengths.first();
        first
            .map(|length| *length as usize)
            .ok_or_else(|| PyTypeError::new_err("an array of no dimension has no length"))
    }

    /// An ordinary `memoryview` with a copy.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.visit().writes {
            write_back(self.visit())?;
        }
        self.handle.run(|here| copy(py, &here.memory, self.handle.cell.word))
    }

    fn __deepcopy__<'py>(
        &self,
        py: Python<'py>,
        _memo: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.copy(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "<spacejmp.Array of format {} and shape {:?}>",
            self.shape.format, self.shape.lengths
        )
    }

    /// # Safety
    /// As CPython's `getbufferproc` says.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let Some(mut view) = NonNull::new(view) else {
            return Err(PyBufferError::new_err("there is no room for a buffer"));
        };
        // SAFETY: CPython gives a structure to be filled, which nothing else uses meanwhile.
        let view = unsafe { view.as_mut() };
        view.obj = ptr::null_mut();
        let array = slf.get();
        let wants = |flag: c_int| flags & flag == flag;
        let is_writable = array.visit().writes;
        if wants(ffi::PyBUF_WRITABLE) && !is_writable {
            return Err(PyBufferError::new_err(
                "an array in a space that is only being read cannot be written",
            ));
        }
        if wants(ffi::PyBUF_F_CONTIGUOUS)
            && !wants(ffi::PyBUF_ANY_CONTIGUOUS)
            && array.shape.lengths.len() > 1
        {
            return Err(PyBufferError::new_err("an array in a space is in C's order"));
        }
        let (place, is_writable, below) = array.place()?;
        let lengths: Vec<isize> =
            array.shape.lengths.iter().map(|length| *length as isize).collect();
        let mut strides = vec![0; lengths.len()];
        let mut stride = array.shape.item_bytes as isize;
        for (place, length) in strides.iter_mut().zip(&lengths).rev() {
            *place = stride;
            stride *= *length;
        }
        let format = CString::new(array.shape.format.as_str()).unwrap_or_default();
        let mut export = Box::new(Export { format, lengths, strides, _below: below });
        let or_null = |wanted: bool, at: *mut isize| if wanted { at } else { ptr::null_mut() };
        view.buf = place.as_ptr().cast();
        view.len = array.shape.bytes() as isize;
        view.readonly = c_int::from(!is_writable);
        view.itemsize = array.shape.item_bytes as isize;
        view.format = if wants(ffi::PyBUF_FORMAT) {
            export.format.as_ptr().cast_mut()
        } else {
            ptr::null_mut()
        };
        view.ndim = export.lengths.len() as c_int;
        view.shape = or_null(wants(ffi::PyBUF_ND), export.lengths.as_mut_ptr());
        view.strides = or_null(wants(ffi::PyBUF_STRIDES), export.strides.as_mut_ptr());
        view.suboffsets = ptr::null_mut();
        view.internal = Box::into_raw(export).cast::<c_void>();
        array.visit().exports.lock().unwrap_or_else(PoisonError::into_inner).alive += 1;
        // The array, and with it the visit, lives as long as the buffer.
        view.obj = slf.into_ptr();
        Ok(())
    }

    /// # Safety
    /// As CPython's `releasebufferproc` says.
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: CPython gives the structure that `__getbuffer__` has filled.
        let internal = unsafe { (*view).internal };
        if !internal.is_null() {
            // SAFETY: it is the box of `__getbuffer__`, and a buffer is released once.
            drop(unsafe { Box::from_raw(internal.cast::<Export>()) });
        }
        self.visit().release();
    }
}

/// Of a transaction: how many buffers are alive.
pub(crate) fn alive(transaction: &Transaction) -> usize {
    transaction.visit.exports.lock().unwrap_or_else(PoisonError::into_inner).alive
}
