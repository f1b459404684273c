//! Dicts, lists and sets in a space, as Python sees them: objects with a visit and an address.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyIndexError, PyKeyError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PySlice};

use crate::array::Array;
use crate::error::Failure;
use crate::memory::Fault;
use crate::plain::{self, Depth, object, plain};
use crate::space::Transaction;
use crate::stored::{Cell, Kind, List as Stored};
use crate::table::Table;
use crate::visit::{Here, Outcome};

/// A container in a space, as long as the visit lasts and nobody removes it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) visit: Py<Transaction>,
    pub(crate) cell: Cell,
    /// How often there was a container at the address before.
    age: u64,
}

impl Handle {
    pub(crate) fn new(
        py: Python<'_>,
        visit: &Py<Transaction>,
        here: &Here<'_>,
        cell: Cell,
    ) -> Handle {
        Handle { visit: visit.clone_ref(py), cell, age: here.age(cell.word) }
    }

    pub(crate) fn check(&self, here: &Here<'_>) -> Outcome<()> {
        if here.age(self.cell.word) == self.age {
            return Ok(());
        }
        Err(Failure::Visit(
            "this was removed from its space: copy what is to be kept before (`copy()`)".to_owned(),
        )
        .into())
    }

    pub(crate) fn run<R>(&self, work: impl FnOnce(&mut Here<'_>) -> Outcome<R>) -> PyResult<R> {
        self.visit.get().visit.run(|here| {
            self.check(here)?;
            work(here)
        })
    }

    pub(crate) fn change<R>(&self, work: impl FnOnce(&mut Here<'_>) -> Outcome<R>) -> PyResult<R> {
        self.visit.get().visit.change(|here| {
            self.check(here)?;
            work(here)
        })
    }

    fn table(&self, here: &Here<'_>) -> Result<Table, Fault> {
        Table::load(&here.memory, self.cell)
    }

    fn list(&self, here: &Here<'_>) -> Result<Stored, Fault> {
        Stored::load(&here.memory, self.cell.word)
    }

    pub(crate) fn object<'py>(
        &self,
        py: Python<'py>,
        here: &Here<'_>,
        cell: Cell,
        depth: Depth,
    ) -> Outcome<Bound<'py, PyAny>> {
        object(py, &self.visit, here, cell, depth)
    }

    /// An ordinary copy of all of it.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.run(|here| self.object(py, here, self.cell, Depth::Copy(0)))
    }

    fn equals(
        &self,
        py: Python<'_>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        if !matches!(op, CompareOp::Eq | CompareOp::Ne) {
            return Ok(py.NotImplemented());
        }
        let is_proxy = handle_of(other).is_some();
        let other = if is_proxy { other.call_method0("copy")? } else { other.clone() };
        Ok(self.copy(py)?.rich_compare(other, op)?.unbind())
    }

    fn repr(&self, py: Python<'_>, class: &str) -> PyResult<String> {
        if !self.visit.get().visit.is_usable() {
            return Ok(format!("<spacejmp.{class} of a visit that is over, or elsewhere>"));
        }
        Ok(format!("{class}({})", self.copy(py)?.repr()?))
    }
}

/// What a proxy stands for.
pub(crate) fn handle_of<'a>(value: &'a Bound<'_, PyAny>) -> Option<&'a Handle> {
    if let Ok(dict) = value.cast::<Dict>() {
        return Some(&dict.get().handle);
    }
    if let Ok(list) = value.cast::<List>() {
        return Some(&list.get().handle);
    }
    if let Ok(set) = value.cast::<Set>() {
        return Some(&set.get().handle);
    }
    value.cast::<Array>().ok().map(|array| &array.get().handle)
}

/// Whether `value` is what lies in `cell` itself, as in `d["list"] += [1]`.
fn is_same(handle: &Handle, value: &Bound<'_, PyAny>, cell: Cell) -> bool {
    handle_of(value).is_some_and(|other| other.visit.is(&handle.visit) && other.cell == cell)
}

/// The object for a container.
pub(crate) fn proxy<'py>(
    py: Python<'py>,
    visit: &Py<Transaction>,
    here: &Here<'_>,
    cell: Cell,
) -> Outcome<Bound<'py, PyAny>> {
    let handle = Handle::new(py, visit, here, cell);
    Ok(match cell.kind {
        Kind::List => Bound::new(py, List { handle })?.into_any(),
        Kind::Dict => Bound::new(py, Dict { handle })?.into_any(),
        Kind::Set => Bound::new(py, Set { handle })?.into_any(),
        _ => Bound::new(py, Array::new(handle, here)?)?.into_any(),
    })
}

/// A dict in a space.
#[pyclass(frozen, mapping, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Dict {
    pub(crate) handle: Handle,
}

#[pymethods]
impl Dict {
    #[classattr]
    const __hash__: Option<Py<PyAny>> = None;

    fn __len__(&self) -> PyResult<usize> {
        self.handle.run(|here| Ok(self.handle.table(here)?.live as usize))
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = plain(key)?;
        let wanted = key.key()?;
        self.handle.run(|here| Ok(self.handle.table(here)?.find(&here.memory, &wanted)?.is_some()))
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.find(py, key)? {
            Some(value) => Ok(value),
            None => Err(PyKeyError::new_err(key.clone().unbind())),
        }
    }

    /// The value of a key, or `default`.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let found = self.find(py, key)?;
        Ok(found.or(default).unwrap_or_else(|| py.None().into_bound(py)))
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let key = plain(key)?;
        let wanted = key.key()?;
        if handle_of(value).is_some() {
            let is_same = self.handle.change(|here| {
                let table = self.handle.table(here)?;
                let Some(number) = table.find(&here.memory, &wanted)? else { return Ok(false) };
                Ok(is_same(&self.handle, value, table.value(&here.memory, number)?))
            })?;
            if is_same {
                return Ok(());
            }
        }
        let value = plain(value)?;
        self.handle.change(|here| plain::put(here, self.handle.cell, &key, Some(&value)).map(drop))
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = key.clone().unbind();
        let key = plain(key)?;
        let wanted = key.key()?;
        self.handle.change(|here| match self.handle.table(here)?.find(&here.memory, &wanted)? {
            Some(number) => self.take_out(here, number),
            None => Err(PyKeyError::new_err(name).into()),
        })
    }

    /// Takes a key out, and returns an ordinary copy of its value.
    #[pyo3(signature = (key, *default))]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if default.len() > 1 {
            return Err(PyTypeError::new_err("pop expects a key and one default at most"));
        }
        let plain = plain(key)?;
        let wanted = plain.key()?;
        let popped = self.handle.change(|here| {
            let table = self.handle.table(here)?;
            let Some(number) = table.find(&here.memory, &wanted)? else { return Ok(None) };
            let value =
                self.handle.object(py, here, table.value(&here.memory, number)?, Depth::Copy(0))?;
            self.take_out(here, number)?;
            Ok(Some(value))
        })?;
        match popped {
            Some(value) => Ok(value),
            None if default.len() == 1 => default.get_item(0),
            None => Err(PyKeyError::new_err(key.clone().unbind())),
        }
    }

    /// Takes the newest key out, and returns it with an ordinary copy of its value.
    fn popitem<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        self.handle.change(|here| {
            let table = self.handle.table(here)?;
            let Some((number, key)) = table.last(&here.memory)? else {
                return Err(PyKeyError::new_err("popitem(): the dict is empty").into());
            };
            let key = self.handle.object(py, here, key, Depth::Copy(0))?;
            let value =
                self.handle.object(py, here, table.value(&here.memory, number)?, Depth::Copy(0))?;
            self.take_out(here, number)?;
            Ok((key, value))
        })
    }

    /// Removes everything.
    fn clear(&self) -> PyResult<()> {
        self.handle.change(|here| clear(&self.handle, here))
    }

    /// An ordinary dict with copies of everything in it.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __deepcopy__<'py>(
        &self,
        py: Python<'py>,
        _memo: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __iter__(slf: &Bound<'_, Self>) -> PyResult<Keys> {
        Keys::of(slf.as_any(), &slf.get().handle)
    }

    fn __richcmp__(
        &self,
        py: Python<'_>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        self.handle.equals(py, other, op)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.handle.repr(py, "Dict")
    }
}

impl Dict {
    fn find<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let key = plain(key)?;
        let wanted = key.key()?;
        self.handle.run(|here| {
            let table = self.handle.table(here)?;
            let Some(number) = table.find(&here.memory, &wanted)? else { return Ok(None) };
            let value = table.value(&here.memory, number)?;
            self.handle.object(py, here, value, Depth::Proxy).map(Some)
        })
    }

    fn take_out(&self, here: &mut Here<'_>, number: u64) -> Outcome<()> {
        let mut table = self.handle.table(here)?;
        let (key, value) = table.remove(&mut here.memory, number)?;
        here.free(key)?;
        here.free(value.unwrap_or(Cell::NONE))?;
        Ok(())
    }
}

/// Removes every entry of a dict or set.
fn clear(handle: &Handle, here: &mut Here<'_>) -> Outcome<()> {
    while let Some((number, _)) = handle.table(here)?.last(&here.memory)? {
        let (key, value) = handle.table(here)?.remove(&mut here.memory, number)?;
        here.free(key)?;
        here.free(value.unwrap_or(Cell::NONE))?;
    }
    Ok(())
}

/// Iterates over keys of a dict, or members of a set.
#[pyclass(frozen, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Keys {
    /// The dict or set.
    of: Py<PyAny>,
    next: AtomicU64,
    changes: u64,
}

impl Keys {
    fn of(object: &Bound<'_, PyAny>, handle: &Handle) -> PyResult<Keys> {
        let changes = handle.run(|here| Ok(handle.table(here)?.changes))?;
        Ok(Keys { of: object.clone().unbind(), next: AtomicU64::new(0), changes })
    }
}

#[pymethods]
impl Keys {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let of = self.of.bind(py);
        let Some(handle) = handle_of(of) else { return Ok(None) };
        handle.run(|here| {
            let table = handle.table(here)?;
            if table.changes != self.changes {
                let what = if handle.cell.kind == Kind::Dict { "dictionary" } else { "set" };
                return Err(PyRuntimeError::new_err(format!(
                    "{what} changed size during iteration"
                ))
                .into());
            }
            let Some((number, key)) =
                table.next(&here.memory, self.next.load(Ordering::Relaxed))?
            else {
                return Ok(None);
            };
            self.next.store(number + 1, Ordering::Relaxed);
            handle.object(py, here, key, Depth::Proxy).map(Some)
        })
    }
}

/// A set in a space.
#[pyclass(frozen, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) handle: Handle,
}

#[pymethods]
impl Set {
    #[classattr]
    const __hash__: Option<Py<PyAny>> = None;

    fn __len__(&self) -> PyResult<usize> {
        self.handle.run(|here| Ok(self.handle.table(here)?.live as usize))
    }

    fn __contains__(&self, member: &Bound<'_, PyAny>) -> PyResult<bool> {
        let member = plain(member)?;
        let wanted = member.key()?;
        self.handle.run(|here| Ok(self.handle.table(here)?.find(&here.memory, &wanted)?.is_some()))
    }

    /// Adds a member.
    #[pyo3(signature = (member, /))]
    fn add(&self, member: &Bound<'_, PyAny>) -> PyResult<()> {
        let member = plain(member)?;
        member.key()?;
        self.handle.change(|here| plain::put(here, self.handle.cell, &member, None).map(drop))
    }

    /// Removes a member, if it is there.
    #[pyo3(signature = (member, /))]
    fn discard(&self, member: &Bound<'_, PyAny>) -> PyResult<()> {
        let member = plain(member)?;
        let wanted = member.key()?;
        self.handle.change(|here| {
            let mut table = self.handle.table(here)?;
            if let Some(number) = table.find(&here.memory, &wanted)? {
                let (key, _) = table.remove(&mut here.memory, number)?;
                here.free(key)?;
            }
            Ok(())
        })
    }

    /// Removes everything.
    fn clear(&self) -> PyResult<()> {
        self.handle.change(|here| clear(&self.handle, here))
    }

    /// An ordinary set of the same members.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __deepcopy__<'py>(
        &self,
        py: Python<'py>,
        _memo: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __iter__(slf: &Bound<'_, Self>) -> PyResult<Keys> {
        Keys::of(slf.as_any(), &slf.get().handle)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.handle.repr(py, "Set")
    }
}

/// A list in a space.
#[pyclass(frozen, sequence, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) handle: Handle,
}

/// What an index or slice of a list of `len` stands for.
enum Place {
    One(u64),
    Many(Vec<u64>),
}

fn place(len: u64, index: &Bound<'_, PyAny>) -> PyResult<Place> {
    if let Ok(slice) = index.cast::<PySlice>() {
        let range = slice.indices(len as isize)?;
        let step = |number: usize| (range.start + number as isize * range.step) as u64;
        return Ok(Place::Many((0..range.slicelength).map(step).collect()));
    }
    one(
        len,
        index
            .extract::<isize>()
            .map_err(|_| PyTypeError::new_err("indices are integers or slices"))?,
    )
    .map(Place::One)
}

fn one(len: u64, index: isize) -> PyResult<u64> {
    let index = if index < 0 { index.saturating_add(len as isize) } else { index };
    u64::try_from(index)
        .ok()
        .filter(|index| *index < len)
        .ok_or_else(|| PyIndexError::new_err("list index out of range"))
}

#[pymethods]
impl List {
    #[classattr]
    const __hash__: Option<Py<PyAny>> = None;

    fn __len__(&self) -> PyResult<usize> {
        self.handle.run(|here| Ok(self.handle.list(here)?.len as usize))
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.handle.run(|here| {
            let list = self.handle.list(here)?;
            let get =
                |index| self.handle.object(py, here, list.get(&here.memory, index)?, Depth::Proxy);
            match place(list.len, index)? {
                Place::One(index) => get(index),
                Place::Many(places) => {
                    let some = PyList::empty(py);
                    for index in places {
                        some.append(get(index)?)?;
                    }
                    Ok(some.into_any())
                }
            }
        })
    }

    fn __setitem__(&self, index: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let single = |here: &Here<'_>| -> Outcome<u64> {
            match place(self.handle.list(here)?.len, index)? {
                Place::One(index) => Ok(index),
                Place::Many(_) => Err(PyTypeError::new_err(
                    "slices of a list in a space can be read and deleted, not assigned",
                )
                .into()),
            }
        };
        if handle_of(value).is_some() {
            let is_same = self.handle.change(|here| {
                let index = single(here)?;
                Ok(is_same(&self.handle, value, self.handle.list(here)?.get(&here.memory, index)?))
            })?;
            if is_same {
                return Ok(());
            }
        }
        let value = plain(value)?;
        self.handle.change(|here| {
            let index = single(here)?;
            let cell = value.write(here)?;
            let old = self.handle.list(here)?.set(&mut here.memory, index, cell)?;
            Ok(here.free(old)?)
        })
    }

    fn __delitem__(&self, index: &Bound<'_, PyAny>) -> PyResult<()> {
        self.handle.change(|here| {
            let mut list = self.handle.list(here)?;
            let mut places = match place(list.len, index)? {
                Place::One(index) => vec![index],
                Place::Many(places) => places,
            };
            // The last first: the places of the others stay.
            places.sort_unstable();
            for index in places.into_iter().rev() {
                let old = list.remove(&mut here.memory, index)?;
                here.free(old)?;
            }
            Ok(())
        })
    }

    /// Inserts a value before an index.
    #[pyo3(signature = (index, value, /))]
    fn insert(&self, index: isize, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = plain(value)?;
        self.handle.change(|here| {
            let mut list = self.handle.list(here)?;
            let len = list.len as isize;
            let index = if index < 0 { index.saturating_add(len).max(0) } else { index.min(len) };
            let cell = value.write(here)?;
            if let Err(fault) = list.insert(&mut here.memory, index as u64, cell) {
                here.free(cell)?;
                return Err(fault.into());
            }
            Ok(())
        })
    }

    /// Adds a value at the end.
    #[pyo3(signature = (value, /))]
    fn append(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.insert(isize::MAX, value)
    }

    /// Takes a value out, and returns an ordinary copy of it.
    #[pyo3(signature = (index=-1, /))]
    fn pop<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyAny>> {
        self.handle.change(|here| {
            let mut list = self.handle.list(here)?;
            if list.len == 0 {
                return Err(PyIndexError::new_err("pop from empty list").into());
            }
            let index = one(list.len, index)?;
            let cell = list.get(&here.memory, index)?;
            let value = self.handle.object(py, here, cell, Depth::Copy(0))?;
            list.remove(&mut here.memory, index)?;
            here.free(cell)?;
            Ok(value)
        })
    }

    /// Removes everything.
    fn clear(&self) -> PyResult<()> {
        self.handle.change(|here| {
            let mut list = self.handle.list(here)?;
            while list.len > 0 {
                let old = list.remove(&mut here.memory, list.len - 1)?;
                here.free(old)?;
            }
            Ok(())
        })
    }

    /// Reverses the order in place.
    fn reverse(&self) -> PyResult<()> {
        self.handle.change(|here| {
            let list = self.handle.list(here)?;
            for index in 0..list.len / 2 {
                let other = list.len - 1 - index;
                let cell = list.get(&here.memory, index)?;
                let last = list.set(&mut here.memory, other, cell)?;
                list.set(&mut here.memory, index, last)?;
            }
            Ok(())
        })
    }

    /// An ordinary list with copies of everything in it.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __deepcopy__<'py>(
        &self,
        py: Python<'py>,
        _memo: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.handle.copy(py)
    }

    fn __richcmp__(
        &self,
        py: Python<'_>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        self.handle.equals(py, other, op)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.handle.repr(py, "List")
    }
}
