//! The C library's allocator: how many arenas threads may spread over, and giving free memory back.

/// Bounds the number of arenas (glibc, `mallopt(3)` `M_ARENA_MAX`); elsewhere nothing happens. To be called before threads start.
pub fn bound_arenas(most: u16) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and has no conditions; it locks the allocator itself.
    unsafe {
        let _ = libc::mallopt(libc::M_ARENA_MAX, i32::from(most));
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}

/// Gives memory that is free at the ends of the arenas back to the kernel (glibc, `malloc_trim(3)`); may take milliseconds.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and has no conditions; it locks the allocator itself.
    unsafe {
        let _ = libc::malloc_trim(0);
    }
}
