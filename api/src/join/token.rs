//! Bootstrap tokens, as Kubernetes has them: <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.

use std::fmt;
use std::str::FromStr;

/// Characters of both parts.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// A byte below this gives each character with the same chance.
const FAIR_BELOW: u8 = 252;
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Before the token's id, in the name of its Secret.
const SECRET_PREFIX: &str = "bootstrap-token-";
/// Before the token's id, in the name of who shows it.
const USER_PREFIX: &str = "system:bootstrap:";

/// A bootstrap token: six characters that name it, sixteen that prove it.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

/// A text that is no bootstrap token. The text is not shown: it may be most of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is 6 lower case letters or digits, a dot, and 16 more; `virtctl token create` prints one")]
pub struct TokenError;

impl BootstrapToken {
    /// Type of the Secret that a token is.
    pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
    /// Namespace of that Secret.
    pub const NAMESPACE: &str = "kube-system";

    /// A token of random bytes; none if they are too few (one in sixty is passed over).
    pub fn from_random(bytes: &[u8]) -> Option<Self> {
        let fair = bytes.iter().filter(|byte| **byte < FAIR_BELOW);
        let characters: String = fair
            .filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()))
            .take(ID_LENGTH + SECRET_LENGTH)
            .map(|byte| char::from(*byte))
            .collect();
        let (id, secret) = characters.split_at_checked(ID_LENGTH)?;
        (secret.len() == SECRET_LENGTH).then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The part that names it, and is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The part that proves it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Name of the Secret of the token with an id.
    pub fn secret_name(id: &str) -> String {
        format!("{SECRET_PREFIX}{id}")
    }

    /// The token's id in the name of a Secret; none if it is no token's.
    pub fn id_of_secret(name: &str) -> Option<&str> {
        name.strip_prefix(SECRET_PREFIX).filter(|id| is_part(id, ID_LENGTH))
    }

    /// The id of the token that a user has shown; none if the user has shown none.
    pub fn id_of_user(user: &str) -> Option<&str> {
        user.strip_prefix(USER_PREFIX).filter(|id| is_part(id, ID_LENGTH))
    }
}

fn is_part(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl FromStr for BootstrapToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (id, secret) = text.split_once('.').ok_or(TokenError)?;
        if !is_part(id, ID_LENGTH) || !is_part(secret, SECRET_LENGTH) {
            return Err(TokenError);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

/// Without what proves it.
impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.***)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_kubernetes_takes() {
        let token: BootstrapToken = "07401b.f395accd246ae52d".parse().unwrap();
        assert_eq!((token.id(), token.secret()), ("07401b", "f395accd246ae52d"));
        assert_eq!(token.to_string(), "07401b.f395accd246ae52d");
        assert!(!format!("{token:?}").contains("f395"), "a log never holds it");
        for text in
            ["", "07401b", "07401b.", "07401B.f395accd246ae52d", "07401b.f395accd246ae52", "7401b.f395accd246ae52d"]
        {
            assert_eq!(text.parse::<BootstrapToken>(), Err(TokenError), "{text}");
        }
    }

    #[test]
    fn random_bytes_make_one_if_there_are_enough() {
        let bytes: Vec<u8> = (0..=255).collect();
        let token = BootstrapToken::from_random(&bytes).unwrap();
        assert_eq!(token.to_string().parse::<BootstrapToken>(), Ok(token));
        assert_eq!(BootstrapToken::from_random(&bytes[..21]), None);
        assert_eq!(BootstrapToken::from_random(&[255; 100]), None, "unfair bytes are passed over");
    }

    #[test]
    fn secrets_and_users_name_their_token() {
        assert_eq!(BootstrapToken::id_of_secret(&BootstrapToken::secret_name("07401b")), Some("07401b"));
        assert_eq!(BootstrapToken::id_of_user("system:bootstrap:07401b"), Some("07401b"));
        for name in ["bootstrap-token-", "bootstrap-token-07401bx", "token-07401b"] {
            assert_eq!(BootstrapToken::id_of_secret(name), None, "{name}");
        }
        assert_eq!(BootstrapToken::id_of_user("system:bootstrap:../../x"), None);
    }
}
