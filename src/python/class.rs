//! Classes of C's interface: tables of methods and attributes, and the functions in them.

use core::ffi::{CStr, c_int, c_uint, c_ulong, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::errors;

/// Any result of a method.
pub(super) type Object<'py> = PyResult<Bound<'py, PyAny>>;

/// A method: its name, its function, and what `help()` shows.
pub(super) struct Method(pub(super) &'static CStr, pub(super) Function, pub(super) &'static CStr);

/// The function of a method, in the form that [`method!`] and [`method_as_tuple!`] make.
pub(super) enum Function {
    /// Takes its arguments side by side.
    Fast(ffi::PyCFunctionFastWithKeywords),
    /// Takes a tuple and a dictionary.
    Tuple(ffi::PyCFunctionWithKeywords),
}

/// An attribute that can be read: its name, its function, and what `help()` shows.
pub(super) struct Attribute(pub(super) &'static CStr, pub(super) ffi::getter, pub(super) &'static CStr);

/// Wraps a function of an object and its [`Arguments`](super::call::Arguments) as one of C: `method!(Ref, function)`,
/// where `Ref::new` makes what the function takes of a pointer to the object.
macro_rules! method {
    ($receiver:ident, $body:path) => {{
        unsafe extern "C" fn entry(
            object: *mut pyo3::ffi::PyObject,
            values: *const *mut pyo3::ffi::PyObject,
            positional: pyo3::ffi::Py_ssize_t,
            keywords: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter calls this with an object of the class (a method's descriptor checks that) and
            // the arguments of a fast call, all alive until it returns.
            unsafe {
                $crate::python::call::enter(|py| {
                    let arguments = $crate::python::call::Arguments::new(py, values, positional, keywords);
                    Ok($body($receiver::new(py, object), arguments)?.into_ptr())
                })
            }
        }
        $crate::python::class::Function::Fast(entry)
    }};
}
pub(super) use method;

/// Wraps a function of an object as the getter of an attribute.
macro_rules! getter {
    ($receiver:ident, $body:path) => {{
        unsafe extern "C" fn entry(
            object: *mut pyo3::ffi::PyObject,
            _closure: *mut core::ffi::c_void,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter calls this with an object of the class that is alive until it returns.
            unsafe { $crate::python::call::enter(|py| Ok($body($receiver::new(py, object))?.into_ptr())) }
        }
        entry
    }};
}
pub(super) use getter;

/// A slot of a type.
pub(super) fn slot(slot: c_int, function: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc: function }
}

/// What a class is, apart from what it does.
pub(super) struct Class {
    pub(super) name: &'static CStr,
    pub(super) doc: &'static CStr,
    /// Flags on top of those that all classes here have.
    pub(super) flags: c_ulong,
    /// Bytes of an object.
    pub(super) size: usize,
    /// Where an object has the list of its weak references.
    pub(super) weak_references: usize,
}

/// Makes a class that cannot be derived from or changed, of objects without a dictionary that take no part in garbage
/// collection and can be referred to weakly.
///
/// # Safety
/// Each of `slots` has a function of the slot's type. The objects are of the size and have the list that `class` says,
/// and begin with a [`ffi::PyObject`].
pub(super) unsafe fn make<'py, const M: usize, const A: usize, const S: usize>(
    py: Python<'py>,
    class: Class,
    methods: [Method; M],
    attributes: [Attribute; A],
    slots: [ffi::PyType_Slot; S],
) -> Object<'py> {
    let end = ffi::PyMethodDef::zeroed();
    let methods = methods.map(|Method(name, function, doc)| {
        let (function, flags) = match function {
            Function::Fast(function) => {
                (ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function }, ffi::METH_FASTCALL)
            }
            Function::Tuple(function) => {
                (ffi::PyMethodDefPointer { PyCFunctionWithKeywords: function }, ffi::METH_VARARGS)
            }
        };
        ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: function,
            ml_flags: flags | ffi::METH_KEYWORDS,
            ml_doc: doc.as_ptr(),
        }
    });
    let attributes = attributes.map(|Attribute(name, get, doc)| ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: doc.as_ptr(),
        closure: core::ptr::null_mut(),
    });
    // The interpreter keeps pointers to these tables.
    let methods = list(methods.into_iter().chain([end]))?.leak();
    let attributes = list(attributes.into_iter().chain([ffi::PyGetSetDef::default()]))?.leak();
    let mut members = [
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: class.weak_references as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: core::ptr::null(),
        },
        ffi::PyMemberDef::default(),
    ];
    let tables = [
        slot(ffi::Py_tp_doc, class.doc.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
    ];
    let end = slot(0, core::ptr::null_mut());
    let mut slots = list(tables.into_iter().chain(slots).chain([end]))?;
    let mut spec = ffi::PyType_Spec {
        name: class.name.as_ptr(),
        basicsize: class.size as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_IMMUTABLETYPE | class.flags) as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the caller's promise; the lists end with an empty entry and live for ever where the interpreter keeps
    // them.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }
}

/// Enters an object into a module under a name, and the name into the module's `__all__`. PyO3 does so with panics.
pub(super) fn add<T>(module: &Bound<'_, PyModule>, name: &CStr, object: &Bound<'_, T>) -> PyResult<()> {
    let py = module.py();
    // SAFETY: the objects are alive, the names end in a zero byte, and what is made is owned here.
    unsafe {
        let mut names =
            Bound::from_owned_ptr_or_opt(py, ffi::PyObject_GetAttrString(module.as_ptr(), c"__all__".as_ptr()));
        if names.is_none() {
            if ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) == 0 {
                return Err(PyErr::fetch(py));
            }
            ffi::PyErr_Clear();
            let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(0))?;
            done(py, ffi::PyModule_AddObjectRef(module.as_ptr(), c"__all__".as_ptr(), list.as_ptr()))?;
            names = Some(list);
        }
        let text = Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_FromString(name.as_ptr()))?;
        if let Some(names) = names {
            done(py, ffi::PyList_Append(names.as_ptr(), text.as_ptr()))?;
        }
        done(py, ffi::PyModule_AddObjectRef(module.as_ptr(), name.as_ptr(), object.as_ptr()))
    }
}

/// The exception of a call of the interpreter that says -1 for one.
fn done(py: Python<'_>, result: c_int) -> PyResult<()> {
    if result < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}

/// The items side by side; an error when there is no memory for them.
fn list<T>(items: impl Iterator<Item = T>) -> PyResult<Vec<T>> {
    let mut list = Vec::new();
    for item in items {
        list.try_reserve(1).map_err(|_| errors::no_memory())?;
        list.push(item);
    }
    Ok(list)
}
