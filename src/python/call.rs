//! How the interpreter enters this crate: functions with C's calling convention, their arguments, and the errors they
//! raise. PyO3's wrappers would cost more than the work, and end the process where memory has run out.

use core::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString, PyTuple};

use super::errors;

/// What a function with C's calling convention returns when it has raised an exception.
pub(super) trait Raised {
    /// The value that tells the interpreter to look for the exception.
    const RAISED: Self;
}

impl Raised for *mut ffi::PyObject {
    const RAISED: Self = core::ptr::null_mut();
}

/// Both `c_int` and `Py_ssize_t` say -1.
impl Raised for c_int {
    const RAISED: Self = -1;
}

impl Raised for ffi::Py_ssize_t {
    const RAISED: Self = -1;
}

/// Runs the body of a function that the interpreter calls, and raises its error. A panic, which would be a defect of
/// this crate, becomes a `SystemError` and never unwinds into the interpreter.
///
/// # Safety
/// The interpreter calls, on a thread that is attached to it.
#[inline(always)]
pub(super) unsafe fn enter<R: Raised>(body: impl FnOnce(Python<'_>) -> PyResult<R>) -> R {
    // SAFETY: the caller's promise; the token does not outlive this call.
    let py = unsafe { Python::assume_attached() };
    match catch_unwind(AssertUnwindSafe(|| body(py))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => raise(py, error),
        Err(_) => {
            // SAFETY: the thread is attached.
            unsafe {
                let text = c"a defect in pktalloc stopped this call; please report it";
                ffi::PyErr_SetString(ffi::PyExc_SystemError, text.as_ptr());
            }
            R::RAISED
        }
    }
}

#[cold]
fn raise<R: Raised>(py: Python<'_>, error: PyErr) -> R {
    error.restore(py);
    R::RAISED
}

/// One argument, borrowed for the duration of the call.
pub(super) type Argument<'a, 'py> = Borrowed<'a, 'py, PyAny>;

/// The arguments of a `METH_FASTCALL | METH_KEYWORDS` call, borrowed for its duration.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a, 'py> {
    py: Python<'py>,
    /// The positional arguments, then the values of the keywords.
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    keywords: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// # Safety
    /// The four values are those that the interpreter passed to a `METH_FASTCALL | METH_KEYWORDS` function that has not
    /// returned yet.
    #[inline(always)]
    pub(super) unsafe fn new(
        py: Python<'py>,
        values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> Self {
        let positional = positional as usize;
        // SAFETY: `keywords` is null or a tuple of strings, alive during the call.
        let keywords =
            unsafe { Borrowed::from_ptr_or_opt(py, keywords).map(|names| names.cast_unchecked::<PyTuple>()) };
        let count = positional + keywords.map_or(0, |names| names.len());
        let values = if count == 0 {
            // A call without arguments may pass a null pointer.
            &[]
        } else {
            // SAFETY: the positional arguments and the keywords' values lie side by side, alive during the call.
            unsafe { core::slice::from_raw_parts(values, count) }
        };
        Self { py, values, positional, keywords }
    }

    /// The only argument of a call with exactly one, given by position: the case worth a shortcut.
    #[inline(always)]
    pub(super) fn single(self) -> Option<Argument<'a, 'py>> {
        (self.positional == 1 && self.values.len() == 1).then(|| self.value(0))
    }

    /// How many arguments were given by position.
    pub(super) fn positional(self) -> usize {
        self.positional
    }

    /// Whether these are the arguments of an `__exit__` that an exception is the cause of.
    pub(super) fn raising(self) -> bool {
        !self.values.is_empty() && !self.value(0).is_none()
    }

    #[inline(always)]
    fn value(self, index: usize) -> Argument<'a, 'py> {
        // SAFETY: arguments are never null and live as long as the call.
        unsafe { Borrowed::from_ptr(self.py, self.values[index]) }
    }

    /// The arguments of `function` by parameter, where all parameters are required.
    pub(super) fn required<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
    ) -> PyResult<[Argument<'a, 'py>; N]> {
        Ok(self.sort(function, parameters, [])?.0)
    }

    /// The arguments of `function` by parameter, required and optional ones.
    pub(super) fn sort<const N: usize, const M: usize>(
        self,
        function: &str,
        required: [&str; N],
        optional: [&str; M],
    ) -> PyResult<([Argument<'a, 'py>; N], [Option<Argument<'a, 'py>>; M])> {
        if self.positional > N + M {
            return Err(too_many(function, N + M, self.positional));
        }
        let mut given_required = [None; N];
        let mut given_optional = [None; M];
        for index in 0..self.values.len() {
            let name = match index.checked_sub(self.positional) {
                None => None,
                Some(keyword) => self.keyword(keyword),
            };
            let at = match name {
                None => index,
                Some(name) => position(function, name, required.iter().chain(&optional))?,
            };
            let place = if at < N { &mut given_required[at] } else { &mut given_optional[at - N] };
            if let (Some(_), Some(name)) = (&place, name) {
                let name = name.to_str()?;
                return Err(errors::kind(format_args!("{function}() got multiple values for argument '{name}'")));
            }
            *place = Some(self.value(index));
        }
        if let Some(missing) = given_required.iter().position(Option::is_none) {
            return Err(errors::kind(format_args!("{function}() missing required argument: '{}'", required[missing])));
        }
        Ok((given_required.map(|given| given.expect("none is missing")), given_optional))
    }

    /// The name of a keyword.
    fn keyword(self, index: usize) -> Option<Borrowed<'a, 'py, PyString>> {
        // SAFETY: the names of keywords are strings, and the tuple keeps them alive during the call.
        self.keywords.map(|names| unsafe {
            let name = ffi::PyTuple_GetItem(names.as_ptr(), index as ffi::Py_ssize_t);
            Borrowed::from_ptr(self.py, name).cast_unchecked()
        })
    }
}

#[cold]
fn too_many(function: &str, most: usize, given: usize) -> PyErr {
    let were = if given == 1 { "was" } else { "were" };
    match most {
        0 => errors::kind(format_args!("{function}() takes no arguments, {given} {were} given")),
        1 => errors::kind(format_args!("{function}() takes at most 1 argument, {given} {were} given")),
        _ => errors::kind(format_args!("{function}() takes at most {most} arguments, {given} {were} given")),
    }
}

/// Which of the `parameters` is called `name`.
fn position<'p>(
    function: &str,
    name: Borrowed<'_, '_, PyString>,
    mut parameters: impl Iterator<Item = &'p &'p str>,
) -> PyResult<usize> {
    let name = name.to_str()?;
    parameters
        .position(|parameter| *parameter == name)
        .ok_or_else(|| errors::kind(format_args!("{function}() got an unexpected keyword argument '{name}'")))
}

/// The arguments of a class that takes keywords only, by parameter: a class is called with a tuple and a dictionary.
/// They are held, since to convert one may run code that changes the dictionary.
pub(super) fn keywords_only<'py, const N: usize>(
    class: &str,
    positional: Borrowed<'_, 'py, PyTuple>,
    keywords: Option<Borrowed<'_, 'py, PyDict>>,
    parameters: [&str; N],
) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
    let mut given = [const { None }; N];
    if !positional.is_empty() {
        return Err(errors::kind(format_args!("{class}() takes no positional arguments")));
    }
    let Some(keywords) = keywords else { return Ok(given) };
    let (mut place, mut name, mut value) = (0, core::ptr::null_mut(), core::ptr::null_mut());
    // SAFETY: the dictionary is alive, the pointers are to variables, and nothing in the loop runs Python code, so that
    // the dictionary stays as it is.
    unsafe {
        while ffi::PyDict_Next(keywords.as_ptr(), &raw mut place, &raw mut name, &raw mut value) != 0 {
            let name = Borrowed::from_ptr(keywords.py(), name).cast_unchecked::<PyString>();
            let at = position(class, name, parameters.iter())?;
            given[at] = Some(Bound::from_borrowed_ptr(keywords.py(), value));
        }
    }
    Ok(given)
}

/// What is on or off, and `default` where nothing is said about it.
pub(super) fn switch(value: Option<Borrowed<'_, '_, PyAny>>, name: &str, default: bool) -> PyResult<bool> {
    match value {
        None => Ok(default),
        Some(value) => match value.cast::<PyBool>() {
            Ok(value) => Ok(value.is_true()),
            Err(_) => Err(errors::unexpected(value, format_args!("{name} must be True or False, not "))),
        },
    }
}

/// An argument of a function that PyO3 wraps, which is on or off: taken as it is, and looked at by [`switch`], which
/// knows its name.
#[cfg(target_os = "linux")]
pub(super) struct Switch<'a, 'py>(pub(super) Option<Argument<'a, 'py>>);

#[cfg(target_os = "linux")]
impl<'a, 'py> FromPyObject<'a, 'py> for Switch<'a, 'py> {
    type Error = core::convert::Infallible;

    fn extract(value: Argument<'a, 'py>) -> Result<Self, Self::Error> {
        Ok(Self(Some(value)))
    }
}

/// The index that `key` is, if it is one. May run Python code.
#[inline]
pub(super) fn index(key: Borrowed<'_, '_, PyAny>) -> PyResult<Option<isize>> {
    // SAFETY: `key` is an object, and the thread is attached.
    unsafe {
        if ffi::PyIndex_Check(key.as_ptr()) == 0 {
            return Ok(None);
        }
        let index = ffi::PyNumber_AsSsize_t(key.as_ptr(), ffi::PyExc_IndexError);
        if index == -1
            && let Some(error) = PyErr::take(key.py())
        {
            return Err(error);
        }
        Ok(Some(index))
    }
}

/// What to raise where the interpreter has raised `error` when it took the argument `name` for an integer: an
/// `__index__`'s own error is kept, and a value without one is named.
#[cold]
pub(super) fn not_an_integer(value: Borrowed<'_, '_, PyAny>, name: &str, error: PyErr) -> PyErr {
    // SAFETY: `value` is an object, and the thread is attached.
    if unsafe { ffi::PyIndex_Check(value.as_ptr()) } != 0 {
        return error;
    }
    errors::discard(value.py(), error);
    errors::unexpected(value, format_args!("{name} must be an integer, not "))
}

/// A count: an integer, or anything that offers `__index__`, that is at least `least`. What is beyond every address
/// space is a `MemoryError`, since no memory could hold it.
///
/// `__index__` may run any code, so callers look at their own state afterwards.
#[inline]
pub(super) fn count(value: Borrowed<'_, '_, PyAny>, name: &str, least: usize) -> PyResult<usize> {
    let mut overflow = 0;
    // SAFETY: `value` is an object, and the thread is attached.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
    match usize::try_from(number) {
        Ok(number) if number >= least => Ok(number),
        _ => Err(not_a_count(value, number, overflow, name, least)),
    }
}

/// A packet's size in bytes: a [`count`], which may be 0.
#[inline]
pub(super) fn size(value: Borrowed<'_, '_, PyAny>) -> PyResult<usize> {
    count(value, "size", 0)
}

#[cold]
fn not_a_count(value: Borrowed<'_, '_, PyAny>, number: i64, overflow: c_int, name: &str, least: usize) -> PyErr {
    if overflow == 0
        && let Some(error) = PyErr::take(value.py())
    {
        return not_an_integer(value, name, error);
    }
    if overflow > 0 || number > 0 {
        return errors::memory(format_args!("{name} is beyond what an address space can hold"));
    }
    if overflow < 0 {
        return errors::value(format_args!("{name} must be at least {least}, got a number far below"));
    }
    errors::value(format_args!("{name} must be at least {least}, got {number}"))
}

/// An integer for the setting `name`; `allowed` says what it may be, and the core checks the rest.
pub(super) fn setting(value: Borrowed<'_, '_, PyAny>, name: &str, allowed: &str) -> PyResult<usize> {
    let mut overflow = 0;
    // SAFETY: `value` is an object, and the thread is attached.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
    if number == -1
        && overflow == 0
        && let Some(error) = PyErr::take(value.py())
    {
        return Err(not_an_integer(value, name, error));
    }
    match usize::try_from(number) {
        Ok(number) if overflow == 0 => Ok(number),
        _ if overflow == 0 => Err(errors::value(format_args!("{name} is {number}, must be {allowed}"))),
        _ => Err(errors::value(format_args!("{name} is far beyond what is allowed, must be {allowed}"))),
    }
}

/// A number as an object. (PyO3's conversion panics when there is no memory.)
pub(super) fn int(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromUnsignedLongLong(number)) }
}

/// `None` as a result.
pub(super) fn none(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

/// A truth as a result.
pub(super) fn truth(py: Python<'_>, truth: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, truth).to_owned().into_any()
}
