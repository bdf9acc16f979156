//! How the server makes up a name.

/// Characters of a generated suffix: no vowels (no words), no characters that look alike; as the real server has it.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Length of a generated suffix.
const SUFFIX_LENGTH: usize = 5;

/// Longest prefix that still leaves a name of 63 characters.
const MAX_PREFIX: usize = 63 - SUFFIX_LENGTH;

/// `prefix`, cut where it is too long, and five random characters.
pub(crate) fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(MAX_PREFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4();
    let letter = |byte: &u8| char::from(SUFFIX_ALPHABET[usize::from(*byte) % SUFFIX_ALPHABET.len()]);
    let suffix: String = random.as_bytes().iter().take(SUFFIX_LENGTH).map(letter).collect();
    format!("{}{suffix}", &prefix[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_the_prefix_and_fit_a_label() {
        let name = generate_name(&"a".repeat(100));
        assert_eq!(name.len(), 63);
        assert_ne!(generate_name("x-"), generate_name("x-"));
    }
}
