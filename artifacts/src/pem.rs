//! Public keys as PEM files, the form that tools for ed25519 exchange (RFC 7468, RFC 8410).

use base64ct::{Base64, Encoding as _};

use crate::signature::PublicKeyError;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// What stands before the 32 bytes of an ed25519 key in its `SubjectPublicKeyInfo`.
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key as a PEM file.
pub(crate) fn write_public(key: &[u8; 32]) -> String {
    let der = [&PREFIX[..], key].concat();
    format!("{BEGIN}\n{}\n{END}\n", Base64::encode_string(&der))
}

/// The public key in a PEM file.
pub(crate) fn read_public(text: &str) -> Result<[u8; 32], PublicKeyError> {
    if text.contains("PRIVATE KEY-----") {
        return Err(PublicKeyError::Secret);
    }
    let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let body: String = body.ok_or(PublicKeyError::Form)?.split_ascii_whitespace().collect();
    let der = Base64::decode_vec(&body).map_err(|_| PublicKeyError::Form)?;
    let key = der.strip_prefix(&PREFIX).ok_or(PublicKeyError::Algorithm)?;
    key.try_into().map_err(|_| PublicKeyError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8410, section 10.1.
    const EXAMPLE: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

    #[test]
    fn the_example_of_the_rfc_round_trips() {
        let key = read_public(EXAMPLE).unwrap();
        assert_eq!(key[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(write_public(&key), EXAMPLE);
        assert_eq!(read_public(&EXAMPLE.replace('\n', "\r\n")), Ok(key));
    }

    #[test]
    fn what_is_no_public_key_is_refused_by_what_it_is() {
        let refused = |text: &str| read_public(text).unwrap_err();
        assert_eq!(refused(""), PublicKeyError::Form);
        assert_eq!(refused("ssh-ed25519 AAAA"), PublicKeyError::Form);
        assert_eq!(refused(&EXAMPLE.replace("MCow", "M*ow")), PublicKeyError::Form);
        assert_eq!(refused(&EXAMPLE.replace("PUBLIC", "PRIVATE")), PublicKeyError::Secret);
        assert_eq!(refused(&EXAMPLE.replace("K2Vw", "K2Vu")), PublicKeyError::Algorithm);
        let longer = write_public(&[1; 32]).replace("AQE=", "AQEB");
        assert_eq!(refused(&longer), PublicKeyError::Form);
    }
}
