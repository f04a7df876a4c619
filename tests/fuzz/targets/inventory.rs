//! The inventory file: any bytes give an inventory or the first thing wrong with it, never a
//! panic.

#![no_main]

use std::io::{Seek as _, Write as _};

use haflinger_discovery::check_inventory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thread_local! {
        static FILE: tempfile::NamedTempFile = tempfile::NamedTempFile::new().expect("a file");
    }
    FILE.with(|file| {
        let mut writer = file.as_file();
        writer.set_len(0).and_then(|()| writer.rewind()).expect("an empty file");
        writer.write_all(bytes).expect("a written file");
        if let Err(error) = check_inventory(file.path()) {
            assert!(!error.to_string().is_empty());
        }
    });
});
