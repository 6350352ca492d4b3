//! A private key under a password, as cosign keeps it: scrypt, then NaCl's secretbox, as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};

use super::error::KeyError;

/// The labels of such keys in PEM; the first one is written.
pub(super) const LABELS: [&str; 2] =
    ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// The cost that cosign writes: 64 MiB of memory.
const COST: Params = Params { n: 1 << 16, r: 8, p: 1 };

/// The most memory that opening a key takes, in bytes.
const MOST_MEMORY: u64 = 1 << 30;

const NONCE: usize = 24;

#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Derivation {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Params {
    fn derive(self, password: &str, salt: &[u8]) -> Result<XSalsa20Poly1305, KeyError> {
        let wrong =
            || KeyError::Sealed(format!("scrypt with N={} r={} p={}", self.n, self.r, self.p));
        let memory = self.n.checked_mul(u64::from(self.r)).and_then(|cells| cells.checked_mul(128));
        let fits = memory.is_some_and(|memory| memory <= MOST_MEMORY) && self.p <= 16;
        if !self.n.is_power_of_two() || !fits {
            return Err(wrong());
        }
        let log_n = u8::try_from(self.n.trailing_zeros()).map_err(|_| wrong())?;
        let params = scrypt::Params::new(log_n, self.r, self.p).map_err(|_| wrong())?;
        let mut key = [0; 32];
        scrypt::scrypt(password.as_bytes(), salt, &params, &mut key).map_err(|_| wrong())?;
        Ok(XSalsa20Poly1305::new(&key.into()))
    }
}

/// Opens what was sealed.
pub(super) fn open(sealed: &[u8], password: &str) -> Result<Vec<u8>, KeyError> {
    let form = |what: &str| KeyError::Sealed(what.to_owned());
    let sealed: Sealed =
        serde_json::from_slice(sealed).map_err(|_| form("it is not cosign's document"))?;
    if sealed.kdf.name != "scrypt" || sealed.cipher.name != "nacl/secretbox" {
        return Err(KeyError::Sealed(format!("{}, {}", sealed.kdf.name, sealed.cipher.name)));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| form("a field is not base64"));
    let nonce: [u8; NONCE] =
        bytes(&sealed.cipher.nonce)?.try_into().map_err(|_| form("its nonce has another size"))?;
    let cipher = sealed.kdf.params.derive(password, &bytes(&sealed.kdf.salt)?)?;
    let ciphertext = bytes(&sealed.ciphertext)?;
    cipher.decrypt(&Nonce::from(nonce), ciphertext.as_slice()).map_err(|_| KeyError::Password)
}

/// Seals bytes with a password.
pub(super) fn seal(bytes: &[u8], password: &str) -> Vec<u8> {
    let (salt, nonce): ([u8; 32], [u8; NONCE]) = (rand::random(), rand::random());
    let cipher = COST.derive(password, &salt).expect("the cost is within its bounds");
    let ciphertext = cipher.encrypt(&Nonce::from(nonce), bytes).expect("a key is short");
    let sealed = Sealed {
        kdf: Derivation { name: "scrypt".to_owned(), params: COST, salt: STANDARD.encode(salt) },
        cipher: Cipher { name: "nacl/secretbox".to_owned(), nonce: STANDARD.encode(nonce) },
        ciphertext: STANDARD.encode(ciphertext),
    };
    serde_json::to_vec(&sealed).expect("it is plain text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_takes_all_memory_is_refused_before_it_is_paid() {
        let mut document: serde_json::Value = serde_json::from_slice(&seal(b"x", "")).unwrap();
        for (n, r, p) in [(1_u64 << 40, 8, 1), (1 << 16, 1 << 20, 1), (1 << 16, 8, 4096), (3, 8, 1)]
        {
            document["kdf"]["params"] = serde_json::json!({"N": n, "r": r, "p": p});
            let error = open(document.to_string().as_bytes(), "").unwrap_err();
            assert!(matches!(error, KeyError::Sealed(_)), "{error}");
        }
    }
}
