//! Figures for people.

/// A time that passed, in one unit.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes a second.
pub(super) fn rate(value: f64) -> String {
    format!("{}/s", amount(value))
}

/// Bytes, with two digits at least where there are two.
pub(super) fn amount(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (value.max(0.0), 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Milliseconds.
pub(super) fn lag(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} ms") } else { format!("{:.1} s", value / 1000.0) }
}

/// `1 host`, `2 hosts`.
pub(super) fn count(number: usize, one: &str) -> String {
    let number_shown = grouped(number);
    if number == 1 { format!("1 {one}") } else { format!("{number_shown} {one}s") }
}

/// With thin spaces between thousands.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

/// `2026-11-21T10:00:00Z` from milliseconds since the epoch.
pub(super) fn timestamp(millis: u64) -> String {
    let (year, month, day) = date(millis / 86_400_000);
    format!("{year:04}-{month:02}-{day:02}T{}Z", clock(millis))
}

/// `10:00:00`, UTC.
pub(super) fn clock(millis: u64) -> String {
    let seconds = millis / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years are counted from March on, so that the leap day is the last one.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_one_unit_and_few_digits() {
        let shown: Vec<_> =
            [0.0, 999.0, 1000.0, 12_345.0, 9.96e6, 3e15].into_iter().map(amount).collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "12 kB", "10 MB", "3000 TB"]);
        assert_eq!((lag(12.4), lag(1500.0)), ("12 ms".to_owned(), "1.5 s".to_owned()));
        assert_eq!(
            (count(1, "host"), count(20_000, "endpoint")),
            ("1 host".to_owned(), "20\u{202f}000 endpoints".to_owned())
        );
        assert_eq!(age(119) + &age(120) + &age(7200), "119 s2 min2 h");
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_255_199_999), "2026-11-21T09:59:59Z");
        assert_eq!(date(20_088), (2024, 12, 31));
    }
}
