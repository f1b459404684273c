//! From Python's values to stored ones, and back.
//!
//! A value is looked at as a whole first, with everything in it, and only then written: a value that cannot be
//! stored has changed nothing, and no Python code runs between the steps of a change.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PySet, PyString, PyTuple,
};

use crate::array::{self, Array, Shape};
use crate::key::Key;
use crate::memory::Fault;
use crate::proxies::{Dict, List, Set, proxy};
use crate::stored::{self, Cell, Kind};
use crate::table::Table;
use crate::visit::{Here, Outcome, random};

/// How deeply values are nested at most when they are stored, or copied out.
pub(crate) const MAX_DEPTH: u32 = 200;

/// A value that can be stored.
#[derive(Debug)]
pub(crate) enum Plain<'py> {
    None,
    Bool(bool),
    Int(i64),
    /// Bytes of two's complement, the least first.
    Big(Bound<'py, PyBytes>),
    Float(f64),
    Str(Bound<'py, PyString>),
    Bytes(Bound<'py, PyBytes>),
    Tuple(Vec<Plain<'py>>),
    List(Vec<Plain<'py>>),
    Dict(Vec<(Plain<'py>, Plain<'py>)>),
    Set(Vec<Plain<'py>>),
    Array(Shape, Bound<'py, PyBytes>),
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    let class = value.get_type();
    let named = |class: &Bound<'_, pyo3::types::PyType>| {
        class.fully_qualified_name().map(|name| name.to_string())
    };
    named(&class).unwrap_or_else(|_| "?".to_owned())
}

/// What to do with some types that are often tried.
fn advice(value: &Bound<'_, PyAny>) -> &'static str {
    if value.hasattr("item").unwrap_or(false) && value.hasattr("dtype").unwrap_or(false) {
        " (`.item()` makes a Python number of it)"
    } else if value.is_instance_of::<PyDict>() {
        " (`dict()` makes a plain dict of it)"
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        " (`list()` or `tuple()` makes a plain one of it)"
    } else {
        ""
    }
}

fn cannot_store(value: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "cannot store a value of type {}{}: None, bool, int, float, str, bytes, tuple, list, dict, set and arrays \
         of numbers can be stored",
        type_name(value),
        advice(value)
    ))
}

/// The value as one that can be stored.
pub(crate) fn plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Plain<'py>> {
    plain_at(value, 0)
}

fn plain_at<'py>(value: &Bound<'py, PyAny>, depth: u32) -> PyResult<Plain<'py>> {
    if depth > MAX_DEPTH {
        return Err(PyValueError::new_err(format!(
            "cannot store a value that is nested more than {MAX_DEPTH} deep, or that contains itself"
        )));
    }
    let all = |values: &mut dyn Iterator<Item = Bound<'py, PyAny>>| -> PyResult<Vec<Plain<'py>>> {
        values.map(|member| plain_at(&member, depth + 1)).collect()
    };
    if value.is_none() {
        return Ok(Plain::None);
    }
    if let Ok(flag) = value.cast_exact::<PyBool>() {
        return Ok(Plain::Bool(flag.is_true()));
    }
    if let Ok(number) = value.cast_exact::<PyInt>() {
        return integer(number);
    }
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        return Ok(Plain::Float(number.extract()?));
    }
    if let Ok(text) = value.cast_exact::<PyString>() {
        // A lone surrogate cannot be encoded: an exception that says so.
        text.to_str()?;
        return Ok(Plain::Str(text.clone()));
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return Ok(Plain::Bytes(bytes.clone()));
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return Ok(Plain::Tuple(all(&mut tuple.iter())?));
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return Ok(Plain::List(all(&mut list.iter())?));
    }
    if let Ok(set) = value.cast_exact::<PySet>() {
        let members = all(&mut set.iter())?;
        members.iter().try_for_each(|member| member.key().map(drop))?;
        return Ok(Plain::Set(members));
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let mut entries = Vec::with_capacity(dict.len());
        for (key, value) in dict.iter() {
            let key = plain_at(&key, depth + 1)?;
            key.key()?;
            entries.push((key, plain_at(&value, depth + 1)?));
        }
        return Ok(Plain::Dict(entries));
    }
    let is_proxy = value.is_instance_of::<Dict>()
        || value.is_instance_of::<List>()
        || value.is_instance_of::<Set>();
    if is_proxy {
        return plain_at(&value.call_method0("copy")?, depth);
    }
    // A subclass of `bytes` is a buffer, too, and would come back as something else.
    if value.is_instance_of::<PyBytes>() {
        return Err(cannot_store(value));
    }
    let view = match PyMemoryView::from(value) {
        Ok(view) => view,
        // Of an array that cannot be used the exception says why.
        Err(error) if value.is_instance_of::<Array>() => return Err(error),
        Err(_) => return Err(cannot_store(value)),
    };
    let is_scalar =
        view.getattr("ndim")?.extract::<u32>()? == 0 && !value.is_instance_of::<PyMemoryView>();
    // A number of NumPy's is a buffer; it is to be stored as a number.
    if is_scalar && type_name(value) != "numpy.ndarray" {
        return Err(cannot_store(value));
    }
    let shape = array::shape_of(&view, || type_name(value))?;
    let bytes = view.call_method0("tobytes")?.cast_into::<PyBytes>()?;
    // Buffers are not to be alive longer than they are read.
    view.call_method0("release")?;
    Ok(Plain::Array(shape, bytes))
}

fn integer<'py>(number: &Bound<'py, PyInt>) -> PyResult<Plain<'py>> {
    if let Ok(number) = number.extract::<i64>() {
        return Ok(Plain::Int(number));
    }
    let py = number.py();
    let bits: u64 = number.call_method0("bit_length")?.extract()?;
    let signed = PyDict::new(py);
    signed.set_item("signed", true)?;
    let bytes = number.call_method("to_bytes", (bits / 8 + 1, "little"), Some(&signed))?;
    Ok(Plain::Big(bytes.cast_into::<PyBytes>()?))
}

impl Plain<'_> {
    /// The value as a key.
    pub(crate) fn key(&self) -> PyResult<Key<'_>> {
        Ok(match self {
            Plain::None => Key::None,
            Plain::Bool(flag) => Key::Int(i64::from(*flag)),
            Plain::Int(number) => Key::Int(*number),
            Plain::Big(bytes) => Key::Big(bytes.as_bytes()),
            Plain::Float(number) if number.is_nan() => {
                return Err(PyValueError::new_err("nan is no key: it is not equal to itself"));
            }
            Plain::Float(number) => Key::of_float(*number),
            Plain::Str(text) => Key::Str(text.to_str()?.as_bytes()),
            Plain::Bytes(bytes) => Key::Bytes(bytes.as_bytes()),
            Plain::Tuple(members) => {
                Key::Tuple(members.iter().map(Plain::key).collect::<PyResult<_>>()?)
            }
            _ => {
                return Err(PyTypeError::new_err(
                    "keys of dicts and members of sets are str, bytes, int, float, bool, None, and tuples of them",
                ));
            }
        })
    }

    /// Writes it, and returns its cell, which nothing owns yet.
    pub(crate) fn write(&self, here: &mut Here<'_>) -> Outcome<Cell> {
        Ok(match self {
            Plain::None => Cell::NONE,
            Plain::Bool(false) => Cell::new(Kind::False, 0),
            Plain::Bool(true) => Cell::new(Kind::True, 0),
            Plain::Int(number) => Cell::new(Kind::Int, *number as u64),
            Plain::Float(number) => Cell::new(Kind::Float, number.to_bits()),
            Plain::Big(bytes) => text(here, Kind::BigInt, bytes.as_bytes())?,
            Plain::Str(string) => text(here, Kind::Str, string.to_str()?.as_bytes())?,
            Plain::Bytes(bytes) => text(here, Kind::Bytes, bytes.as_bytes())?,
            Plain::Array(shape, bytes) => array::write(&mut here.memory, shape, bytes.as_bytes())?,
            Plain::Tuple(members) => tuple(here, members)?,
            Plain::List(members) => {
                let mut list = stored::List::create(&mut here.memory, members.len() as u64)?;
                whole(here, list.cell(), |here| {
                    for member in members {
                        let cell = member.write(here)?;
                        list.insert(&mut here.memory, list.len, cell)?;
                    }
                    Ok(())
                })?
            }
            Plain::Set(members) => {
                let table =
                    Table::create(&mut here.memory, Kind::Set, members.len() as u64, random())?;
                whole(here, table.cell(), |here| {
                    members
                        .iter()
                        .try_for_each(|member| put(here, table.cell(), member, None).map(drop))
                })?
            }
            Plain::Dict(entries) => {
                let table =
                    Table::create(&mut here.memory, Kind::Dict, entries.len() as u64, random())?;
                whole(here, table.cell(), |here| {
                    entries.iter().try_for_each(|(key, value)| {
                        put(here, table.cell(), key, Some(value)).map(drop)
                    })
                })?
            }
        })
    }
}

/// Fills `cell`, or frees it with what is in it already.
fn whole(
    here: &mut Here<'_>,
    cell: Cell,
    fill: impl FnOnce(&mut Here<'_>) -> Outcome<()>,
) -> Outcome<Cell> {
    match fill(here) {
        Ok(()) => Ok(cell),
        Err(problem) => {
            here.free(cell)?;
            Err(problem)
        }
    }
}

fn text(here: &mut Here<'_>, kind: Kind, bytes: &[u8]) -> Result<Cell, Fault> {
    let len = bytes.len() as u64;
    if len == 0 {
        return Ok(Cell { kind, len, word: 0 });
    }
    let word = here.memory.allocate(len, 1)?;
    here.memory.write(word, bytes)?;
    Ok(Cell { kind, len, word })
}

fn tuple(here: &mut Here<'_>, members: &[Plain<'_>]) -> Outcome<Cell> {
    let len = members.len() as u64;
    if len == 0 {
        return Ok(Cell { kind: Kind::Tuple, len, word: 0 });
    }
    let word = here.memory.allocate(len * stored::CELL, 16)?;
    let cell = Cell { kind: Kind::Tuple, len, word };
    for index in 0..len {
        Cell::NONE.store(&mut here.memory, cell.member(index)?)?;
    }
    whole(here, cell, |here| {
        for (member, index) in members.iter().zip(0..) {
            let member = member.write(here)?;
            member.store(&mut here.memory, cell.member(index)?)?;
        }
        Ok(())
    })
}

/// Puts a key into a table, with a value if it is a dict; whether it is new.
pub(crate) fn put(
    here: &mut Here<'_>,
    table: Cell,
    key: &Plain<'_>,
    value: Option<&Plain<'_>>,
) -> Outcome<bool> {
    let mut table = Table::load(&here.memory, table)?;
    let wanted = key.key()?;
    if let Some(number) = table.find(&here.memory, &wanted)? {
        if let Some(value) = value {
            let cell = value.write(here)?;
            let old = table.set_value(&mut here.memory, number, cell)?;
            here.free(old)?;
        }
        return Ok(false);
    }
    let key_cell = key.write(here)?;
    let value_cell = match value.map(|value| value.write(here)).transpose() {
        Ok(value) => value,
        Err(problem) => {
            here.free(key_cell)?;
            return Err(problem);
        }
    };
    let hash = table.hash(&wanted);
    let put = table
        .reserve(&mut here.memory)
        .and_then(|()| table.insert(&mut here.memory, hash, key_cell, value_cell));
    if let Err(fault) = put {
        here.free(key_cell)?;
        here.free(value_cell.unwrap_or(Cell::NONE))?;
        return Err(fault.into());
    }
    Ok(true)
}

/// How a container is given to Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// As an object that stays in the space.
    Proxy,
    /// As an ordinary one, with everything in it, so deep already.
    Copy(u32),
}

impl Depth {
    fn below(self) -> PyResult<Depth> {
        match self {
            Depth::Copy(depth) if depth >= MAX_DEPTH => Err(PyValueError::new_err(format!(
                "cannot copy a value that is nested more than {MAX_DEPTH} deep: copy its parts"
            ))),
            Depth::Copy(depth) => Ok(Depth::Copy(depth + 1)),
            Depth::Proxy => Ok(Depth::Proxy),
        }
    }
}

/// A stored value as one of Python's.
pub(crate) fn object<'py>(
    py: Python<'py>,
    visit: &Py<crate::space::Transaction>,
    here: &Here<'_>,
    cell: Cell,
    depth: Depth,
) -> Outcome<Bound<'py, PyAny>> {
    let memory = &here.memory;
    Ok(match cell.kind {
        Kind::None => py.None().into_bound(py),
        Kind::False => PyBool::new(py, false).to_owned().into_any(),
        Kind::True => PyBool::new(py, true).to_owned().into_any(),
        Kind::Int => (cell.word as i64).into_pyobject(py).map_err(PyErr::from)?.into_any(),
        Kind::Float => PyFloat::new(py, f64::from_bits(cell.word)).into_any(),
        Kind::BigInt => {
            let bytes = PyBytes::new(py, memory.bytes(cell.word, cell.len)?);
            let signed = PyDict::new(py);
            signed.set_item("signed", true)?;
            py.get_type::<PyInt>().call_method("from_bytes", (bytes, "little"), Some(&signed))?
        }
        Kind::Str => {
            let bytes = memory.bytes(cell.word, cell.len)?;
            let text =
                std::str::from_utf8(bytes).map_err(|_| Fault::Damaged("no text", cell.word))?;
            PyString::new(py, text).into_any()
        }
        Kind::Bytes => PyBytes::new(py, memory.bytes(cell.word, cell.len)?).into_any(),
        Kind::Tuple => {
            let below = depth.below()?;
            let mut members = Vec::new();
            for index in 0..cell.len {
                let member = Cell::load(memory, cell.member(index)?)?;
                members.push(object(py, visit, here, member, below)?);
            }
            PyTuple::new(py, members)?.into_any()
        }
        Kind::List | Kind::Dict | Kind::Set | Kind::Array if depth == Depth::Proxy => {
            proxy(py, visit, here, cell)?
        }
        Kind::List => {
            let below = depth.below()?;
            let list = stored::List::load(memory, cell.word)?;
            let copy = PyList::empty(py);
            for index in 0..list.len {
                copy.append(object(py, visit, here, list.get(memory, index)?, below)?)?;
            }
            copy.into_any()
        }
        Kind::Dict => {
            let (below, table) = (depth.below()?, Table::load(memory, cell)?);
            let copy = PyDict::new(py);
            let mut from = 0;
            while let Some((number, key)) = table.next(memory, from)? {
                let key = object(py, visit, here, key, below)?;
                copy.set_item(key, object(py, visit, here, table.value(memory, number)?, below)?)?;
                from = number + 1;
            }
            copy.into_any()
        }
        Kind::Set => {
            let (below, table) = (depth.below()?, Table::load(memory, cell)?);
            let copy = PySet::empty(py)?;
            let mut from = 0;
            while let Some((number, key)) = table.next(memory, from)? {
                copy.add(object(py, visit, here, key, below)?)?;
                from = number + 1;
            }
            copy.into_any()
        }
        Kind::Array => array::copy(py, memory, cell.word)?,
        Kind::Dead => return Err(Fault::Damaged("no value", cell.word).into()),
    })
}
