//! What is large: directories with 100,000 entries, files beyond 4 GiB.

mod support;

use std::fs;

use cwasm_wasi::calls::Call;
use cwasm_wasi::{Snapshot, WasiCtx};
use support::{Host, ROOT};

#[test]
fn a_directory_with_100_000_entries_is_listed_whole_and_once() {
    const COUNT: usize = 100_000;
    let host = Host::new();
    for index in 0..COUNT {
        fs::write(host.inside().join(format!("{index:06}")), "").unwrap();
    }
    let ctx = WasiCtx::builder().preopened_dir(host.inside(), "/").build().unwrap();
    // As a C library does it: with a small buffer, from cookie to cookie.
    const SIZE: u32 = 4096;
    let mut memory = vec![0; 8192];
    let mut seen = vec![false; COUNT];
    let mut cookie = 0;
    loop {
        let mut call = Call::new(&ctx, &mut memory[..], Snapshot::Preview1);
        call.fd_readdir(ROOT, 8, SIZE, cookie, 0).unwrap();
        let used = u32::from_le_bytes(memory[..4].try_into().unwrap()) as usize;
        let mut rest = &memory[8..8 + used];
        while let Some((head, tail)) = rest.split_at_checked(24) {
            let len = u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize;
            let Some((name, tail)) = tail.split_at_checked(len) else { break };
            cookie = u64::from_le_bytes(head[..8].try_into().unwrap());
            if let Ok(index) = std::str::from_utf8(name).unwrap().parse::<usize>() {
                assert!(!std::mem::replace(&mut seen[index], true), "{index} is listed twice");
            }
            rest = tail;
        }
        if used < SIZE as usize {
            break;
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn a_sparse_file_has_offsets_of_64_bits() {
    let host = Host::new();
    fs::write(host.inside().join("file"), "").unwrap();
    let mut guest = host.guest();
    let fd = guest.open("file", 0, 0).unwrap();
    let far = (9 << 32) + 5;
    guest.call().fd_filestat_set_size(fd, far).unwrap();
    assert_eq!(fs::metadata(host.inside().join("file")).unwrap().len(), far);
    guest.call().fd_seek(fd, -3, 2, 0).unwrap();
    assert_eq!(guest.read_fd(fd), Ok("\0\0\0".into()));
    guest.call().fd_tell(fd, 0).unwrap();
    assert_eq!(guest.u64_at(0), far);
    guest.call().fd_seek(fd, i64::MAX, 0, 0).unwrap_err();
    guest.call().fd_seek(fd, (8 << 32) + 1, 0, 0).unwrap();
    assert_eq!(guest.u64_at(0), (8 << 32) + 1);
}
