//! How memory is taken from the system: freed memory stays in the process, and where
//! there is none left somebody is told.
//!
//! CPU backends allocate the result of every operation. glibc returns large
//! blocks to the system at once and fetches them again for the next result, at
//! the price of a page fault for each 4 KiB: a fifth to a quarter of a training
//! step (docs/performance.md).

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which calls a function before it gives up.
///
/// For a program's `#[global_allocator]`: Rust ends a process that gets no memory with
/// the number of bytes as the only explanation. The function may end the process with
/// a better one, or return, and then the allocation fails as it would have. It must do
/// with little memory itself, and may be called again while it runs.
#[derive(Debug)]
pub struct Allocator {
    failed: fn(usize),
}

impl Allocator {
    /// `failed` is called with the size of an allocation, in bytes, that the system
    /// refused.
    #[must_use]
    pub const fn telling(failed: fn(usize)) -> Self {
        Self { failed }
    }

    fn told(&self, block: *mut u8, size: usize) -> *mut u8 {
        if block.is_null() {
            (self.failed)(size);
        }
        block
    }
}

#[allow(unsafe_code, reason = "an allocator can be written in no other way")]
// SAFETY: every call goes to the system's allocator as it came, and what that gives is
// given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: of the caller.
        self.told(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: of the caller.
        self.told(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: of the caller.
        self.told(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: of the caller.
        unsafe { System.dealloc(block, layout) };
    }
}

/// Tells the allocator to keep what is freed. Call it at the start of `main`,
/// before the first large allocation; elsewhere than on Linux with glibc it
/// does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Serve large blocks from the heap, not from mappings of their own.
        const M_MMAP_MAX: i32 = -4;
        /// Free memory at the heap's end that is kept, in bytes.
        const M_TRIM_THRESHOLD: i32 = -1;
        /// As a threshold: nothing is given back.
        const NEVER: i32 = -1;
        #[allow(unsafe_code, reason = "glibc offers this setting in no other way")]
        // SAFETY: `mallopt` takes two integers and is part of every glibc; it
        // only changes how later allocations are served.
        unsafe {
            unsafe extern "C" {
                fn mallopt(parameter: i32, value: i32) -> i32;
            }
            mallopt(M_MMAP_MAX, 0);
            mallopt(M_TRIM_THRESHOLD, NEVER);
        }
    }
}
