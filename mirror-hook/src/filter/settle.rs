//! The conditions on the executable in a policy that was told through the environment.

use super::glob::fits_path;
use super::{MAX_RULES, NAMES, RULE_BYTES, RULES, array, condition};

/// Settles what a policy says of the executable, whose whole path is `executable`: rules for another are
/// taken out. Bytes that are no policy stay as they are.
pub(crate) fn settle(policy: &mut [u8], executable: &[u8]) {
    let Some(count) = policy
        .get(4..8)
        .map(|word| u32::from_ne_bytes(array(word, 0)))
    else {
        return;
    };
    let Some(mut count) = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MAX_RULES)
    else {
        return;
    };
    let mut index = 0;
    while index < count {
        let at = RULES + index * RULE_BYTES;
        let Some(rule) = policy.get(at..at + RULE_BYTES) else {
            return;
        };
        let (conditions, half) = (rule[1], |at| {
            usize::from(u16::from_ne_bytes(array(rule, at)))
        });
        let from = NAMES + half(36);
        let pattern = policy.get(from..from + half(38));
        match pattern.filter(|_| conditions & condition::EXECUTABLE != 0) {
            None => index += 1,
            Some(pattern) if fits_path(pattern, executable) => {
                policy[at + 1] &= !condition::EXECUTABLE;
                index += 1;
            }
            Some(_) => {
                let end = RULES + count * RULE_BYTES;
                if end > policy.len() {
                    return;
                }
                policy.copy_within(at + RULE_BYTES..end, at);
                count -= 1;
                // It was an u32 above, and is less.
                let told = u32::try_from(count).unwrap_or(0);
                policy[4..8].copy_from_slice(&told.to_ne_bytes());
            }
        }
    }
}
