//! Keeps freed memory in the process.
//!
//! CPU backends allocate the result of every operation. glibc returns large
//! blocks to the system at once and fetches them again for the next result, at
//! the price of a page fault for each 4 KiB: a fifth to a quarter of a training
//! step (docs/performance.md).

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
        #[allow(unsafe_code)] // glibc offers this setting in no other way.
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
