//! The fuzz targets' properties, as tests: with their corpus, and with bytes close to it. `UPDATE_CORPUS=1` writes the
//! corpus.

use std::fs;
use std::path::{Path, PathBuf};

/// What is said, and shown in another way than it was.
#[path = "../../fuzz/fuzz_targets/retold.rs"]
pub(crate) mod retold;

/// HTTP/2 as another program understands it.
#[path = "../../fuzz/fuzz_targets/peer/mod.rs"]
pub(crate) mod peer;

/// Mutations of each input.
const ROUNDS: usize = 2000;

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// Runs `property` over an input of the corpus, cut short and with one byte changed.
pub(crate) fn run(target: &str, name: &str, bytes: &[u8], property: impl Fn(&[u8])) {
    let path = directory(target).join(name);
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        fs::create_dir_all(directory(target)).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let found = fs::read(&path).unwrap_or_default();
    assert_eq!(found, bytes, "{}: run with UPDATE_CORPUS=1", path.display());
    near(bytes, property);
}

/// The same over all that is there of a target, of which nobody can say how it was made.
pub(crate) fn run_all(target: &str, least: usize, property: impl Fn(&[u8])) {
    let files = fs::read_dir(directory(target)).unwrap();
    let inputs: Vec<_> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(inputs.len() >= least, "the corpus of {target} isn't whole");
    inputs.iter().for_each(|bytes| near(bytes, &property));
}

fn near(bytes: &[u8], property: impl Fn(&[u8])) {
    property(bytes);
    for at in 0..bytes.len() {
        property(&bytes[..at]);
        let mut changed = bytes.to_vec();
        for flip in [1, 0x80, 0xff] {
            changed[at] = bytes[at] ^ flip;
            property(&changed);
        }
    }
    mutated(bytes, property);
}

/// What a fuzzer would begin with, the same each time: pieces overwritten, cut out, said again, and numbers that are at
/// the edge of what they can be.
fn mutated(bytes: &[u8], property: impl Fn(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 32).unwrap() % below.max(1)
    };
    for _ in 0..ROUNDS {
        let mut changed = bytes.to_vec();
        for _ in 0..=random(6) {
            let at = random(changed.len() + 1);
            let end = (at + random(12)).min(changed.len());
            match random(5) {
                0 => drop(changed.drain(at..end)),
                1 => changed[at..end].fill_with(|| [0, 1, 0x7f, 0x80, 0xff][random(5)]),
                2 => {
                    let piece = changed[at..end].to_vec();
                    let to = random(changed.len() + 1);
                    changed.splice(to..to, piece);
                }
                3 if at < changed.len() => changed[at] = u8::try_from(random(256)).unwrap(),
                _ => changed.truncate(at),
            }
        }
        property(&changed);
    }
}

/// Steps of the targets in `fuzz/fuzz_targets/retold.rs`: who says what.
pub(crate) fn steps(said: &[(u8, &[u8])]) -> Vec<u8> {
    let mut steps = Vec::new();
    for (who, text) in said {
        for piece in text.chunks(63) {
            steps.push(u8::try_from(piece.len()).unwrap() << 2 | who);
            steps.extend_from_slice(piece);
        }
    }
    steps
}
