//! Sizes as people read them.

/// `1.5 GiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn the_largest_unit_with_a_whole_number_is_used() {
        assert_eq!(
            [1023, 1536, 15 << 30, 3 << 40].map(human_bytes),
            ["1023 B", "1.5 KiB", "15.0 GiB", "3.0 TiB"]
        );
    }
}
