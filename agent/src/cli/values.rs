//! Values of options: sizes, times, rules.

use std::time::Duration;

use agent::filter::{Condition, RuleError, UnknownFlow};
use agent::helper::User;
use agent::output::{CaptureFormat, Pace};

use super::identity::Quota;

/// What a mirrored program does where its ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// Goes on; the text is missing.
    Drop,
    /// Waits for room, this many milliseconds a call at most.
    Wait(u32),
}

impl OnFull {
    /// As the hook is told: 0 is no waiting.
    pub(crate) fn wait_ms(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Wait(ms) => ms,
        }
    }
}

pub(super) fn parse_rule(text: &str) -> Result<Condition, RuleError> {
    Condition::parse(text)
}

pub(super) fn parse_unknown_flow(text: &str) -> Result<UnknownFlow, String> {
    match text {
        "exclude" => Ok(UnknownFlow::Exclude),
        "mirror" => Ok(UnknownFlow::Mirror),
        _ => Err(format!("'{text}' is neither exclude nor mirror")),
    }
}

pub(super) fn parse_user(text: &str) -> Result<User, String> {
    User::find(text)
        .ok_or_else(|| format!("there is no user '{text}' (a name of /etc/passwd, UID or UID:GID)"))
}

pub(super) fn parse_on_full(text: &str) -> Result<OnFull, String> {
    if text == "drop" {
        return Ok(OnFull::Drop);
    }
    let ms = text
        .strip_prefix("wait:")
        .and_then(|ms| ms.parse().ok())
        .filter(|ms| (1..=mirror_hook::layout::MAX_WAIT_MS).contains(ms));
    ms.map(OnFull::Wait)
        .ok_or_else(|| format!("'{text}' is neither drop nor wait:MS with MS from 1 to 10000"))
}

/// Bytes of a file: `100M`, `2G`.
pub(super) fn parse_rotation_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1_u64),
    };
    let bytes = digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes >= 1 << 16)
        .ok_or_else(|| format!("'{text}' is no number of bytes from 64K on"))
}

/// Bytes of memory: `64M`, `1G`.
pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    parse_rotation_size(text)
        .ok()
        .filter(|bytes| *bytes >= 1 << 20)
        .ok_or_else(|| format!("'{text}' is no number of bytes from 1M on"))
}

/// A level of zstd.
pub(super) fn parse_compression(text: &str) -> Result<i32, String> {
    let level = text.parse().ok().filter(|level| (1..=3).contains(level));
    level.ok_or_else(|| format!("'{text}' is no level from 1 to 3"))
}

/// `90s`, `15m`, `24h`, `7d`.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time like 90s, 15m, 24h or 7d");
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// `pcap` or `pcapng`.
pub(super) fn parse_capture_format(text: &str) -> Result<CaptureFormat, String> {
    match text {
        "pcap" => Ok(CaptureFormat::Pcap),
        "pcapng" => Ok(CaptureFormat::Pcapng),
        _ => Err(format!("'{text}' is neither pcap nor pcapng")),
    }
}

/// Bits in a second: `500M`, `2.5G`.
pub(super) fn parse_pace(text: &str) -> Result<Pace, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        Some((at, 'G' | 'g')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let bits = number.parse::<f64>().ok().map(|number| number * unit);
    bits.and_then(Pace::bits_per_s)
        .ok_or_else(|| format!("'{text}' is no number of bits a second from 1M to 1000G"))
}

/// Bits in a second, as a number: `500K`, `2.5G`.
pub(super) fn parse_bit_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        Some((at, 'G' | 'g')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let bits = number.parse::<f64>().ok().map(|number| number * unit);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies in the range that is checked here"
    )]
    bits.filter(|bits| (1e5..=1e12).contains(bits))
        .map(|bits| bits as u64)
        .ok_or_else(|| format!("'{text}' is no number of bits a second from 100K to 1000G"))
}

/// The same, or `none`.
pub(super) fn parse_quota(text: &str) -> Result<Quota, String> {
    match text {
        "none" => Ok(Quota(None)),
        bits => parse_bit_rate(bits).map(|bits| Quota(Some(bits))),
    }
}

/// A number of bytes: `65536`, `64K`, `16M`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1024 * 1024),
            None => (text, 1),
        },
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no number of bytes"))?;
    let bytes = number
        .checked_mul(unit)
        .ok_or_else(|| format!("'{text}' is too large"))?;
    let range = mirror_hook::layout::BOOTSTRAP_BYTES..=mirror_hook::layout::MAX_DATA_BYTES;
    if !bytes.is_power_of_two() || !range.contains(&bytes) {
        return Err(format!("{bytes} isn't a power of two from 64K to 64M"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_has_a_bound() {
        assert_eq!(parse_on_full("drop"), Ok(OnFull::Drop));
        assert_eq!(parse_on_full("wait:250"), Ok(OnFull::Wait(250)));
        for bad in [
            "",
            "wait",
            "wait:",
            "wait:0",
            "wait:10001",
            "wait:-1",
            "block",
        ] {
            assert!(parse_on_full(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paces() {
        for good in ["1M", "1000K", "500M", "2.5G", "1000000"] {
            assert!(parse_pace(good).is_ok(), "{good}");
        }
        for bad in ["", "M", "0", "999K", "-1M", "nanM", "infG", "1001G", "1T"] {
            assert!(parse_pace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bit_rates() {
        assert_eq!(parse_bit_rate("2.5M"), Ok(2_500_000));
        assert_eq!(parse_bit_rate("100000"), Ok(100_000));
        assert_eq!(parse_quota("5M"), Ok(Quota(Some(5_000_000))));
        assert_eq!(parse_quota("none"), Ok(Quota(None)));
        for bad in ["", "M", "99K", "nanM", "1001G", "-1G"] {
            assert!(parse_bit_rate(bad).is_err(), "{bad}");
            assert!(parse_quota(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_follow_by_size_and_time() {
        assert_eq!(parse_rotation_size("100M"), Ok(100 << 20));
        assert_eq!(parse_time("15m"), Ok(Duration::from_secs(900)));
        for bad in ["", "0", "1K", "x", "M", "1.5G", "99999999999999999999G"] {
            assert!(parse_rotation_size(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "0s", "90", "1w", "-1s", "1\u{e9}"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        for bad in ["", "x", "3M", "1K", "128M", "99999999999999999999M"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
