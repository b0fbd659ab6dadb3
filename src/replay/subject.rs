//! The allocators that a replay runs, behind one face.
//!
//! A call costs the same for all of them: the replay's loop makes one call through a table of functions.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::NonNull;
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::config::Settings;
#[cfg(any(feature = "python", test))]
use crate::geometry::Runtime;
use crate::geometry::{Fixed, Geometry};
use crate::heap::Heap;
use crate::system::Os;
use crate::{Config, Occupancy, Realloc};

/// An allocator under test. All of them can hand out several instances of themselves.
///
/// # Safety
/// As many bytes of a block as were asked for may be written and read until the block is freed. (That blocks do not
/// overlap is not taken for granted: the verifying pass is there to see it, and touches one block at a time.)
pub(super) unsafe trait Subject {
    /// A block of at least `size` bytes (at least 1), or `None` when there is no memory.
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>>;

    /// Frees a block.
    ///
    /// # Safety
    /// The block came from this subject and is freed once.
    unsafe fn free(&mut self, block: NonNull<u8>);

    /// Gives a block that was asked for with at most `asked` bytes since it was allocated at least `size` of them, with
    /// its contents or without. `None` when there is no memory: the block is as it was.
    ///
    /// # Safety
    /// The block came from this subject; what is returned takes its place.
    unsafe fn resize(&mut self, block: NonNull<u8>, asked: u32, size: u32, copy: bool) -> Option<NonNull<u8>>;

    /// Whether what it holds goes with it when it is dropped.
    fn frees_on_drop(&self) -> bool {
        false
    }

    /// Bytes it has taken from the system at this moment, if it says.
    fn held_bytes(&self) -> Option<u64> {
        None
    }

    /// Its self-check: what is damaged.
    fn self_check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Its windows, if it has any.
    fn windows(&self) -> Vec<Occupancy> {
        Vec::new()
    }
}

/// Which allocator to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Competitor {
    /// This crate's, with settings.
    Pktalloc(Setup),
    /// The malloc of the process: the C library's, or what is preloaded in its place.
    Malloc,
    /// A shared library that has a malloc of its own (Unix).
    Library(PathBuf),
    /// No allocator: what the replay's own loop costs.
    Loop,
}

/// The settings of this crate's allocator, as [`Config`] has them. A shape other than the default one is chosen at run
/// time, as in Python, and needs the feature `python`; [`Runner::with_config`](super::Runner::with_config) takes any
/// shape that is known at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of `Config`")]
pub struct Setup {
    pub alignment: usize,
    pub window_bytes: usize,
    pub preallocated_windows: Option<usize>,
    pub keep_empty_windows: Option<usize>,
    pub memory_limit: Option<u64>,
    pub zero: bool,
    pub check: bool,
    pub huge_pages: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            alignment: 64,
            window_bytes: 128 << 10,
            preallocated_windows: None,
            keep_empty_windows: None,
            memory_limit: None,
            zero: false,
            check: false,
            huge_pages: false,
        }
    }
}

impl Setup {
    fn config(&self) -> Config {
        let mut config = Config::new().zero(self.zero).check(self.check).huge_pages(self.huge_pages);
        if let Some(windows) = self.preallocated_windows {
            config = config.preallocated_windows(windows);
        }
        if let Some(windows) = self.keep_empty_windows {
            config = config.keep_empty_windows(windows);
        }
        if let Some(bytes) = self.memory_limit {
            config = config.memory_limit(bytes);
        }
        config
    }
}

impl Competitor {
    /// Its name in tables and errors.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Pktalloc(_) => "pktalloc".to_owned(),
            Self::Malloc => "malloc".to_owned(),
            Self::Library(path) => path.display().to_string(),
            Self::Loop => "loop".to_owned(),
        }
    }

    /// Something that makes allocators of this kind.
    pub(super) fn maker(&self) -> Result<Maker, Error> {
        let maker: Maker = match self {
            Self::Pktalloc(setup) => {
                let setup = *setup;
                pktalloc(setup).map(drop)?;
                Box::new(move || pktalloc(setup))
            }
            Self::Malloc => Box::new(|| Ok(Box::new(CFunctions { malloc, free, realloc }))),
            Self::Library(path) => {
                let functions = open_library(path)?;
                Box::new(move || Ok(Box::new(functions)))
            }
            Self::Loop => Box::new(|| Ok(Box::new(BareLoop))),
        };
        Ok(maker)
    }
}

/// Makes allocators.
pub(super) type Maker = Box<dyn Fn() -> Result<Box<dyn Subject>, Error>>;

fn pktalloc(setup: Setup) -> Result<Box<dyn Subject>, Error> {
    let shape = (setup.alignment, setup.window_bytes);
    if shape == (Setup::default().alignment, Setup::default().window_bytes) {
        return shaped(setup.config());
    }
    chosen(setup)
}

/// An allocator whose shape is known at compile time.
fn shaped<const UNIT: usize, const WINDOW_UNITS: usize>(
    config: Config<UNIT, WINDOW_UNITS>,
) -> Result<Box<dyn Subject>, Error> {
    made(Fixed::<UNIT, WINDOW_UNITS, Os>::new(), config.settings)
}

fn made<G: Geometry + 'static>(shape: G, settings: Settings) -> Result<Box<dyn Subject>, Error> {
    let heap = Heap::with_settings(shape, settings, Os).map_err(|error| Error::Config(error.to_string()))?;
    Ok(Box::new(heap))
}

/// Makes allocators of a shape that is known at compile time.
pub(super) fn maker_of<const UNIT: usize, const WINDOW_UNITS: usize>(
    config: Config<UNIT, WINDOW_UNITS>,
) -> impl Fn() -> Result<Box<dyn Subject>, Error> {
    move || shaped(config)
}

/// An allocator whose shape is chosen at run time, which is what Python has.
#[cfg(any(feature = "python", test))]
fn chosen(setup: Setup) -> Result<Box<dyn Subject>, Error> {
    let shape = Runtime::new::<Os>(setup.alignment, setup.window_bytes);
    made(shape.map_err(|error| Error::Config(error.to_string()))?, setup.config().settings)
}

#[cfg(not(any(feature = "python", test)))]
fn chosen(_: Setup) -> Result<Box<dyn Subject>, Error> {
    Err(Error::Option {
        name: "the shape",
        allowed: "that of the default without the feature `python`; `Runner::with_config` takes any",
    })
}

// What is in an `Allocator`, and in Python's class.
// SAFETY: the heap's blocks may be written and read.
unsafe impl<G: Geometry> Subject for Heap<G, Os> {
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        Self::allocate(self, size as usize).ok().map(NonNull::cast)
    }

    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller frees a block of this heap, once.
        unsafe { Self::free(self, block) }
    }

    unsafe fn resize(&mut self, block: NonNull<u8>, _: u32, size: u32, copy: bool) -> Option<NonNull<u8>> {
        let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
        // SAFETY: the block is live, and the caller goes on with the one that takes its place.
        unsafe { self.reallocate(block, size as usize, how) }.ok().map(NonNull::cast)
    }

    fn frees_on_drop(&self) -> bool {
        true
    }

    fn held_bytes(&self) -> Option<u64> {
        Some(self.allocated_bytes())
    }

    fn self_check(&self) -> Result<(), String> {
        self.integrity_check().map_err(|damage| damage.to_string())
    }

    fn windows(&self) -> Vec<Occupancy> {
        Self::windows(self)
    }
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
    fn realloc(block: *mut c_void, size: usize) -> *mut c_void;
}

/// An allocator with the face of C's malloc. Blocks only grow, as programs keep the buffers that they use again: a
/// call that asks for no more than the block had costs nothing.
#[derive(Clone, Copy)]
pub(super) struct CFunctions {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
}

// SAFETY: malloc's blocks may be written and read.
unsafe impl Subject for CFunctions {
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        // SAFETY: malloc may be called with any size.
        NonNull::new(unsafe { (self.malloc)(size as usize) }.cast())
    }

    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller frees a block of this malloc, once.
        unsafe { (self.free)(block.as_ptr().cast()) }
    }

    unsafe fn resize(&mut self, block: NonNull<u8>, asked: u32, size: u32, copy: bool) -> Option<NonNull<u8>> {
        if size <= asked {
            return Some(block);
        }
        if copy {
            // SAFETY: the block is live, and the caller goes on with the one that takes its place.
            return NonNull::new(unsafe { (self.realloc)(block.as_ptr().cast(), size as usize) }.cast());
        }
        let fresh = self.allocate(size)?;
        // SAFETY: the block is live, and the caller goes on with the fresh one.
        unsafe { self.free(block) };
        Some(fresh)
    }
}

#[cfg(unix)]
fn open_library(path: &Path) -> Result<CFunctions, Error> {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;

    let fail = |why: &str| Error::Library { path: path.to_owned(), why: why.to_owned() };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| fail("the name holds a zero byte"))?;
    // SAFETY: opening a library runs its initialisers, which is what the caller asked for; it stays open for ever.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: the last call failed, so there is a message, which is copied before the next call.
        let message = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
        return Err(fail(&message));
    }
    let find = |name: &CStr| {
        // SAFETY: the library is open and the name ends in a zero byte.
        NonNull::new(unsafe { libc::dlsym(library, name.as_ptr()) })
    };
    // mimalloc and a jemalloc with a prefix have names of their own; the others take over malloc's.
    let names = [
        [c"mi_malloc", c"mi_free", c"mi_realloc"],
        [c"je_malloc", c"je_free", c"je_realloc"],
        [c"malloc", c"free", c"realloc"],
    ];
    for [malloc_name, free_name, realloc_name] in names {
        let (Some(allocate), Some(release), Some(resize)) = (find(malloc_name), find(free_name), find(realloc_name))
        else {
            continue;
        };
        if allocate.as_ptr() == malloc as *mut c_void {
            // Found in the C library, which the library depends on.
            continue;
        }
        // SAFETY: functions of these names have these types in every allocator.
        return Ok(unsafe {
            CFunctions {
                malloc: core::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(usize) -> *mut c_void>(allocate),
                free: core::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(*mut c_void)>(release),
                realloc: core::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>(
                    resize,
                ),
            }
        });
    }
    Err(fail("it has no malloc of its own"))
}

#[cfg(not(unix))]
fn open_library(path: &Path) -> Result<CFunctions, Error> {
    Err(Error::Library { path: path.to_owned(), why: "libraries are loaded on Unix only".to_owned() })
}

/// Allocates nothing: what is left is the replay's own loop, and a call that does nothing.
struct BareLoop;

// SAFETY: the verifying pass does not run on it.
unsafe impl Subject for BareLoop {
    fn allocate(&mut self, size: u32) -> Option<NonNull<u8>> {
        black_box(size);
        Some(NonNull::dangling())
    }

    unsafe fn free(&mut self, block: NonNull<u8>) {
        black_box(block);
    }

    unsafe fn resize(&mut self, block: NonNull<u8>, _: u32, size: u32, _: bool) -> Option<NonNull<u8>> {
        black_box(size);
        Some(block)
    }

    fn frees_on_drop(&self) -> bool {
        true
    }
}
