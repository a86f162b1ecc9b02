//! HPKE (RFC 9180) for rustls' clients that offer an Encrypted Client Hello (RFC 9849), which neither *ring* nor Graviola
//! brings: X25519, HKDF-SHA256, AES-128-GCM, by the crate `hpke`.

use hpke::aead::{AeadCtxR, AeadCtxS, AesGcm128};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use rustls::Error;
use rustls::crypto::hpke::{
    EncapsulatedSecret, Hpke, HpkeOpener, HpkePrivateKey, HpkePublicKey, HpkeSealer, HpkeSuite,
};
use rustls::internal::msgs::enums::{HpkeAead, HpkeKdf, HpkeKem};
use rustls::internal::msgs::handshake::HpkeSymmetricCipherSuite;

/// The suite that each implementation has to have (RFC 9849 9).
pub static MANDATORY: &dyn Hpke = &Mandatory;

#[derive(Debug)]
struct Mandatory;

impl Hpke for Mandatory {
    fn seal(
        &self,
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
        pub_key: &HpkePublicKey,
    ) -> Result<(EncapsulatedSecret, Vec<u8>), Error> {
        let (secret, mut sealer) = self.setup_sealer(info, pub_key)?;
        Ok((secret, sealer.seal(aad, plaintext)?))
    }

    fn setup_sealer(
        &self,
        info: &[u8],
        pub_key: &HpkePublicKey,
    ) -> Result<(EncapsulatedSecret, Box<dyn HpkeSealer>), Error> {
        let key = Deserializable::from_bytes(&pub_key.0).map_err(said)?;
        let (secret, context) =
            hpke::setup_sender::<_, _, X25519HkdfSha256>(&OpModeS::Base, &key, info)
                .map_err(said)?;
        let secret = EncapsulatedSecret(secret.to_bytes().to_vec());
        Ok((secret, Box::new(Sealer(context))))
    }

    fn open(
        &self,
        enc: &EncapsulatedSecret,
        info: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
        secret_key: &HpkePrivateKey,
    ) -> Result<Vec<u8>, Error> {
        self.setup_opener(enc, info, secret_key)?
            .open(aad, ciphertext)
    }

    fn setup_opener(
        &self,
        enc: &EncapsulatedSecret,
        info: &[u8],
        secret_key: &HpkePrivateKey,
    ) -> Result<Box<dyn HpkeOpener>, Error> {
        let key = Deserializable::from_bytes(secret_key.secret_bytes()).map_err(said)?;
        let secret = Deserializable::from_bytes(&enc.0).map_err(said)?;
        let context =
            hpke::setup_receiver::<_, _, X25519HkdfSha256>(&OpModeR::Base, &key, &secret, info)
                .map_err(said)?;
        Ok(Box::new(Opener(context)))
    }

    fn generate_key_pair(&self) -> Result<(HpkePublicKey, HpkePrivateKey), Error> {
        let (secret, public) = X25519HkdfSha256::gen_keypair();
        let public = HpkePublicKey(public.to_bytes().to_vec());
        Ok((public, secret.to_bytes().to_vec().into()))
    }

    fn suite(&self) -> HpkeSuite {
        HpkeSuite {
            kem: HpkeKem::DHKEM_X25519_HKDF_SHA256,
            sym: HpkeSymmetricCipherSuite {
                kdf_id: HpkeKdf::HKDF_SHA256,
                aead_id: HpkeAead::AES_128_GCM,
            },
        }
    }
}

struct Sealer(AeadCtxS<AesGcm128, HkdfSha256, X25519HkdfSha256>);

impl HpkeSealer for Sealer {
    fn seal(&mut self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.seal(plaintext, aad).map_err(said)
    }
}

struct Opener(AeadCtxR<AesGcm128, HkdfSha256, X25519HkdfSha256>);

impl HpkeOpener for Opener {
    fn open(&mut self, aad: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.open(ciphertext, aad).map_err(said)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

fn said(error: HpkeError) -> Error {
    Error::General(format!("HPKE: {error}"))
}
