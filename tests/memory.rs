//! What the store of certificates takes of memory, to the byte: a program of its own, whose allocator counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, missing_docs)]

#[path = "it/util/certificates.rs"]
mod certificates;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use certificates::Authority;
use pixelgate::account::ServerName;
use pixelgate::tls::{CertFolders, CertStore};
use tikv_jemallocator::{Jemalloc, usable_size};

/// Enough for several shards: what is counted to the byte needs no more.
const NAMES: usize = 2_000;
/// Bytes that a name may take that nobody visited.
const BYTES_MAX: usize = 512;

/// The gateway's allocator, and how many bytes of it are in use, with what it rounds up to.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is jemalloc's own; only numbers are added.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises; what is not null was allocated just now.
        unsafe {
            let place = Jemalloc.alloc(layout);
            if !place.is_null() {
                IN_USE.fetch_add(usable_size(place), Ordering::Relaxed);
            }
            place
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises, it was allocated above and not freed.
        unsafe {
            IN_USE.fetch_sub(usable_size(place), Ordering::Relaxed);
            Jemalloc.dealloc(place, layout);
        }
    }
}

#[test]
fn a_name_that_nobody_visited_takes_half_a_kilobyte() {
    let dir = tempfile::tempdir().unwrap();
    let folders = CertFolders {
        certs_dir: dir.path().join("certs"),
        issued_dir: dir.path().join("issued"),
        index: dir.path().join("certificates.index"),
    };
    let authority = Authority::new();
    let names: Vec<ServerName> = (0..NAMES).map(|n| format!("events.shop{n}.example").parse().unwrap()).collect();
    names.iter().for_each(|name| authority.issue(&folders.certs_dir, name.as_str(), 90));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // The first start parses every file, a later one finds what is known in the index.
    for start in ["the first start", "a start with an index"] {
        let before = IN_USE.load(Ordering::Relaxed);
        let store = CertStore::load(&folders, &names, None, i64::try_from(now).unwrap());
        let each = IN_USE.load(Ordering::Relaxed).saturating_sub(before) / NAMES;
        assert_eq!(store.summary().valid, NAMES);
        assert!((50..=BYTES_MAX).contains(&each), "{start}: {each} bytes a name");
        println!("{start}: {each} bytes a name");
        store.keep_index().unwrap();
    }
}
