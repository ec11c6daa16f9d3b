//! A hash file from anywhere: whatever is accepted agrees with itself and survives being written and read again.
#![no_main]

use dosvc_content::PiecesHashFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(file) = PiecesHashFile::from_json(json) else {
        return;
    };
    assert_eq!(
        file.piece_hashes().len(),
        file.lengths().piece_count() as usize
    );
    let again = PiecesHashFile::from_json(&file.to_json()).expect("what is written can be read");
    assert_eq!(again.hash_of_hashes(), file.hash_of_hashes());
    assert_eq!(again.piece_hashes(), file.piece_hashes());
    assert_eq!(again.lengths(), file.lengths());
});
