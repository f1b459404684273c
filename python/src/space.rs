//! Spaces and visits as Python's objects, and the functions of the module.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};
use spacejmp::sys::{self, Durability, Errno, SyncInterval, VasStat};

use crate::array;
use crate::error::Failure;
use crate::ground;
use crate::opened::Opened;
use crate::proxies::proxy;
use crate::visit::{self, Visit};

/// A persistent address space whose content are Python's values. `open` gives one.
#[pyclass(frozen, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Space {
    opened: Arc<Opened>,
}

/// One visit to a space: for `with`.
#[pyclass(frozen, module = "spacejmp")]
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) visit: Visit,
}

/// When commits survive a power cut, as texts say it: `each`, `every:MS`, `manual`.
fn durability(text: &str) -> PyResult<Durability> {
    let every = |ms: &str| ms.parse().ok().and_then(SyncInterval::new).map(Durability::Every);
    let found = match (text, text.strip_prefix("every:")) {
        ("each", _) => Some(Durability::Each),
        ("manual", _) => Some(Durability::Manual),
        (_, ms) => ms.and_then(every),
    };
    found.ok_or_else(|| {
        PyValueError::new_err(format!(
            "durability `{text}`: it is `each`, `manual`, or `every:MS`, as in `every:100`"
        ))
    })
}

/// Opens the space `name`, or makes it if there is none.
#[pyfunction]
#[pyo3(signature = (name, *, create=true, read_only=false, durability="every:100", mode=0o600))]
pub(crate) fn open(
    py: Python<'_>,
    name: &str,
    create: bool,
    read_only: bool,
    durability: &str,
    mode: u32,
) -> PyResult<Space> {
    let durability = self::durability(durability)?;
    sys::null().map_err(Failure::call("open", name))?;
    let found = match Opened::find(name, !read_only) {
        Err(Failure::Call { errno: Errno::ENOENT, .. } | Failure::NoRoot { .. })
            if create && !read_only =>
        {
            visit::make_root(py, &Opened::make(name, mode, durability)?)?;
            Opened::find(name, true)
        }
        found => found,
    };
    Ok(Space { opened: Arc::new(found?) })
}

/// Whether this Python runs in a SpaceJMP VM.
#[pyfunction]
pub(crate) fn in_vm() -> bool {
    sys::null().is_ok()
}

/// Brings the calling thread home from where it looked at a buffer, so that it can fork.
#[pyfunction]
pub(crate) fn come_back() {
    ground::come_back();
}

impl Space {
    fn ask<R>(&self, verb: &'static str, result: Result<R, Errno>) -> PyResult<R> {
        Ok(result.map_err(Failure::call(verb, &self.opened.name))?)
    }
}

#[pymethods]
impl Space {
    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.opened.name
    }

    /// Whether it was opened to be read only.
    #[getter]
    fn read_only(&self) -> bool {
        !self.opened.may_write()
    }

    /// A visit that sees the newest version, whatever others commit meanwhile: `with space.read() as root:`.
    fn read(&self) -> Transaction {
        Transaction { visit: Visit::new(Arc::clone(&self.opened), false, None) }
    }

    /// A visit that changes it, alone: `with space.write() as root:`. The end of the block commits, an exception
    /// takes everything back. `vas log` shows the message with the version that it makes.
    #[pyo3(signature = (message=None))]
    fn write(&self, message: Option<String>) -> PyResult<Transaction> {
        if !self.opened.may_write() {
            return Err(Failure::ReadOnly { space: self.opened.name.clone() }.into());
        }
        if message
            .as_ref()
            .is_some_and(|text| text.len() > 120 || text.chars().any(char::is_control))
        {
            return Err(PyValueError::new_err(
                "a message has 120 bytes at most, and no control characters",
            ));
        }
        Ok(Transaction { visit: Visit::new(Arc::clone(&self.opened), true, message) })
    }

    /// An old version, to be read: a tag, or the number of a version that the log still has.
    fn at(&self, version: &Bound<'_, PyAny>) -> PyResult<Space> {
        if !version.is_instance_of::<PyString>() && !version.is_instance_of::<PyInt>() {
            return Err(PyTypeError::new_err("a version is the text of a tag, or a number"));
        }
        let name = format!("{}@{}", self.opened.name, version.str()?.to_str()?);
        Ok(Space { opened: Arc::new(Opened::find(&name, false)?) })
    }

    /// The number of the newest version. It rises with every commit, whoever makes it.
    fn version(&self) -> PyResult<u64> {
        self.ask("ask for the version of", sys::vas_version(self.opened.instance(false)?))
    }

    /// Waits until there is a version newer than `after`, and returns its number; `None` after `timeout` seconds.
    #[pyo3(signature = (after, timeout=None))]
    fn wait_newer(
        &self,
        py: Python<'_>,
        after: u64,
        timeout: Option<f64>,
    ) -> PyResult<Option<u64>> {
        let vh = self.opened.instance(false)?;
        let limit = match timeout {
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| PyValueError::new_err("timeout is a number of seconds, 0 or more"))?,
            None => Duration::MAX,
        };
        let began = std::time::Instant::now();
        loop {
            let left = limit.saturating_sub(began.elapsed());
            match py.detach(|| sys::vas_wait(vh, after, left)) {
                Err(Errno::ETIMEDOUT) => return Ok(None),
                Err(Errno::EINTR) => py.check_signals()?,
                waited => return self.ask("wait for", waited.map(Some)),
            }
        }
    }

    /// All that was committed so far survives a power cut from now on. Returns the version.
    fn sync(&self, py: Python<'_>) -> PyResult<u64> {
        let vh = self.opened.instance(false)?;
        self.ask("sync", py.detach(|| sys::vas_sync(vh)))
    }

    /// Keeps the newest version under a name, for `at`.
    fn tag(&self, py: Python<'_>, tag: &str) -> PyResult<()> {
        let vid = self.opened.vid;
        self.ask("tag", py.detach(|| sys::vas_tag(vid, tag))).map(drop)
    }

    /// The names of its tags.
    fn tags(&self) -> PyResult<Vec<String>> {
        let listed = sys::all(sys::EMPTY_VAS_STAT, |buffer: &mut [VasStat], cursor| {
            sys::vas_list(buffer, cursor)
        });
        let listed = self.ask("list the tags of", listed)?;
        let names = listed
            .iter()
            .map(|stat| String::from_utf8_lossy(sys::name_bytes(&stat.name)).into_owned());
        let tag = |name: String| {
            let tag = name.strip_prefix(&self.opened.name)?.strip_prefix('@')?;
            // A version that somebody looks at by its number is no tag.
            (!tag.contains('@') && tag.parse::<u64>().is_err()).then(|| tag.to_owned())
        };
        Ok(names.filter_map(tag).collect())
    }

    /// Gives it up: no visit can begin from now on.
    fn close(&self) -> PyResult<()> {
        ground::come_back();
        Ok(self.opened.close()?)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        _class: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.close()?;
        Ok(false)
    }

    fn __repr__(&self) -> String {
        format!("<spacejmp.Space {:?}>", self.opened.name)
    }
}

#[pymethods]
impl Transaction {
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let visit = &slf.get().visit;
        visit.enter(py)?;
        let transaction = slf.clone().unbind();
        visit.run(|here| {
            let root = here.root()?;
            proxy(py, &transaction, here, root)
        })
    }

    /// Ends the visit. Without an exception what was changed is committed.
    fn __exit__(
        slf: &Bound<'_, Self>,
        _class: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let transaction = slf.get();
        let visit = &transaction.visit;
        let alive = array::alive(transaction);
        let keeps = error.is_none() && alive == 0;
        let written = if visit.writes && keeps { array::write_back(visit) } else { Ok(()) };
        visit.leave(py, keeps && written.is_ok())?;
        written?;
        if alive > 0 {
            let lost =
                if visit.writes { ", and what the visit has changed is taken back" } else { "" };
            return Err(PyBufferError::new_err(format!(
                "{alive} arrays or buffers of space `{}` are still in use at the end of the visit{lost}: `del` them \
                 before, use them in a function, or copy them (`numpy.array(...)`)",
                visit.space.name
            )));
        }
        let abort = py.import("spacejmp._errors")?.getattr("Abort")?;
        error.is_instance(&abort)
    }

    fn __repr__(&self) -> String {
        let how = if self.visit.writes { "write" } else { "read" };
        format!("<spacejmp.Transaction to {how} {:?}>", self.visit.space.name)
    }
}
