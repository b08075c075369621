//! Lets no number in a damaged file end the process: memory that nobody has is handed out all the
//! same, untouched, and the reading into it fails instead.
//!
//! The journal's store takes a page's size from the page number that leads to it, and memory for it
//! before it reads. A size of terabytes would be refused, and what is refused memory aborts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

#[global_allocator]
static MEMORY: Memory = Memory;

struct Memory;

/// No honest request is as large, and a page is small beside it.
const HUGE: usize = 1 << 30;

// SAFETY: what is not huge goes to the system's allocator with the same layout each time. What is
// huge is a mapping of its own of that length, aligned to a page; what goes from one kind to the other
// is copied.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_huge(layout.size()) {
            return map(layout);
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_huge(layout.size()) {
            return map(layout);
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_huge(layout.size()) {
            // SAFETY: it is a mapping of this length, and nobody uses it any more.
            unsafe { libc::munmap(memory.cast(), layout.size()) };
            return;
        }
        // SAFETY: it came from there with the same layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match (is_huge(layout.size()), is_huge(new_size)) {
            // SAFETY: it came from there with the same layout, and stays there.
            (false, false) => unsafe { System.realloc(memory, layout, new_size) },
            (true, true) => {
                // SAFETY: it is a mapping of this length, and nobody knows where it is but the caller.
                let moved = unsafe {
                    libc::mremap(memory.cast(), layout.size(), new_size, libc::MREMAP_MAYMOVE)
                };
                if moved == libc::MAP_FAILED { null_mut() } else { moved.cast() }
            }
            // SAFETY: the caller's promises are the same.
            _ => unsafe { self.take_along(memory, layout, new_size) },
        }
    }
}

impl Memory {
    /// [`GlobalAlloc::realloc`] from one kind of memory to the other.
    unsafe fn take_along(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is valid with this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: a new size is never 0.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: both are valid for the smaller of the sizes and do not overlap; what is moved
            // is not used any more.
            unsafe {
                memory.copy_to_nonoverlapping(moved, layout.size().min(new_size));
                self.dealloc(memory, layout);
            }
        }
        moved
    }
}

fn is_huge(size: usize) -> bool {
    size >= HUGE
}

/// Zeroed memory that counts as used only where it is written.
fn map(layout: Layout) -> *mut u8 {
    const PAGE: usize = 4096;
    if layout.align() > PAGE {
        return null_mut();
    }
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    );
    // SAFETY: a new mapping touches no other memory.
    let mapped = unsafe { libc::mmap(null_mut(), layout.size(), access, kind, -1, 0) };
    if mapped == libc::MAP_FAILED { null_mut() } else { mapped.cast() }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    #[test]
    fn a_size_of_terabytes_is_an_error_of_reading_and_not_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page");
        std::fs::write(&path, b"short").unwrap();
        let mut page = vec![0u8; 8 << 40];
        let read = std::fs::File::open(path).unwrap().read_exact(&mut page);
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        assert_eq!((&page[..6], page.last()), (&b"short\0"[..], Some(&0)));
    }

    #[test]
    fn what_grows_huge_and_shrinks_again_keeps_its_content() {
        let mut grown: Vec<u8> = b"content".to_vec();
        grown.reserve_exact(super::HUGE);
        assert!(grown.capacity() >= super::HUGE);
        grown.reserve_exact(2 * super::HUGE);
        assert_eq!(grown, b"content");
        grown.shrink_to_fit();
        assert_eq!((grown.as_slice(), grown.capacity()), (&b"content"[..], 7));
    }
}
